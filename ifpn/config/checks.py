"""What cannot work is refused before anything is built: values outside their bounds, choices without meaning.

A bound stands in the signature of the constructor that takes the value (`ifpn.bounds`); the rules here are those
between settings.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from ifpn.bounds import hints, shown, violation
from ifpn.config.foreign import ENTRIES, SETTINGS, foreign_signature
from ifpn.config.migration import new_key
from ifpn.errors import ConfigError

HYDRAS = ("_target_", "_partial_", "_args_", "_recursive_", "_convert_")


def check_config(cfg: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Refuse what cannot work. The `_target_`s of `cfg` have been checked.

    Args:
        cfg: resolved configuration.
        overrides: as typed.
        choices: option of each group.

    Raises:
        ConfigError: for the first value that is missing or outside its bounds, or a choice without meaning.
    """
    _check_missing(cfg)
    # Single settings first, then the groups before those that refer to them: the shortest path is what was typed.
    plain = OmegaConf.to_container(cfg)
    assert isinstance(plain, dict)
    for key in sorted(plain, key=lambda key: (isinstance(plain[key], dict), key in ("neck", "logger"))):
        check_values(plain[key], str(key))
    _check_choices(cfg, overrides, choices.get("neck"))
    _check_parts_of_g(cfg, overrides, choices.get("neck"))
    if "schedule" in cfg:
        _check_schedule(cfg.schedule)
        _check_recipe(overrides)
    wandb = (cfg.get("logger") or {}).get("wandb") or {}
    if wandb.get("offline") and wandb.get("log_model"):
        raise ConfigError(
            "logger.wandb.log_model=true: must be false with logger.wandb.offline=true, which uploads nothing."
        )
    if "image" in cfg and max(cfg.image.min_size) > cfg.image.max_size:
        raise ConfigError(
            f"image.min_size={shown(list(cfg.image.min_size))}: must be at most image.max_size={cfg.image.max_size}. "
            "The first is the shorter side of the network's input, the second bounds the longer one."
        )
    if "batch_size" in cfg and (typed := _named(overrides, "data.batch_size")):
        raise ConfigError(f"{typed} has no meaning here. Say how many images at a time with batch_size=….")


def check_values(node: Any, path: str) -> None:
    """Check every value at and below `path` against the signature that takes it.

    Raises:
        ConfigError: for the first outside its bounds, and for a key that its class does not take.
    """
    if path in SETTINGS:
        _check_value(path, node, SETTINGS[path])
    elif isinstance(node, Mapping):
        known, others = signature(str(node["_target_"])) if "_target_" in node else ({}, True)
        for key, value in node.items():
            below = f"{path}.{key}"
            if key in HYDRAS:
                continue
            if key not in known and not others:
                raise ConfigError(_unknown(below, value, sorted(known)))
            _check_value(below, value, known.get(key, ENTRIES.get(path, Any)))
            check_values(value, below)
    elif isinstance(node, list):
        for i, value in enumerate(node):
            check_values(value, f"{path}[{i}]")


def _check_value(path: str, value: Any, hint: Any) -> None:
    if isinstance(value, Mapping) and "_target_" in value:
        return
    if allowed := violation(hint, value):
        raise ConfigError(f"{path}={shown(value)}: must be {allowed}.")


@cache
def signature(target: str) -> tuple[Mapping[str, Any], bool]:
    """(what each setting of a class or function may be, whether it takes settings that are not named)."""
    foreign = foreign_signature(target)
    call: Callable[..., Any] = get_object(target)
    parameters = inspect.signature(call).parameters
    others = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    own = hints(call) if target.startswith("ifpn.") and not foreign else {}
    return {name: foreign.get(name, own.get(name, Any)) for name in {*parameters, *foreign}}, others


def _unknown(path: str, value: Any, known: Sequence[str]) -> str:
    if moved := new_key(path):
        return f"{path} is now {moved}."
    parent, _, key = path.rpartition(".")
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{path}={shown(value)}: {parent} has no such setting. It takes {', '.join(known)}.{hint}"


def _check_missing(cfg: DictConfig) -> None:
    missing = sorted(str(key) for key in OmegaConf.missing_keys(cfg))
    if missing:
        example = {"data.root": "data.root=~/my_dataset (a folder with images and COCO-format annotations)"}
        raise ConfigError(
            f"{missing[0]} has no value: give it on the command line, {example.get(missing[0], missing[0] + '=…')}."
        )


def _named(overrides: Sequence[str], group: str) -> str | None:
    """The override that chose or changed `group`, as typed, or None."""
    for text in overrides:
        key = text.partition("=")[0].lstrip("+~")
        if key == group or key.startswith(f"{group}."):
            return text
    return None


def _check_choices(cfg: DictConfig, overrides: Sequence[str], neck: str | None) -> None:
    if "neck" not in cfg:
        return
    for group, lacks, others in (
        ("solver", "solves no fixed point", "neck=implicit or neck=mdeq"),
        ("csc", "contains no exchangeable cross-scale block", "neck=implicit or neck=stack"),
    ):
        typed = _named(overrides, group)
        if typed and group not in cfg.neck:
            raise ConfigError(f"{typed} has no meaning with neck={neck}, which {lacks}. Leave it out, or use {others}.")


# Necks that contain parts of G only if a switch says so: the switch, and the settings of these parts.
OF_G = {
    "fpn": ("residual_block", ("weight_norm", "dropout")),
    "stack": ("inject", ("residual_block", "weight_norm", "dropout", "output_norm", "input_norm", "add_input")),
}


def _check_parts_of_g(cfg: DictConfig, overrides: Sequence[str], neck: str | None) -> None:
    switch, settings = OF_G.get(neck or "", ("", ()))
    if not switch or cfg.neck[switch]:
        return
    for setting in settings:
        typed = _named(overrides, f"neck.{setting}")
        if typed:
            raise ConfigError(
                f"{typed} has no meaning with neck={neck} and neck.{switch}=false. Leave it out, or set "
                f"neck.{switch}=true."
            )
    if neck == "stack" and cfg.csc._target_ == "ifpn.csc.NoFusion":
        raise ConfigError("csc=none with neck=stack is a stack of nothing. Use neck=none, or another csc.")


def _check_schedule(schedule: DictConfig) -> None:
    if (schedule.max_steps is None) == (schedule.max_epochs is None):
        allowed = "a number" if schedule.max_steps is None else "null"
        raise ConfigError(
            f"schedule.max_steps={shown(schedule.max_steps)}: must be {allowed} with "
            f"schedule.max_epochs={shown(schedule.max_epochs)}. Give one of the two, and null for the other."
        )
    milestones = schedule.curve.get("milestones")
    if milestones is not None and list(milestones) != sorted(set(milestones)):
        raise ConfigError(f"schedule.curve.milestones={shown(list(milestones))}: must increase.")


def _check_recipe(overrides: Sequence[str]) -> None:
    """Until 0.3: these two used to set the size of images and batches as well."""
    named = {"schedule=1x": "paper", "schedule=2x": "paper_2x"}
    typed = next((text for text in overrides if text in named), None)
    if typed and not _named(overrides, "recipe"):
        raise ConfigError(
            f"{typed}: no longer sets image and batch size. Use recipe={named[typed]}, "
            "or name the recipe you want it with."
        )


def check_buildable(cfg: DictConfig) -> None:
    """Build the detector without memory or weights: what only its parts know of each other comes to light here.

    Raises:
        ConfigError: a part refuses its settings beside the others', or `backbone.weights` is a file that cannot be
            read; the message begins with the setting's path.
    """
    import torch

    from ifpn.backbones.weights import FROM_CHECKPOINT, read_state
    from ifpn.config.build import build_detector, naming_settings

    if cfg.backbone.get("weights") not in ("imagenet", "none", FROM_CHECKPOINT):
        with naming_settings({"backbone": cfg.backbone}):
            read_state(cfg.backbone.weights)
    empty = OmegaConf.merge(cfg, {"backbone": {"weights": FROM_CHECKPOINT}, "compile": False})
    assert isinstance(empty, DictConfig)
    nodes = {part: cfg[part] for part in ("csc", "solver", "neck", "detector", "backbone") if cfg.get(part)}
    with naming_settings(nodes), torch.device("meta"):
        build_detector(empty, num_classes=2)

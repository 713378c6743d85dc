"""What each setting may be, and which choices have no meaning together. Checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ifpn.errors import ConfigError

Check = Callable[[Any], bool]

# Necks that solve for a fixed point, and necks that are made of cross-scale blocks.
SOLVING_NECKS = ("implicit", "mdeq")
BLOCK_NECKS = ("implicit", "stack")


@dataclass(frozen=True)
class Allowed:
    """A test of a value, and the words that tell a user what passes it."""

    words: str
    test: Check


def whole(low: int, high: int | None = None) -> Allowed:
    words = f"a whole number, {low} or more" if high is None else f"a whole number from {low} to {high}"
    return Allowed(words, lambda v: _is_int(v) and v >= low and (high is None or v <= high))


def number(low: float, high: float = math.inf, *, open_low: bool = False) -> Allowed:
    above = f"above {low:g}" if open_low else f"{low:g} or more"
    words = f"a number {above}" if high == math.inf else f"a number {above}, at most {high:g}"
    return Allowed(words, lambda v: _is_number(v) and v <= high and (v > low if open_low else v >= low))


def one_of(*values: object) -> Allowed:
    return Allowed(f"one of {', '.join(map(str, values))}", lambda v: v in values and type(v) in map(type, values))


def optional(allowed: Allowed) -> Allowed:
    return Allowed(f"{allowed.words}, or null", lambda v: v is None or allowed.test(v))


def list_of(allowed: Allowed) -> Allowed:
    def test(v: Any) -> bool:
        return isinstance(v, Sequence) and not isinstance(v, str) and len(v) > 0 and all(map(allowed.test, v))

    return Allowed(f"a list ([a, b]) of {allowed.words}", test)


def _is_int(v: Any) -> bool:
    return isinstance(v, int) and not isinstance(v, bool)


def _is_number(v: Any) -> bool:
    return isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)


SWITCH = Allowed("true or false", lambda v: isinstance(v, bool))
EVALS = whole(1, 1000)

RULES: dict[str, Allowed] = {
    "seed": whole(0, 2**31 - 1),
    "solver.train_evals": EVALS,
    "solver.test_evals": EVALS,
    "solver.steps": whole(0, 1000),
    "solver.rtol": number(0, 1),
    "solver.atol": number(0),
    "solver.backward.max_vjps": EVALS,
    "solver.backward.rtol": number(0, 1),
    "solver.backward.steps": EVALS,
    "solver.backward.tau": number(0, 1, open_low=True),
    "solver.backward.solver.alpha": number(0, 1, open_low=True),
    "solver.backward.solver.beta": number(0, 1, open_low=True),
    "solver.backward.solver.m": whole(1, 50),
    "solver.backward.solver.memory": whole(1),
    "solver.backward.solver.limit": number(1),
    "solver.forward.alpha": number(0, 1, open_low=True),
    "solver.forward.beta": number(0, 1, open_low=True),
    "solver.forward.tau": number(0, 1, open_low=True),
    "solver.forward.m": whole(1, 50),
    "solver.forward.memory": whole(1),
    "neck.out_channels": whole(1, 4096),
    "neck.residual_block": SWITCH,
    "neck.weight_norm": SWITCH,
    "neck.output_norm": SWITCH,
    "neck.input_norm": SWITCH,
    "neck.add_input": SWITCH,
    "neck.compile": SWITCH,
    "neck.dropout": number(0, 0.9),
    "neck.jacobian_penalty": number(0),
    "neck.start": one_of("zero", "learned"),
    "neck.fine_every": whole(1, 8),
    "neck.block": one_of("basic", "post_norm"),
    "neck.jacobian_every": number(0.001, 1),
    "neck.contraction_penalty": number(0),
    "neck.contraction_margin": number(0),
    "neck.correction_weight": number(0),
    "neck.repeats": whole(1, 100),
    "neck.inject": SWITCH,
    "neck.norm": one_of("none", "gn", "bn"),
    "csc.norm": one_of("none", "gn", "bn"),
    "detector.extra_levels": one_of("p5", "c5", "none"),
    "schedule.optimizer.lr": number(0, open_low=True),
    "schedule.optimizer.weight_decay": number(0),
    "schedule.norm_weight_decay": number(0),
    "schedule.backbone_lr": number(0, 1, open_low=True),
    "schedule.curve.gamma": number(0, 1, open_low=True),
    "schedule.curve.warmup_steps": whole(0),
    "schedule.curve.warmup_factor": number(0, 1),
    "schedule.curve.final_factor": number(0, 1),
    "schedule.curve.milestones": list_of(whole(1)),
    "schedule.max_steps": optional(whole(1)),
    "schedule.max_epochs": optional(whole(1)),
    "data.batch_size": whole(1, 4096),
    "batch_size": whole(1, 4096),
    "schedule.base_batch_size": whole(1),
    "schedule.scaling": one_of("linear", "none"),
    "schedule.gradient_clip": optional(number(0, open_low=True)),
    "schedule.val_every": optional(whole(1)),
    "image.min_size": list_of(whole(32, 8192)),
    "image.max_size": whole(32, 16384),
    "detector.num_convs": whole(0, 16),
    "detector.score_threshold": number(0, 1),
    "detector.nms_threshold": number(0, 1),
    "detector.top_k": whole(1),
    "detector.max_detections": whole(1),
    "detector.prior": number(0, 1, open_low=True),
    "detector.alpha": number(0, 1),
    "detector.gamma": number(0),
    "detector.box_weight": number(0),
    "detector.deformable": SWITCH,
    "detector.centre_radius": optional(number(0, open_low=True)),
    "detector.num_candidates": whole(1),
    "detector.anchor_scale": number(0, open_low=True),
    "detector.momentum": number(0, 1),
    "detector.initial_positives": number(0, open_low=True),
    "detector.foreground_iou": number(0, 1),
    "detector.background_iou": number(0, 1),
    "detector.hidden": whole(1),
    "detector.pool_size": whole(1),
    "detector.batch_size": whole(1),
    "detector.rpn_batch_size": whole(1),
    "detector.positive_fraction": number(0, 1),
    "detector.rpn_positive_fraction": number(0, 1),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.log_every_n_steps": whole(1),
    "trainer.num_nodes": whole(1),
    "callbacks.solver_monitor.spectral_every": optional(whole(1)),
    "callbacks.solver_monitor.spectral_products": whole(1, 1000),
    "callbacks.solver_monitor.residual_limit": number(0, open_low=True),
    "callbacks.solver_monitor.patience": whole(1),
    "callbacks.pictures.every": whole(1),
    "callbacks.pictures.samples": whole(1, 64),
    "callbacks.pictures.score_threshold": number(0, 1),
    "score_threshold": number(0, 1),
    "on_bad_image": one_of("skip", "refuse"),
    "confusion.iou_threshold": number(0, 1, open_low=True),
    "confusion.score_threshold": number(0, 1),
    "test_evals": optional(EVALS),
}


def check_rules(cfg: DictConfig, overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    """Raise ConfigError for the first value outside its allowed set, a missing value, or a choice without meaning."""
    _check_missing(cfg)
    for path, allowed in RULES.items():
        value = _plain(OmegaConf.select(cfg, path, default=_ABSENT))
        if value is not _ABSENT and not allowed.test(value):
            raise ConfigError(f"{path}={_shown(value)} is not allowed: it must be {allowed.words}.")
    _check_choices(overrides, choices)
    _check_parts_of_g(cfg, overrides, choices.get("neck"))
    if "schedule" in cfg and "max_steps" in cfg.schedule:
        _check_schedule(cfg.schedule)
        _check_recipe(overrides)
    if "image" in cfg and max(cfg.image.min_size) > cfg.image.max_size:
        raise ConfigError(
            f"image.min_size={list(cfg.image.min_size)} exceeds image.max_size={cfg.image.max_size}: "
            "the first is the shorter side of the network's input, the second bounds the longer one."
        )
    if "batch_size" in cfg and (typed := _named(overrides, "data.batch_size")):
        raise ConfigError(f"{typed} has no meaning here: say how many images at a time with batch_size=….")


_ABSENT = object()


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


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


def _check_choices(overrides: Sequence[str], choices: Mapping[str, str | None]) -> None:
    neck = choices.get("neck")
    typed = _named(overrides, "solver")
    if typed and neck is not None and neck not in SOLVING_NECKS:
        raise ConfigError(
            f"{typed} has no meaning with neck={neck}, which solves no fixed point: "
            f"leave it out, or choose neck={' or neck='.join(SOLVING_NECKS)}."
        )
    typed = _named(overrides, "csc")
    if typed and neck is not None and neck not in BLOCK_NECKS:
        raise ConfigError(
            f"{typed} has no meaning with neck={neck}, which contains no exchangeable cross-scale block: "
            f"leave it out, or choose neck={' or neck='.join(BLOCK_NECKS)}."
        )


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
                f"{typed} has no meaning with neck={neck} and neck.{switch}=false: leave it out, or set "
                f"neck.{switch}=true."
            )
    if neck == "stack" and cfg.csc._target_ == "ifpn.csc.NoFusion":
        raise ConfigError("csc=none with neck=stack is a stack of nothing: choose neck=none, or another csc.")


def _check_schedule(schedule: DictConfig) -> None:
    if (schedule.max_steps is None) == (schedule.max_epochs is None):
        raise ConfigError(
            f"schedule.max_steps={_shown(schedule.max_steps)} and schedule.max_epochs={_shown(schedule.max_epochs)}: "
            "exactly one of the two must be a number and the other null."
        )
    milestones = schedule.curve.get("milestones")
    if milestones is not None and list(milestones) != sorted(set(milestones)):
        raise ConfigError(f"schedule.curve.milestones={list(milestones)} must increase.")


def _check_recipe(overrides: Sequence[str]) -> None:
    """Until 0.3: these two used to set the size of images and batches as well."""
    named = {"schedule=1x": "paper", "schedule=2x": "paper_2x"}
    typed = next((text for text in overrides if text in named), None)
    if typed and not _named(overrides, "recipe"):
        raise ConfigError(
            f"{typed}: no longer sets image and batch size. Use recipe={named[typed]}, "
            "or name the recipe you want it with."
        )

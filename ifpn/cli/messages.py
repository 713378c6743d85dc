"""Errors of Hydra, OmegaConf and ours in one paragraph that says what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ifpn.config.migration import new_key
from ifpn.errors import NO_ROOM, UserError

# What other programs call a setting: (setting of ours, the answer), the first that the command at hand has; {} is the
# typed value.
_SIZE = ("size", "size={}")
_FILE = ("ckpt", "ckpt={}")
_OUT = ("out", "out={}")
FOREIGN: dict[str, tuple[tuple[str, str], ...]] = {
    **dict.fromkeys(("epochs", "max_epochs", "num_epochs"), (("schedule.max_epochs", "schedule.max_epochs={}"),)),
    **dict.fromkeys(
        ("steps", "max_steps", "max_iter"),
        (("schedule.max_steps", "schedule.max_steps={} schedule.max_epochs=null"),),
    ),
    **dict.fromkeys(
        ("imgsz", "img_size", "image_size"),
        (("image.min_size", "image.min_size=[{}], and image.max_size for the longer side"), _SIZE),
    ),
    **dict.fromkeys(("lr", "lr0", "learning_rate"), (("schedule.optimizer.lr", "schedule.optimizer.lr={}"),)),
    **dict.fromkeys(
        ("batch", "batch_size"),
        (("batch_size", "batch_size={}"), ("data.batch_size", "data.batch_size={}"), ("batch", "batch={}")),
    ),
    "weight_decay": (("schedule.optimizer.weight_decay", "schedule.optimizer.weight_decay={}"),),
    **dict.fromkeys(("workers", "num_workers"), (("data.workers", "data.workers={}"),)),
    **dict.fromkeys(
        ("device", "devices", "gpus"),
        (("trainer", "trainer=cpu|gpu|ddp, and trainer.devices for how many"), ("device", "device=cpu or device=cuda")),
    ),
    **dict.fromkeys(
        ("weights", "pretrained", "checkpoint"),
        (("init", "init={} for a whole detector, backbone.weights={} for a backbone's"), _FILE),
    ),
    "model": (("detector", "detector=…, neck=… and backbone=…"), _FILE),
    **dict.fromkeys(
        ("tta", "augment"),
        (("flip", "flip=true and size=[…]"), ("schedule", "flip=true and size=[…], of predict and evaluate")),
    ),
    "resume": (("schedule", "ckpt=last run_dir=FOLDER"), _FILE),
    **dict.fromkeys(("output_dir", "save_dir", "project", "name", "output"), (("run_dir", "run_dir={}"), _OUT)),
    **dict.fromkeys(
        ("conf", "confidence", "threshold"),
        (("score_threshold", "score_threshold={}"), ("schedule", "score_threshold={}, of predict")),
    ),
    "solver.test_evals": (("test_evals", "test_evals={}"),),
}


def format_error(error: BaseException, typed: Sequence[str] = ()) -> str:
    """Return the message for an error; `typed` are the arguments of the command line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):  # an OSError too
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        return _no_setting(error)
    if isinstance(error, OSError):
        remedy = "free some space" if error.errno in NO_ROOM else "make it readable and writable, or name another place"
        return f"{error.filename or 'a file of the run'}: {error.strerror or error}. What to do: {remedy}."
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, OmegaConfBaseException) and "is not in struct" in str(cause):
        return _unknown_key(cause, typed)
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(cause)):
        return f"{missing[1]} has no value: give it on the command line, {missing[1]}=…."
    if isinstance(error, InstantiationException) and error.__cause__ is not None:
        return f"{error.__cause__} (while building {_last_line(error)})"
    return " ".join(str(error).split())


def _missing_option(error: MissingConfigException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    options = [line for line in (error.options or []) if line] if error.options else []
    wanted = error.missing_cfg_file or ""
    group, _, name = wanted.rpartition("/")
    close = difflib.get_close_matches(name, options, n=1)
    hint = f" Did you mean {group}={close[0]}?" if close else ""
    if not options:
        return " ".join(lines)
    return f"{group}={name} does not exist. Allowed: {', '.join(sorted(options))}.{hint}"


def _no_setting(error: OverrideParseException) -> str:
    """A word of the command line that Hydra's grammar cannot read."""
    word = error.override
    if "=" in word:
        reason = " ".join(str(error).splitlines()[1:2])
        return f"{word}: cannot be read ({reason}). Quote what is no word or list: 'KEY=\"VALUE\"'."
    path = Path(word).expanduser()
    uses = {"predict": "source", "train": "data=coco data.root", "report": "runs"}
    named = [f"{key}={word} ({command})" for command, key in uses.items()]
    named = [f"ckpt={word}"] if path.suffix in (".ckpt", ".onnx") else named
    hint = f" A path needs its setting: {', '.join(named)}." if path.exists() else ""
    return f"{word}: must be a setting, KEY=VALUE without spaces around the sign.{hint}"


def _unknown_key(cause: OmegaConfBaseException, typed: Sequence[str]) -> str:
    full_key = str(getattr(cause, "full_key", "") or "")
    # As typed: Hydra names the first part that is missing, the table the whole key.
    parent_path, _, key = full_key.rpartition(".")
    parent: Any = getattr(cause, "parent_node", None)
    for argument in typed:
        name, _, value = argument.lstrip("+~").partition("=")
        if f"{name}.".startswith(f"{full_key}."):
            if moved := new_key(name):
                return f"{name} is now {moved}."
            if ours := _ours(name, parent):
                return f"{argument}: there is no such setting here. Use {ours.replace('{}', value)}."
    allowed = [str(k) for k in parent if not str(k).startswith("_")] if isinstance(parent, DictConfig) else []
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    where = f"'{parent_path}'" if parent_path else "The configuration"
    return f"{full_key} does not exist. {where} has: {', '.join(allowed)}.{hint}"


def _ours(name: str, config: Any) -> str:
    """What a foreign name at the top level is called by the command with this configuration; empty: unknown."""
    nothing = object()
    for setting, answer in FOREIGN.get(name, ()) if isinstance(config, DictConfig) else ():
        there = setting in list(config) or OmegaConf.select(config, setting, default=nothing) is not nothing
        if there:
            return answer
    return ""


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("full_key: ") if lines else type(error).__name__

"""Errors of Hydra, OmegaConf and ours in one paragraph that says what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from hydra.errors import InstantiationException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ifpn.config.migration import new_key
from ifpn.errors import NO_ROOM, UserError

# What other programs call a setting of train.py, at the top level; {} is the typed value.
FOREIGN = {
    **dict.fromkeys(("epochs", "max_epochs", "num_epochs"), "schedule.max_epochs={}"),
    **dict.fromkeys(("steps", "max_steps", "max_iter"), "schedule.max_steps={} schedule.max_epochs=null"),
    **dict.fromkeys(("imgsz", "img_size", "image_size"), "image.min_size=[{}], and image.max_size for the longer side"),
    **dict.fromkeys(("lr", "lr0", "learning_rate"), "schedule.optimizer.lr={}"),
    **dict.fromkeys(("batch", "batch_size"), "data.batch_size={}"),
    "weight_decay": "schedule.optimizer.weight_decay={}",
    **dict.fromkeys(("workers", "num_workers"), "data.workers={}"),
    **dict.fromkeys(("device", "devices", "gpus"), "trainer=cpu|gpu|ddp, and trainer.devices for how many"),
    **dict.fromkeys(("weights", "pretrained"), "backbone.weights={}, or init={} for a whole detector"),
    **dict.fromkeys(("tta", "augment"), "flip=true and size=[…], of predict and evaluate"),
    "resume": "ckpt=last run_dir=FOLDER",
    **dict.fromkeys(("output_dir", "save_dir", "project", "name"), "run_dir={}"),
    "model": "detector=…, neck=… and backbone=…",
}


def format_error(error: BaseException, typed: Sequence[str] = ()) -> str:
    """Return the message for an error; `typed` are the arguments of the command line."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):  # an OSError too
        return _missing_option(error)
    if isinstance(error, OSError):
        remedy = "free some space" if error.errno in NO_ROOM else "make it readable and writable, or name another place"
        return f"{error.filename or 'a file of the run'}: {error.strerror or error}. What to do: {remedy}."
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(cause, OmegaConfBaseException) and "is not in struct" in str(cause):
        return _unknown_key(cause, typed)
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


def _unknown_key(cause: OmegaConfBaseException, typed: Sequence[str]) -> str:
    full_key = str(getattr(cause, "full_key", "") or "")
    # As typed: Hydra names the first part that is missing, the table the whole key.
    for argument in typed:
        key, _, value = argument.lstrip("+~").partition("=")
        if f"{key}.".startswith(f"{full_key}.") and (moved := new_key(key)):
            return f"{key} is now {moved}."
        if key == full_key and key in FOREIGN:
            return f"{argument}: there is no such setting here. Use {FOREIGN[key].replace('{}', value)}."
    parent_path, _, key = full_key.rpartition(".")
    parent: Any = getattr(cause, "parent_node", None)
    allowed = [str(k) for k in parent if not str(k).startswith("_")] if isinstance(parent, DictConfig) else []
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    where = f"'{parent_path}'" if parent_path else "the configuration"
    return f"{full_key} does not exist. {where} has: {', '.join(allowed)}.{hint}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("full_key: ") if lines else type(error).__name__

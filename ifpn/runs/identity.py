"""When are two runs the same computation, and in which folder does a job of a sweep live."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from ifpn.config.migration import migrate

# These change where a run lies or how it is watched, not what it computes.
NOT_HASHED = ("run_dir", "ckpt", "logger", "callbacks")
LONGEST_NAME = 200  # bytes; file systems allow 255


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that two runs share exactly when they compute the same thing, in whatever version's keys."""
    config = migrate(config)
    kept = {key: value for key, value in config.items() if key not in NOT_HASHED}
    if isinstance(kept.get("data"), Mapping):  # the same pixels, kept or read anew
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in ("cache", "cache_gib")}
    # Of the callbacks these change the weights that come out.
    callbacks = config.get("callbacks") or {}
    kept["ema"] = callbacks.get("ema")
    kept["nonfinite"] = (callbacks.get("nonfinite") or {}).get("policy")
    # Younger than 0.1: left out where they are off, so that older runs keep their hash.
    young = {"init": kept.pop("init", None), "early_stopping": callbacks.get("early_stopping")}
    kept |= {name: value for name, value in young.items() if value is not None}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def folder_name(subdir: str) -> str:
    """A job's folder: Hydra's `hydra.sweep.subdir`, e.g. `csc=dense,seed=1`, as the name of one folder.

    An override that holds a path would make a tree of folders, and file systems limit the length: such names are
    shortened, and a few digits of a hash keep them apart.
    """
    safe = re.sub(r"[/\\\0\n]", "-", subdir) or "defaults"
    if safe.startswith("."):
        safe = f"_{safe}"
    if safe != subdir or len(safe.encode()) > LONGEST_NAME:
        digits = hashlib.sha256(subdir.encode()).hexdigest()[:8]
        start = safe.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        safe = f"{start}_{digits}"
    return safe

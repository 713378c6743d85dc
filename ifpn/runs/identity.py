"""When are two runs the same computation, and in which folder does a job of a sweep live."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
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
    data = config.get("data")
    if isinstance(data, Mapping) and data.get("generate"):  # the pictures are the same, wherever they lie
        kept["data"] = {key: value for key, value in data.items() if key != "root"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def split_overrides(text: str) -> list[str]:
    """Split Hydra's `hydra.job.override_dirname`, `csc=dense,image.min_size=[64,96]`, into overrides."""
    return re.split(r",(?=[+~]*[\w./@]+=)", text)


def swept_first(overrides: Iterable[str], swept: Collection[str]) -> list[str]:
    """The overrides of the settings `swept` before the others."""
    return sorted(overrides, key=lambda override: override.partition("=")[0] not in swept)


def folder_name(subdir: str, swept: Collection[str] = ()) -> str:
    """A job's folder: Hydra's `hydra.sweep.subdir`, e.g. `csc=dense,seed=1`, as the name of one folder.

    An override that holds a path would make a tree of folders, and file systems limit the length: such names are
    shortened, and a few digits of a hash keep them apart. What is `swept` stands first, so that it is still seen.
    """
    shown = ",".join(swept_first(split_overrides(subdir), swept))
    safe = re.sub(r"[/\\\0\n]", "-", shown) or "defaults"
    if safe.startswith("."):
        safe = f"_{safe}"
    if safe != shown or len(safe.encode()) > LONGEST_NAME:
        start = safe.encode()[: LONGEST_NAME - 9].decode(errors="ignore")
        safe = start + _digits(subdir)
    return safe


def job_folder(sweep: Path, subdir: str, swept: Collection[str]) -> Path:
    """The folder of a job in `sweep`: the one that it had when other settings were swept, or a new one."""
    name, digits = folder_name(subdir, swept), _digits(subdir)

    def same(other: str) -> bool:
        return other.endswith(digits) if name.endswith(digits) else sorted(other.split(",")) == sorted(name.split(","))

    there = [f for f in sweep.iterdir() if f.is_dir() and same(f.name)] if sweep.is_dir() else []
    return min(there, default=sweep / name)


def _digits(subdir: str) -> str:
    return "_" + hashlib.sha256(subdir.encode()).hexdigest()[:8]

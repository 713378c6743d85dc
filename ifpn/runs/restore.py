"""From a checkpoint or an export to its detector: checked, built no larger than its weights, and filled."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import nn

from ifpn.config.stored import rebuild_detector
from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.runs.export import KEPT, read_export
from ifpn.runs.hub import fetch, on_hub

PREFIX = "detector."


def read_trained(path: str | Path, setting: str = "ckpt") -> dict[str, Any]:
    """Read a checkpoint, or the folder or .safetensors file of an export: {"state_dict", "ifpn", ...}.

    Args:
        path: of the file or folder, or `hf://user/name@revision`, whose commit is then printed.
        setting: the one that named it, for messages.

    Raises:
        ConfigError: missing, damaged, or foreign file.
    """
    if on_hub(path):
        path, pinned = fetch(str(path), setting)
        print(f"{setting}={pinned}", file=sys.stderr)  # to be noted: the newest state of a repository changes
    exported = Path(path).is_dir() or Path(path).suffix == ".safetensors"
    try:
        checkpoint = read_export(Path(path)) if exported else read_checkpoint(path)
        missing = [name for name in KEPT if name not in checkpoint["ifpn"]]
        if missing:
            raise ConfigError(f"ckpt={path} was not written by ifpn: its description has no {missing[0]!r}.")
    except ConfigError as error:
        raise ConfigError(str(error).replace("ckpt=", f"{setting}=", 1)) from error
    return checkpoint


def restore_detector(checkpoint: dict[str, Any], path: str | Path) -> nn.Module:
    """Build the detector of `read_trained` with its weights, on the CPU; `path` names the file in messages.

    Raises:
        ConfigError: its configuration describes no detector, or not the one of its weights.
    """
    metadata = checkpoint["ifpn"]
    weights = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    try:
        return rebuild_detector(metadata["config"], len(metadata["class_names"]), weights)
    except ConfigError as error:
        raise ConfigError(f"ckpt={path}: {error}") from error

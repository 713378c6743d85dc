"""result.json: what was run, on what, and what came out, in one small file that reports are made from."""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ifpn import __version__
from ifpn.runs.identity import config_hash

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "timm", "pycocotools")


def write_result(path: Path, config: Mapping[str, Any], device: torch.device, measured: Mapping[str, Any]) -> None:
    """Write what a run measured, and the configuration, code, versions and machine that it was measured with."""
    result = {
        "config_hash": config_hash(config),
        "commit": commit(),
        "versions": {"python": platform.python_version(), "ifpn": __version__, **{n: version(n) for n in PACKAGES}},
        "machine": machine(device),
        "peak_memory_mib": peak_memory_mib(device),
        **measured,
        "config": dict(config),
    }
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)


def commit() -> str | None:
    """The commit of the code, with '+changes' if files differ from it; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        head = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True, timeout=10
        )
        dirty = subprocess.run(
            ["git", "status", "--porcelain", "-uno"], cwd=root, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_mib(device: torch.device) -> float:
    """Of the device's allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

"""result.json: what was run, on what, and what came out, in one small file that reports are made from."""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch

from ifpn.launcher.identity import config_hash
from ifpn.training.callbacks.checkpoints import BestCheckpoint
from ifpn.training.module import DetectionModule

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "timm", "pycocotools", "ifpn")


def write_result(
    path: Path, trainer: pl.Trainer, module: DetectionModule, step_seconds: Sequence[float], solver: Mapping[str, float]
) -> None:
    """Write the result of a training; `complete` says whether it reached its last step."""
    best = next((c.best_score for c in trainer.callbacks if isinstance(c, BestCheckpoint)), None)  # type: ignore[attr-defined]
    scores = module.scores or {"summary": None, "per_class": None}
    result = {
        "complete": trainer.global_step >= module.plan.max_steps,
        "config_hash": config_hash(module.facts["config"]),
        "commit": commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "machine": machine(module.device),
        "seed": module.seed,
        "steps": trainer.global_step,
        "batch": module.plan.batch,
        "world_size": trainer.world_size,
        "summary": scores["summary"],
        "per_class": scores["per_class"],
        "best_AP": best,
        "solver": dict(solver),
        "parameters": sum(p.numel() for p in module.detector.parameters()),
        "seconds_per_step": statistics.median(step_seconds) if step_seconds else None,
        "peak_memory_mib": peak_memory_mib(module.device),
        "config": module.facts["config"],
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

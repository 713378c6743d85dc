"""result.json: what was run, on what, and what came out, in one small file that reports are made from."""

from __future__ import annotations

import hashlib
import json
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from ifpn.training.module import DetectionModule

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "timm", "pycocotools", "ifpn")
# These change where a run lies or how it is watched, not what it computes.
NOT_HASHED = ("run_dir", "ckpt", "logger", "callbacks")


def write_result(
    path: Path, trainer: pl.Trainer, module: DetectionModule, step_seconds: Sequence[float], solver: Mapping[str, float]
) -> None:
    """Write the result of a training; `complete` says whether it reached its last step."""
    best = next((c.best_model_score for c in trainer.checkpoint_callbacks if c.best_model_score is not None), None)  # type: ignore[attr-defined]
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
        "summary": dict(module.result.summary) if module.result else None,
        "per_class": dict(module.result.per_class) if module.result else None,
        "best_AP": float(best) if best is not None else None,
        "solver": dict(solver),
        "parameters": sum(p.numel() for p in module.detector.parameters()),
        "seconds_per_step": statistics.median(step_seconds) if step_seconds else None,
        "peak_memory_mib": peak_memory_mib(module.device),
        "config": module.facts["config"],
    }
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hex digits that two runs share exactly when they compute the same thing."""
    kept = {key: value for key, value in config.items() if key not in NOT_HASHED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


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

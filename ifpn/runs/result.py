"""result.json: what was run, on what, and what came out, in one small file that reports are made from."""

from __future__ import annotations

import dataclasses
import platform
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from ifpn import __version__
from ifpn.errors import ConfigError
from ifpn.reading import read_json
from ifpn.runs.files import write_json
from ifpn.runs.identity import config_hash

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "hydra-core", "timm", "pycocotools")


@dataclass(kw_only=True)
class RunResult:
    """What a run measured, and the configuration, code, versions and machine that it was measured with.

    Args:
        complete: whether the training reached its end.
        stopped: why it ended before its last step, e.g. early stopping; None otherwise.
        seed, steps, batch, world_size: of the run; `batch` images per optimiser step, all processes together.
        summary, per_class: the last validation, values in 0..1 or COCO's -1; None before the first one.
        best_AP: the best value of the monitored number so far.
        solver: the last readings of `SolverMonitor`; `spectral_radius` and `effective_depth`: of the final weights,
            for one validation image.
        parameters: of the detector.
        multiply_adds: of the detector for one validation image; None for a compiled one.
        seconds_per_step: median over the batches.
        choices: the option of each configuration group, {"neck": "implicit", ...}; empty in files of ifpn 0.1.
        config: the resolved configuration.
    """

    complete: bool = False
    stopped: str | None = None
    seed: int | None = None
    steps: int = 0
    batch: int | None = None
    world_size: int = 1
    summary: dict[str, float] | None = None
    per_class: dict[str, dict[str, Any]] | None = None
    best_AP: float | None = None  # a key of the file
    solver: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    multiply_adds: int | None = None
    seconds_per_step: float | None = None
    choices: dict[str, str | None] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    config_hash: str | None = None
    commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    machine: str | None = None
    peak_memory_mib: float | None = None

    def write(self, path: Path, device: torch.device) -> None:
        """Fill in code, versions and machine, and write the file whole or not at all.

        Raises:
            WriteError: the disk is full, or may not be written.
        """
        self.config_hash = config_hash(self.config)
        self.commit = commit()
        own = {"python": platform.python_version(), "ifpn": __version__}
        self.versions = {**own, **{name: version(name) for name in PACKAGES}}
        self.machine = machine(device)
        self.peak_memory_mib = peak_memory_mib(device)
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """Read the file of this version or an older one; unknown entries are left out.

        Raises:
            ConfigError: it is missing, damaged, or holds something else.
        """
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("config"), dict):
            raise ConfigError(f"{path} is not the result of a run: it holds no configuration.")
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in content.items() if name in known})


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
    """Name the device in a few words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def peak_memory_mib(device: torch.device) -> float:
    """Of the device's allocator on a GPU, of the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)

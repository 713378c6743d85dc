"""How a command shares the processor: threads by the cores that are there, and waiting without burning them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

# A thread that waits for the others sleeps. OpenMP's own choice is to spin, which is a little faster alone and many
# times slower beside other programs: the spinning threads hold the cores that the awaited ones need.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}
CGROUPS = Path("/sys/fs/cgroup")


def wait_asleep() -> None:
    """Set the waiting policy where the user has set none. Has an effect only before torch is imported."""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)


def available_cores(cgroups: Path = CGROUPS) -> int:
    """Cores that this process may use: by its affinity, and by the quota of its container, which torch does not see."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        quota, period = _quota([cgroups / name for name in files])
        if quota > 0:
            cores = min(cores, -(-quota // period))
    return cores


def _quota(files: Sequence[Path]) -> tuple[int, int]:
    """(microseconds of computing, in so many of the clock); (0, 1) where there is no limit."""
    try:
        quota, period = (int(word) for file in files for word in file.read_text().split())
    except (OSError, ValueError):  # no such file; "max 100000"
        return 0, 1
    return quota, max(period, 1)


def limit_threads(processes: int = 1, workers: int = 0) -> None:
    """Lower torch's threads to the share of each of `processes` here; `OMP_NUM_THREADS` has the last word.

    A core is left to the data loader's `workers`: two threads that share two cores with them are slower than one.
    """
    import torch

    share = max(1, available_cores() // processes - (workers > 0))
    if "OMP_NUM_THREADS" not in os.environ and share < torch.get_num_threads():
        torch.set_num_threads(share)
        os.environ["OMP_NUM_THREADS"] = str(share)  # for the processes that Lightning starts

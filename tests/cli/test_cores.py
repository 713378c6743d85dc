"""A command takes the cores that are there, and says how its threads wait before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ifpn.cli import cores
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "50000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu.max": "1600000 100000\n"}, 8),
    ],
)
def test_cores_are_counted_within_the_quota_of_a_container(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.available_cores(tmp_path) == expected


@pytest.mark.parametrize(
    ("there", "processes", "workers", "given", "expected"),
    [
        *((8, 1, 0, None, 4), (3, 1, 0, None, 3), (3, 2, 0, None, 1), (1, 4, 0, "3", 4)),
        *((2, 1, 2, None, 1), (1, 1, 2, None, 1), (8, 2, 1, None, 3), (2, 1, 2, "2", 4)),
    ],
)
def test_threads_are_lowered_to_the_share_of_a_process(
    there: int, processes: int, workers: int, given: str | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads[-1])
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    monkeypatch.setattr(cores, "available_cores", lambda: there)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    cores.limit_threads(processes, workers)
    assert threads[-1] == expected
    assert os.environ.get("OMP_NUM_THREADS") == (given or (str(expected) if expected < 4 else None))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what the function has set goes with the test


def test_the_waiting_policy_is_set_before_torch_is_there_and_the_users_stays() -> None:
    program = (
        "import os, sys; import ifpn.cli.command; from ifpn.cli.cores import wait_asleep; wait_asleep(); "
        "assert 'torch' not in sys.modules; print(os.environ['OMP_WAIT_POLICY'])"
    )
    for given, expected in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"} | (
            {"OMP_WAIT_POLICY": given} if given else {}
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected

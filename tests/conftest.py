"""Shared by all tests: no test may depend on the network, on a GPU, or on which test ran before."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Random at the desk, the same examples every time where a merge depends on them. No example is timed: machines differ.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# A shell lets what it starts in the background ignore Ctrl-C, which tests send to themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List what takes more than two seconds here and is not marked: it does not belong to `make test-fast`."""
    passed = (report for report in terminalreporter.stats.get("passed", []) if report.duration > 2)
    late = {report.nodeid: report.duration for report in passed if not {"slow", "process"} & set(report.keywords)}
    if late:
        terminalreporter.section("over two seconds and not marked slow")
        for name, seconds in sorted(late.items()):
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference inputs and outputs, recorded from the implementations named in tests/golden/README.md."""
    return ROOT / "tests" / "golden"

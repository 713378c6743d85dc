"""Shared by all tests: no test may depend on the network, on a GPU, or on which test ran before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _same_numbers_every_time() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def golden() -> Path:
    """Reference inputs and outputs, recorded from the implementations named in tests/golden/README.md."""
    return ROOT / "tests" / "golden"

"""One small data set for all trainings of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifpn.data.shapes import ensure_shapes


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("data") / "shapes", num_train=10, num_val=4, seed=0)

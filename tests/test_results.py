"""The recorded tables: every number in docs/results.md that names one can be computed again from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ifpn.runs.recorded import RUNS, read_recorded
from tests.conftest import ROOT


@pytest.mark.parametrize("table", sorted((ROOT / "results").glob(f"*/{RUNS}")), ids=lambda path: path.parent.name)
def test_a_recorded_table_is_read_and_each_run_has_its_digest(table: Path) -> None:
    runs = [run for row in read_recorded(table) for run in row.runs]
    digests = {run.sha256 for run in runs}
    assert len(digests) == len(runs)
    assert all(digest is not None and len(digest) == 64 for digest in digests)

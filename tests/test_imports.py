"""Rooms import downwards only: a table that fails on any arrow upwards, in a function too."""

from __future__ import annotations

import graphlib
from pathlib import Path

import pytest

from tests.cases import imports
from tests.conftest import ROOT

GROUND = {"errors", "bounds", "reading"}
MAY = {  # a room, and the rooms it may import
    "errors": "",
    "bounds": "",
    "reading": "",
    "solvers": "",
    "layers": "",
    "backbones": "layers",
    "csc": "layers",
    "necks": "layers csc solvers",
    "detectors": "layers necks",
    "data": "",
    "evaluation": "data",
    "plots": "data evaluation",
    "config": "backbones detectors",
    "runs": "config",
    "training": "config data evaluation necks plots runs solvers",
    "detections": "plots",
    "export": "config csc detectors layers necks solvers",
    "predictor": "config data detections detectors export necks runs",
    "cli": "config data detections evaluation export plots predictor runs solvers training",
    "__init__": "necks predictor solvers",
    "__main__": "cli",
    "reports": "",
}
FILES = sorted((ROOT / "ifpn").rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    room = path.relative_to(ROOT / "ifpn").parts[0].removesuffix(".py")
    rooms = {module.split(".")[1] for module, _ in imports(path) if module.startswith("ifpn.")}
    assert rooms <= {room, *GROUND, *MAY[room].split()}
    for module, names in imports(path):
        assert module.split(".")[0] not in {"reproduce", "benchmarks", "scripts", "tests"}
        assert module != "ifpn" or set(names) <= {"__version__"}


def test_rooms_form_no_circle() -> None:
    assert graphlib.TopologicalSorter({room: set(below.split()) for room, below in MAY.items()}).static_order()
    list(graphlib.TopologicalSorter({room: set(below.split()) for room, below in MAY.items()}).static_order())

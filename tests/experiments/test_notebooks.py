"""The notebooks run from top to bottom, on settings smaller than those they show, and are committed with outputs."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.process

nbformat = pytest.importorskip("nbformat", reason="notebooks are an optional extra: nbformat, nbclient, ipykernel")
pytest.importorskip("nbclient", reason="notebooks are an optional extra: nbformat, nbclient, ipykernel")
pytest.importorskip("ipykernel", reason="notebooks are an optional extra: nbformat, nbclient, ipykernel")

NAMES = ("01_solver", "02_train_and_look", "03_inspect_a_checkpoint", "04_export_and_stream")


@pytest.fixture(scope="module")
def builder() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "build_notebooks.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notebooks")


def tiny(name: str, folder: Path) -> str:
    run, data = folder / "run", folder / "shapes"
    settings = [f"data.root={data}", "data.generate.num_train=8", "data.generate.num_val=4", "data.workers=0"]
    settings += ["schedule.max_epochs=1", "data.batch_size=4", "image.min_size=[64]", "image.max_size=128"]
    settings += [
        "neck.out_channels=16",
        "backbone.weights=none",
        "detector.head.num_convs=1",
        "trainer.accelerator=cpu",
    ]
    settings += ["callbacks.solver_monitor.spectral_every=1"]
    return {
        "01_solver": "SIZE, SAMPLES, EVALS = 8, 2, 8",
        "02_train_and_look": f"RUN = {str(run)!r}\nSETTINGS = {settings!r}",
        "03_inspect_a_checkpoint": f"CKPT, PHOTOS = {str(run / 'last.ckpt')!r}, {str(data)!r}\n"
        f"OUT = {str(folder / 'out')!r}\nEVALS, PRODUCTS, IMAGES, PROBES = 6, [1, 3], 1, 1",
        "04_export_and_stream": f"CKPT, PHOTOS = {str(run / 'last.ckpt')!r}, {str(data)!r}\n"
        f"OUT = {str(folder / 'export')!r}\nEVALS, SCENES, SECONDS, RATE, WIDTH, HEIGHT = 2, 2, 1, 2, 96, 64",
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_draws(name: str, builder: dict[str, Any], folder: Path) -> None:
    if name[:2] in ("03", "04") and not (folder / "run" / "last.ckpt").is_file():
        pytest.skip("it works on what notebook 02 trained, which did not run")
    notebook = builder["build"](builder["NOTEBOOKS"][name])
    (parameters,) = [cell for cell in notebook.cells if cell.metadata.get("tags") == ["parameters"]]
    parameters.source = tiny(name, folder)
    builder["run"](notebook, ROOT / "notebooks")
    assert drawn(notebook) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_notebook_is_what_the_script_builds_with_outputs(name: str, builder: dict[str, Any]) -> None:
    path = ROOT / "notebooks" / f"{name}.ipynb"
    committed = nbformat.read(path, as_version=4)
    built = builder["build"](builder["NOTEBOOKS"][name])
    assert [(c.cell_type, c.source) for c in committed.cells] == [(c.cell_type, c.source) for c in built.cells]
    assert drawn(committed) >= 2
    assert path.stat().st_size < 2_000_000


def drawn(notebook: Any) -> int:
    outputs = [out for cell in notebook.cells if cell.cell_type == "code" for out in cell.outputs]
    assert not any(out.output_type == "error" for out in outputs)
    return sum(bool({"image/png", "image/jpeg"} & out.get("data", {}).keys()) for out in outputs)

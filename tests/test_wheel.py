"""The wheel in an environment and a folder of its own: every command works where there is no clone."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from ifpn.cli.main import COMMANDS
from ifpn.config.paths import CONF
from tests.conftest import ROOT

# Five processes import torch one after the other.
pytestmark = [pytest.mark.slow, pytest.mark.process, pytest.mark.timeout(600)]
THREE_STEPS = [
    "experiment=debug/fast",
    "schedule.max_epochs=null",
    "schedule.max_steps=3",
    "trainer=cpu",
    "callbacks.pictures.samples=1",
]
NO_TORCH = """
import sys
from ifpn.cli.main import main
sys.argv = ["ifpn", *sys.argv[1:]]
try:
    main()
except SystemExit as error:
    assert not error.code, error.code
assert "torch" not in sys.modules, "torch was imported"
"""


IN_ONE_PROCESS = """
import json, sys
from ifpn.cli.main import main
for words in json.loads(sys.argv.pop()):
    sys.argv = ["ifpn", *words]
    try:
        main()
    except SystemExit as error:
        assert not error.code, (words, error.code)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(ROOT)], check=True)
    return next(folder.glob("ifpn-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with this wheel, and with the libraries of the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--quiet", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, str(wheel)], check=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    # Only its path: .pth files in it are not followed, so an editable installation of the clone is not found.
    (Path(paths["purelib"]) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


def ifpn(bin_folder: Path, folder: Path, *arguments: str, python: tuple[str, ...] = ()) -> str:
    """Standard output of `ifpn ARGUMENTS` in `folder`, which must succeed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(bin_folder / "python"), *python] if python else [str(bin_folder / "ifpn")]
    done = subprocess.run(
        [*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def test_the_wheel_holds_every_setting_and_command(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    settings = {f"ifpn/conf/{path.relative_to(CONF)}" for path in CONF.rglob("*.yaml")}
    assert settings <= names
    assert {"ifpn/commands/train.py", "hydra_plugins/ifpn_launcher/__init__.py", "ifpn/py.typed"} <= names
    assert not {name for name in names if name.startswith(("tests", "reproduce", "benchmarks", "scripts"))}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_torch(installed: Path, tmp_path: Path, command: str) -> None:
    shown = ifpn(installed, tmp_path, command, "--help", python=("-c", NO_TORCH))
    assert f"ifpn {command}" in shown
    assert not list(tmp_path.iterdir()), "help leaves files behind"
    groups = {str(path.relative_to(CONF)) for path in CONF.rglob("*") if list(path.glob("*.yaml"))}
    listed = {group for group in groups if f"\n{group}: {', '.join(options(group))}\n" in shown}
    accepted = {
        "train": {group for group in groups if not group.startswith(("hydra", "contrasts"))},
        "evaluate": {"data"},
        "report": {"contrasts"},
    }
    assert listed == accepted.get(command, set())


def test_train_evaluate_predict_report(installed: Path, tmp_path: Path) -> None:
    ifpn(installed, tmp_path, "train", *THREE_STEPS, "run_dir=runs/one")
    result = json.loads((tmp_path / "runs/one/result.json").read_text())
    assert (result["complete"], result["steps"], result["commit"]) == (True, 3, None)
    scored = ifpn(installed, tmp_path, "evaluate", "ckpt=runs/one/best.ckpt", "run_dir=scored", "device=cpu")
    assert "AP50" in scored
    photo = next((tmp_path / "data").rglob("*.jpg"))
    ifpn(installed, tmp_path, "predict", "ckpt=runs/one/best.ckpt", f"source={photo}", "run_dir=out", "device=cpu")
    assert json.loads((tmp_path / "out/predictions.json").read_text()) is not None
    used_elsewhere(installed, tmp_path, photo)
    ifpn(installed, tmp_path, "report", "runs=runs")
    assert f"| {100 * result['summary']['AP']:.1f} |" in (tmp_path / "runs/report/report.md").read_text()


def used_elsewhere(installed: Path, folder: Path, photo: Path) -> None:
    """The detector of `runs/one` as an ONNX file, on a film, and as files for the hub."""
    for package in ("onnx", "onnxruntime", "av", "huggingface_hub"):
        pytest.importorskip(package, reason="the extras export, video and hub")
    make_clip = runpy.run_path(str(ROOT / "scripts" / "make_clip.py"))["make_clip"]
    assert make_clip([photo], folder / "clip.mp4", seconds=1, rate=3, size=(96, 64)) == 3
    words = [
        ["export", "ckpt=runs/one/best.ckpt", "out=model.onnx"],
        ["evaluate", "ckpt=model.onnx", "run_dir=by_onnx"],
        ["predict", "ckpt=model.onnx", f"source={photo}", "run_dir=of_onnx"],
        ["predict", "ckpt=runs/one/best.ckpt", "source=clip.mp4", "stream=true", "run_dir=film", "device=cpu"],
        ["push", "runs/one/export", "hf://me/one", "--dry-run"],
        ["predict", "ckpt=hub/one", f"source={photo}", "run_dir=of_hub", "device=cpu"],
    ]
    ifpn(installed, folder, json.dumps(words), python=("-c", IN_ONE_PROCESS))
    assert len(json.loads((folder / "by_onnx" / "scores.json").read_text())["summary"]) == 12
    assert len((folder / "film" / "detections.jsonl").read_text().splitlines()) == 3
    first, second = (json.loads((folder / name / "predictions.json").read_text()) for name in ("out", "of_hub"))
    assert first == second
    assert "# autoassign, neck implicit" in (folder / "hub" / "one" / "README.md").read_text()

"""The measuring scripts, at their smallest: a number that nobody can measure again is not a number."""

from __future__ import annotations

import copy
import importlib
import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_step, cost_growth, operators, step_case
from ifpn.errors import ConfigError
from tests.conftest import ROOT
from tests.evaluation.cases import random_case
from tests.reproduce.cases import CONTRACTION, data_of, make, script


def answered(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """What main() of a script returns for this command line."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    return script(name).main()


def test_pycocotools_alone_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, found = random_case(31)
    files = [tmp_path / "truth.json", tmp_path / "found.json"]
    files[0].write_text(json.dumps(truth))
    files[1].write_text(json.dumps(found))
    assert answered("compare_pycocotools", list(map(str, files)), monkeypatch) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 14  # a head, twelve numbers, the verdict
    comparison = sys.modules["compare_pycocotools"]
    reference = comparison.by_pycocotools(*files)
    assert len(set(reference)) > 6  # the case is not one where every number is 0, 1 or -1
    # A difference above the tolerance must be seen, or the script proves nothing.
    monkeypatch.setattr(comparison, "by_pycocotools", lambda *_: [value + 1e-6 for value in reference])
    assert comparison.main() == 1


@pytest.mark.slow
def test_a_pair_of_steps_beside_torchvisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    bench = script("bench_detectors")
    options = Namespace(device="cpu", backbone="resnet18", size=64, batch=2, pairs=1, channels=32)
    for name in bench.NAMES:
        assert min(bench.compare(name, options)) > 0
    monkeypatch.setattr(sys, "argv", ["bench_detectors.py", "atss"])
    with pytest.raises(SystemExit):
        bench.main()


@pytest.fixture
def tiny_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The name of a run whose checkpoint is a network at random initialisation."""
    predictor = make(*CONTRACTION, classes=8)
    data = data_of(predictor, tmp_path / "shapes")
    config = {**predictor.config, "data": {**predictor.config["data"], "root": str(data.root), "workers": 0}}
    checkpoint = {"ifpn": {"config": config, "class_names": predictor.class_names}}
    monkeypatch.setattr(step_case, "read_trained", lambda path: checkpoint)
    monkeypatch.setattr(step_case, "restore_detector", lambda *_: copy.deepcopy(predictor.detector))
    return tmp_path


@pytest.mark.slow
def test_a_step_with_every_solver_beside_an_fpns() -> None:
    options = Namespace(device="cpu", precision="fp32", height=64, width=64, batch=1, random=True)
    options.overrides = ["neck.out_channels=32", "backbone=resnet18", "backbone.weights=none"]
    spent = []
    for name in bench_step.CASES:
        case = bench_step.build(name, options)
        before = {name: value.clone() for name, value in case.detector.state_dict().items()}
        case.train()
        spent.append(case.spent())
        assert any(not torch.equal(value, before[name]) for name, value in case.detector.state_dict().items())
        case.restore()
        case.infer()
        assert all(torch.equal(value, before[name]) for name, value in case.detector.state_dict().items())
    assert spent[:2] == ["-", "15+1, 15"]  # the paper's budget
    assert 0 < bench_step.share(case, 1) < 1


@pytest.mark.slow
def test_a_trained_net_is_timed_on_its_own_images_with_the_solver_asked_for(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_step, "peak", lambda *_: bench_step.Peak(1.0, 2.0))
    arguments = ["--run", str(tiny_run), "--run", f"{tiny_run} solver.test_evals=3 solver.rtol=0", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_step", *arguments, "--size", "48"])
    bench_step.main()
    printed = capsys.readouterr().out
    assert "trained weights" in printed
    assert "network input 48 x " in printed
    assert "| 3.0 |" in printed.splitlines()[-1]
    for wrong, sentence in (
        ([], "name trained runs"),
        (["--run", f"{tiny_run} neck.dropout=0"], "must set the solver"),
    ):
        monkeypatch.setattr(sys, "argv", ["bench_step", *wrong])
        with pytest.raises((SystemExit, ConfigError)) as refused:
            bench_step.main()
        assert sentence in str(refused.value) + capsys.readouterr().err


@pytest.mark.slow
def test_how_cost_grows_is_a_table_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cost_growth, "memory", lambda *_: 100.0)
    small = ["neck.out_channels=32", "backbone=resnet18", "backbone.weights=none", "detector.head.num_convs=1"]
    monkeypatch.setattr(cost_growth, "COUNTED_AT", 64)
    arguments = ["--sides", "64", "--batches", "1", "2", "8", "--rounds", "1", "--largest", "0.01"]
    arguments += ["--out", str(tmp_path / "growth.png")]
    monkeypatch.setattr(sys, "argv", ["cost_growth", *small, *arguments])
    cost_growth.main()
    printed = capsys.readouterr().out.splitlines()
    ratios = [float(number) for number in re.findall(r"\d+\.\d+", printed[0])]
    assert 1 < ratios[0] < ratios[1]  # two evaluations, seven
    lines = [line.split(" | ") for line in printed[4:]]
    assert [line[:2] for line in lines] == [["| 64", "1"], ["| 64", "2"], ["| 64", "8"]]
    assert lines[2][2:-1] == [""] * 7  # too large to be timed
    # 32 channels, 64 + 16 + 4 + 1 + 1 cells, 4 bytes, 14 states
    assert lines[0][-1] == f"{14 * 4 * 32 * 86 / 2**20:.1f} |"
    assert (tmp_path / "growth.png").is_file()


def test_operators_are_counted_and_views_are_not() -> None:
    x = torch.ones(3, 4)
    assert operators.counted(lambda: x.t()[1].view(3)) == 0
    assert operators.counted(lambda: (x + x).relu_().t()) == 2


@pytest.mark.slow
def test_every_evaluation_adds_the_same_number_of_operators(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["neck.out_channels=32", "backbone=resnet18", "detector.head.num_convs=1"]
    cases = [part for n in (2, 3, 4) for part in ("--case", f"neck=implicit solver=unroll solver.steps={n}")]
    monkeypatch.setattr(sys, "argv", ["operators", *small, *cases, "--batch", "1"])
    operators.main()
    two, three, four = (
        [int(n) for n in re.findall(r" (\d+) \|", row)] for row in capsys.readouterr().out.splitlines()[2:]
    )
    for before, between, after in zip(two, three, four, strict=True):  # of a training step, of an inference
        assert after - between == between - before > 20


@pytest.mark.slow
def test_an_exported_detector_is_timed_beside_an_exported_fpn(tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason="the extra 'export'")
    bench = importlib.import_module("benchmarks.export_latency")
    small = ["backbone=resnet18", "neck.out_channels=16", "detector=atss", "image.min_size=[64]", "image.max_size=96"]
    options = Namespace(settings=small, evals=[1, 2], runtimes=[], threads=1)
    made = bench.contestants(options, tmp_path)
    seconds = bench.measure(made, np.zeros((64, 80, 3), dtype=np.uint8), rounds=3)
    assert {len(values) for values in seconds.values()} == {3}
    lines = bench.table(seconds).splitlines()
    assert lines[0] == "| | eager | onnxruntime |"
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| FPN", "| i-FPN, 1 of G", "| i-FPN, 2 of G"]
    assert lines[2].endswith(" (1.00) |")

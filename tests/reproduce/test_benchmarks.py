"""The measuring scripts, at their smallest: a number that nobody can measure again is not a number."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.evaluation.cases import random_case
from tests.reproduce.test_scripts import script


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


@pytest.mark.slow
def test_a_step_with_every_solver_beside_an_fpns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    bench = script("bench_step")
    options = Namespace(device="cpu", precision="fp32", height=64, width=64, batch=1)
    small = ["neck.out_channels=32", "backbone=resnet18", "backbone.weights=none"]
    spent = []
    for name in bench.CASES:
        case = bench.Case([*small, *name.split()], options)
        before = [p.detach().clone() for p in case.detector.parameters()]
        case.train()
        spent.append(case.spent())
        case.infer()
        assert any(not torch.equal(p, q) for p, q in zip(before, case.detector.parameters(), strict=True))
    assert spent[:2] == ["-", "15+1, 15"]  # the paper's budget
    assert 0 < bench.share(case, 1) < 1

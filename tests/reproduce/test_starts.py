"""Plain applications from three starts: the trained numbers come back, and a contraction forgets its start."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from ifpn.errors import ConfigError
from ifpn.solvers import Equilibrium, Unroll
from reproduce.inspect_checkpoint import body_of, describe_solver
from reproduce.settings import files
from reproduce.starts import STARTS, FromStart, ap_from_starts, detect_together, draw_starts, verdict
from tests.reproduce.cases import CONTRACTION, data_of, make

UNROLLED = (*CONTRACTION, "solver=unroll")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("starts") / "shapes"


@pytest.mark.parametrize("overrides", [UNROLLED, CONTRACTION], ids=["unroll", "equilibrium"])
@pytest.mark.slow
def test_a_contraction_forgets_its_start(overrides: tuple[str, ...], root: Path, tmp_path: Path) -> None:
    predictor = make(*overrides, classes=8)
    data = data_of(predictor, root)
    neck, backbone = body_of(predictor).neck, body_of(predictor).backbone
    before = neck.solver
    found = ap_from_starts(predictor, data, [1, 4, 30], images=3)
    assert (neck.solver, body_of(predictor).backbone) == (before, backbone)
    assert tuple(one.start for one in found) == STARTS
    for one in found[1:]:
        # 30 applications of the G of CONTRACTION leave rounding; one leaves most of the start.
        assert one.apart[1] > one.apart[4] > one.apart[30]
        assert one.apart[30] < 1e-3 < one.apart[1]
    assert set(found[0].apart.values()) == {0.0}
    draw_starts([(describe_solver(predictor), found)] * 2, tmp_path / "starts.png")
    with Image.open(tmp_path / "starts.png") as picture:
        assert picture.width > picture.height > 300
    assert json.loads(json.dumps([vars(one) for one in found]))


def test_the_trained_number_from_zero_is_the_network_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same boxes, bit for bit, and the steps of later marks continue: one application, then three more are four."""
    predictor = make(*UNROLLED, classes=8)
    data = data_of(predictor, root)
    seen: list[list[dict[str, torch.Tensor]]] = []
    monkeypatch.setattr("reproduce.starts.CocoEvaluator.update", lambda self, ids, found: seen.append(found))
    monkeypatch.setattr("reproduce.starts.CocoEvaluator.compute", lambda self: type("R", (), {"summary": {"AP": 0.0}}))
    ap_from_starts(predictor, data, [1, 2, 5], images=2)
    inputs = [data.val_dataset[i][0].float() / 255 for i in range(2)]
    for at, steps in enumerate((1, 2, 5)):
        body_of(predictor).neck.solver = Unroll(steps)
        with torch.no_grad():
            expected = detect_together(predictor.detector, inputs)
        for one, other in zip(seen[at], expected, strict=True):
            assert torch.equal(one["boxes"], other["boxes"])
            assert torch.equal(one["scores"], other["scores"])


def stays(value: float, *lower: tuple[int, float]) -> dict[int, float]:
    return {n: dict(lower).get(n, value) for n in (1, 2, 3, 8, 32, 64)}


@pytest.mark.parametrize(
    ("solver", "stabilise", "ap", "holds"),
    [
        (Unroll(2), False, stays(0.40, (8, 0.34), (32, 0.25)), True),
        (Unroll(2), False, stays(0.40, (32, 0.395)), False),
        (Unroll(2), True, stays(0.40, (1, 0.2), (64, 0.36)), True),
        (Unroll(2), True, stays(0.40, (64, 0.34)), False),
        (Equilibrium(), True, stays(0.40, (1, 0.3), (2, 0.39)), True),
        (Equilibrium(), False, stays(0.40, (64, 0.39)), False),
    ],
)
def test_the_verdict_is_the_one_fixed_before(
    solver: object, stabilise: bool, ap: dict[int, float], holds: bool
) -> None:
    predictor = make(*CONTRACTION)
    body_of(predictor).neck.solver = solver  # type: ignore[assignment]
    predictor.config["stabilise"] = stabilise
    lines = verdict(predictor, [FromStart(start, ap, {}) for start in STARTS])
    assert lines[0].startswith("prediction: ")
    assert lines[1].startswith("falsified: ")
    assert lines[-1].endswith("the prediction holds." if holds else "the prediction fails.")


def test_one_start_that_ends_elsewhere_fails_the_equilibrium() -> None:
    predictor = make(*CONTRACTION)
    same = [FromStart(start, stays(0.4), {}) for start in STARTS]
    assert verdict(predictor, same)[-1].endswith("holds.")
    assert verdict(predictor, [*same[:2], replace(same[2], ap=stays(0.4, (64, 0.3)))])[-1].endswith("fails.")


def test_what_iterates_nothing_and_a_single_image_are_refused(root: Path) -> None:
    explicit = make("neck=fpn", classes=8)
    with pytest.raises(ConfigError, match=r"neck \(FPN\) iterates nothing"):
        ap_from_starts(explicit, data_of(explicit, root), [1])
    implicit = make(*CONTRACTION, classes=8)
    with pytest.raises(ConfigError, match="at least 2"):
        ap_from_starts(implicit, data_of(implicit, root), [1], images=1)


def test_a_network_that_finds_nothing_proves_nothing() -> None:
    (line,) = verdict(make(*CONTRACTION), [FromStart(start, stays(0.0), {}) for start in STARTS])
    assert line.startswith("this network finds nothing")


def test_names_of_checkpoints_may_hold_commas(tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.ckpt", "row=fast,seed=0", "b,c,d")]
    for name in names:
        Path(name).touch()
    assert files({"ckpt": ",".join(names)}, "ckpt") == names
    assert files({"ckpt": f"{names[0]},gone"}, "ckpt") == [names[0], "gone"]

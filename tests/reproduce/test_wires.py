"""Accuracy against length is counted as it is said, and the verdict follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.data import DetectionData
from ifpn.errors import ConfigError
from ifpn.predictor import Predictor
from reproduce.inspect_checkpoint import body_of, describe_solver
from reproduce.wires import (
    WireAccuracy,
    draw_wires,
    intervals,
    longest_in_training,
    table,
    told_apart,
    verdict,
    wire_accuracy,
    write_shares,
)
from tests.reproduce.cases import make


def network(root: Path, *overrides: str) -> tuple[Predictor, DetectionData]:
    small = ("data.generate.num_train=1", "data.generate.num_val=3", "data.workers=0", f"data.root={root}")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["experiment=wires", *small, "neck.out_channels=16", *overrides])
    OmegaConf.set_struct(cfg, False)
    for key in ("run_dir", "logger", "callbacks"):
        cfg.pop(key)
    resolved: Any = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    data: DetectionData = instantiate(resolved.data)
    data.prepare_data()
    data.setup("validate")
    torch.manual_seed(0)
    config: Any = OmegaConf.to_container(resolved)
    built = build_detector(resolved, data.num_classes)
    return Predictor(built, data.class_names, data.category_ids, config, torch.device("cpu")), data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("wires") / "wires"


# Half the field of c3 is one cell of 8 px, the head has two convolutions; an application reaches three cells.
# A lamp and a bulb have radii of 6 and 4 px.
@pytest.mark.parametrize(
    ("row", "reach", "name"),
    [
        ("unroll_1", 8 * 6 + 10, "i-FPN, 1 application"),
        ("stack_4", 8 * 15 + 10, "stacked FPN, 4 blocks"),
        ("none", 8 * 3 + 10, "no FPN"),
        ("broyden", None, "i-FPN, equilibrium"),
    ],
)
def test_each_row_of_the_experiment_is_measured(row: str, reach: float | None, name: str, root: Path) -> None:
    predictor, data = network(root, f"row={row}")
    assert describe_solver(predictor) == name
    assert body_of(predictor).strides == (8, 16)
    found = wire_accuracy(predictor, data, [1, 3])
    assert found.reach == reach
    assert set(found.right) == ({"own", "1", "3"} if row in ("unroll_1", "broyden") else {"own"})
    assert [len(right) for right in found.right.values()] == [6] * len(found.right)
    assert all(14 <= d <= 128 for d in found.distances)
    assert longest_in_training(predictor) == 64


def test_right_is_the_class_of_the_best_box_on_the_lamp(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor, data = network(root, "row=none")
    targets = iter([data.val_dataset[i][1] for i in range(3)])

    def detector(_: object) -> list[dict[str, torch.Tensor]]:
        """The first lamp: right, over a weaker wrong box; the second: its wrong class; and a sure box far off."""
        target = next(targets)
        boxes, labels = target["boxes"].float(), target["labels"]
        far = torch.tensor([[0.0, 0.0, 3.0, 3.0]])
        return [
            {
                "boxes": torch.cat([boxes[:1] + 1, boxes[:1], boxes[1:], far]),
                "labels": torch.stack([labels[0], 1 - labels[0], 1 - labels[1], labels[1]]),
                "scores": torch.tensor([0.6, 0.5, 0.9, 1.0]),
            }
        ]

    monkeypatch.setattr(predictor.detector, "forward", detector)
    assert wire_accuracy(predictor, data, []).right["own"] == [True, False] * 3


def accuracy(name: str, reach: float | None, near: float, far: dict[str, float]) -> WireAccuracy:
    """100 lamps at 50 px and 100 at 120; shares of them that are right."""
    right = {
        how: [i < round(100 * near) for i in range(100)] + [i < round(100 * share) for i in range(100)]
        for how, share in far.items()
    }
    return WireAccuracy(name, reach, [50.0] * 100 + [120.0] * 100, right)


def test_the_verdict_names_what_goes_against_the_prediction(tmp_path: Path) -> None:
    networks = [
        accuracy("two blocks", 72, 0.9, {"own": 0.55}),
        accuracy("four blocks", 72, 0.9, {"own": 0.7}),
        accuracy("far-sighted", 400, 0.9, {"own": 0.7}),
        accuracy("fixed point", None, 0.95, {"own": 0.6, "1": 0.5, "64": 0.8}),
        accuracy("stuck", None, 0.95, {"own": 0.6, "1": 0.5, "64": 0.55}),
    ]
    two, four, far, fixed, stuck = verdict(networks, 64)
    # A share of 100 lamps has a standard error of 0.05, two of them decide.
    assert two == "two blocks: 0.55 +- 0.05 beyond its reach of 72 px, at chance"
    assert four.endswith("above chance, against the prediction")
    assert far.endswith("no wire is longer than its reach of 400 px")
    assert fixed == "fixed point: 0.95 +- 0.02 up to 64 px; beyond, 0.50 with 1, 0.80 with 64 applications: rises"
    assert stuck.endswith("does not rise, against the prediction")
    one, other, third = told_apart([networks[0], networks[3], networks[3]], ["a", "b", "c"])
    assert [one.name, other.name, third.name] == ["two blocks", "fixed point (b)", "fixed point (c)"]
    edges = intervals(networks, 64)
    assert edges == [50, 64, 80, 96, 112, 121]
    assert table(networks, [14, 64, 128]).splitlines()[2] == "| two blocks | 0.90 | 0.55 |"
    write_shares(networks, [14, 64, 128], tmp_path / "wires.csv")
    lines = (tmp_path / "wires.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * (3 * 1 + 2 * 3)
    assert lines[2] == "two blocks,own,64,128,100,0.5500,0.0497"  # sqrt(0.55 * 0.45 / 100)
    draw_wires(networks, [28, 64, 128], 64, tmp_path / "wires.png")
    with Image.open(tmp_path / "wires.png") as picture:
        assert picture.width > picture.height > 300


def test_another_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="data=wires"):
        longest_in_training(make())

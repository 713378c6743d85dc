"""From a detector of some classes to one of others: what is known stays, and training starts at step 0."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from ifpn.cli import train as run_module
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.training.start import class_layers, initialise
from tests.detectors.cases import DETECTORS, make_detector
from tests.training.harness import configuration


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_keeps_what_it_knows_of_the_classes_that_stay(name: str) -> None:
    """From eight classes to three, two of them known and in another order: their scores are those of before."""
    before, after = [f"c{k}" for k in range(8)], ["c6", "new", "c1"]
    torch.manual_seed(0)
    old, new = make_detector(name, 8), make_detector(name, 3)
    layers = class_layers(lambda classes: make_detector(name, classes), new, 3)
    weights = {f"detector.{key}": value for key, value in old.state_dict().items()}
    initialise(new, {"state_dict": weights, "ifpn": {"class_names": before}}, "a.ckpt", after, layers)
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        if name == "faster_rcnn":
            pooled = torch.rand(5, old.roi_heads.box_head(torch.rand(1, 16, 7, 7)).shape[1])
            scores = [m.roi_heads.box_predictor(pooled)[0][:, 1:] for m in (old, new)]
        else:
            scores = [m.eval()._predict(ImageList(image, [(64, 64)]))[0].cls_logits for m in (old, new)]
    assert torch.allclose(scores[1][..., [0, 2]], scores[0][..., [6, 1]], atol=1e-6)  # a kernel of another width
    assert not torch.allclose(scores[1][..., 1], scores[0][..., 1])


@pytest.mark.slow
def test_fine_tuning_starts_at_step_0_and_below_the_loss_of_a_start_from_scratch(
    small_data: Path, tmp_path: Path
) -> None:
    """A detector of all eight classes becomes one of three."""

    def first_loss(folder: str, *settings: str) -> float:
        cfg = configuration(small_data, tmp_path / folder, *settings)
        run_module.train(cfg, build=lambda _, classes: make_detector("fcos", classes))
        with open(tmp_path / folder / "metrics.csv") as file:
            rows = [row for row in csv.DictReader(file) if row["train/loss"]]
        assert int(rows[0]["step"]) == 0
        return float(rows[0]["train/loss"])

    first_loss("eight", "schedule.max_epochs=6", "schedule.optimizer.lr=0.003")
    names = read_checkpoint(tmp_path / "eight" / "last.ckpt")["ifpn"]["class_names"]
    three = (f"data.classes=[{names[1]},{names[4]},{names[6]}]", "schedule.max_epochs=1", "data.batch_size=1")
    scratch = first_loss("scratch", *three)
    tuned = first_loss("tuned", *three, f"init={tmp_path / 'eight' / 'last.ckpt'}")
    assert tuned < 0.9 * scratch

"""`evaluate.py` on data sets and prediction files: numbers where there is truth, the zip where there is none."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from ifpn.cli import evaluate as module
from ifpn.errors import ConfigError
from ifpn.evaluation import PredictionError
from ifpn.predictor import Predictor


class LeftHalf(nn.Module):
    """Stands for a detector of cats and dogs that calls the left half of every image a dog."""

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        boxes = [torch.tensor([[0.0, 0.0, image.shape[2] / 2, image.shape[1]]]) for image in images]
        return [{"boxes": b, "scores": torch.tensor([0.75]), "labels": torch.tensor([1])} for b in boxes]


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., object]:
    def run(root: Path, ids: tuple[int, int] = (3, 17), data: dict | None = None, **more: object) -> object:
        detector = Predictor(LeftHalf(), ["cat", "dog"], list(ids), {}, torch.device("cpu"))
        monkeypatch.setattr(module, "load", lambda path, device, **_: detector)
        node = {"_target_": "ifpn.data.DetectionData", "root": str(root), "batch_size": 2, "seed": 0, "workers": 0}
        settings = {"ckpt": "x.ckpt", "predictions": None, "submission": None, "test_evals": None, "device": "cpu"}
        settings |= {"batch_size": 2, "size": None, "flip": False}
        thresholds = {"iou_threshold": 0.5, "score_threshold": 0.3}
        cfg = {**settings, "confusion": thresholds, "run_dir": str(tmp_path / "out"), "data": {**node, **(data or {})}}
        made = OmegaConf.create({**cfg, **more})
        assert isinstance(made, DictConfig)
        return module.evaluate(made)

    return run


def test_test_dev_writes_the_zip_and_no_numbers(
    coco_folder: Callable[..., Path], evaluate: Callable[..., object], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = coco_folder()
    content = json.loads((root / "annotations/instances_val.json").read_text())
    images_only = {"images": content["images"], "categories": content["categories"]}
    (root / "annotations/image_info_test-dev2017.json").write_text(json.dumps(images_only))
    paths = {"val_annotations": "annotations/image_info_test-dev2017.json", "val_images": "images"}
    with pytest.raises(PredictionError, match=r"my_method.*hyphens"):
        evaluate(root, data=paths, submission="my_method")
    assert not (tmp_path / "out").exists()  # refused before any work
    assert evaluate(root, data=paths, submission="mine") is None
    assert "holds no box to be found" in capsys.readouterr().out
    archive = zipfile.ZipFile(tmp_path / "out/detections_test-dev2017_mine_results.zip")
    entries = json.loads(archive.read("detections_test-dev2017_mine_results.json"))
    assert {e["image_id"] for e in entries} == {5, 6}
    assert {e["category_id"] for e in entries} == {17}


@pytest.mark.parametrize("ids", [(3, 17), (1, 2)])
def test_only_the_validation_file_is_read_and_classes_meet_by_id_or_by_name(
    coco_folder: Callable[..., Path], evaluate: Callable[..., object], tmp_path: Path, ids: tuple[int, int]
) -> None:
    root = coco_folder()
    (root / "annotations/instances_train.json").write_text("not read")
    assert evaluate(root, ids) is not None
    written = json.loads((tmp_path / "out/predictions.json").read_text())
    assert {record["category_id"] for record in written} == {17}
    assert len(json.loads((tmp_path / "out/scores.json").read_text())["summary"]) == 12
    for name in ("precision_recall", "sizes", "confusion"):
        assert (tmp_path / f"out/{name}.png").stat().st_size > 1000


def test_predictions_of_others_are_scored(
    coco_folder: Callable[..., Path], evaluate: Callable[..., object], tmp_path: Path
) -> None:
    root = coco_folder()
    truth = json.loads((root / "annotations/instances_val.json").read_text())["annotations"]
    file = tmp_path / "theirs.json"
    file.write_text(json.dumps([{**a, "score": 0.9, "segmentation": []} for a in truth]))
    result = evaluate(root, ckpt=None, predictions=str(file))
    assert getattr(result, "summary")["AP"] == pytest.approx(1.0)  # noqa: B009  # the truth itself
    file.write_text("[]")
    assert getattr(evaluate(root, ckpt=None, predictions=str(file)), "summary")["AP"] == 0  # noqa: B009
    with pytest.raises(ConfigError, match="exactly one"):
        evaluate(root, predictions=str(file))

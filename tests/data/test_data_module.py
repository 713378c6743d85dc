"""The data module: what it says about a folder, its switches, and that its YAML holds the defaults of its code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ifpn.data import DataError, DetectionData
from tests.data.cases import document, entry, picture

CONF = Path(__file__).parents[2] / "conf"


def config(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        node = compose(overrides=[f"+data={name}", "+seed=3", *overrides])
    return node


def test_built_in_data_is_drawn_on_first_use_and_read_like_any_folder(tmp_path: Path) -> None:
    root = tmp_path / "drawn"
    node = config("shapes", f"data.root={root}", "data.generate.num_train=6", "data.generate.num_val=3")
    data = instantiate(node.data)
    assert not root.exists()
    assert data.num_classes == len(data.class_names) == 8  # asked before any Trainer exists
    data.setup("fit")
    assert (len(data.train_dataset), len(data.val_dataset)) == (6, 3)
    assert data.val_annotation_file == root / "annotations/instances_val.json"
    plain = instantiate(config("coco", f"data.root={root}").data)
    assert plain.class_names == data.class_names
    assert str(data) == f"{root} (train 6 images, val 3 images, 8 classes)"


def test_root_is_mandatory_for_coco() -> None:
    assert OmegaConf.is_missing(config("coco").data, "root")


def write_split(root: Path, split: str, annotations: list, categories: list | None = None) -> None:
    picture(root / "images/1.jpg")
    images = [{"id": n, "file_name": "1.jpg", "width": 64, "height": 48} for n in (1, 2, 3)]
    content = document(images, annotations)
    content |= {"categories": categories} if categories else {}
    (root / "annotations").mkdir(exist_ok=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))


def test_images_without_boxes_are_trained_on_by_a_switch(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [entry(1, 1, [1, 1, 9, 9]), entry(2, 2, [1, 1, 9, 9], iscrowd=1)])
    data = DetectionData(tmp_path, batch_size=1, seed=0, workers=0)
    assert len(data.train_dataset) == 1  # image 2 has a crowd region only, image 3 nothing
    every = DetectionData(tmp_path, batch_size=1, seed=0, workers=0, train_empty_images=True)
    assert len(every.train_dataset) == 3
    image, target = every.train_dataset[(0, 2)]
    assert (image.shape, target["boxes"].shape, target["labels"].shape) == ((3, 48, 64), (0, 4), (0,))
    write_split(tmp_path, "train", [])
    with pytest.raises(DataError, match="nothing to train on"):
        DetectionData(tmp_path, batch_size=1, seed=0).setup("fit")


def test_classes_come_from_training_or_from_a_checkpoint(coco_folder: Callable[..., Path]) -> None:
    root = coco_folder()
    data = DetectionData(root, batch_size=1, seed=0, workers=0)
    assert (data.num_classes, data.class_names, data.category_ids) == (2, ["cat", "dog"], [3, 17])
    (root / "annotations/instances_train.json").unlink()
    alone = DetectionData(root, batch_size=1, seed=0, workers=0)
    alone.setup("validate")
    assert alone.class_names == ["cat", "dog"]
    with pytest.raises(RuntimeError, match="before any data"):
        alone.use_categories([3, 17], ["cat", "dog"])
    trained = DetectionData(root, batch_size=1, seed=0, workers=0)
    trained.use_categories([1, 3, 17], ["bee", "cat", "dog"])
    assert trained.val_dataset[0][1]["labels"].tolist() == [1]
    assert trained.num_classes == 3
    other = DetectionData(root, batch_size=1, seed=0, workers=0)
    other.use_categories([3], ["cow"])
    with pytest.raises(DataError, match="does not agree"):
        other.setup("validate")
    with pytest.raises(ValueError, match="increasing ids"):
        DetectionData(root, batch_size=1, seed=0).use_categories([3, 1], ["a", "b"])


def test_ground_truth_is_what_pycocotools_needs(
    coco_folder: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    data = DetectionData(coco_folder(), batch_size=1, seed=0, workers=0)
    truth = COCO()
    truth.dataset = data.val_ground_truth()
    truth.createIndex()
    results = [{**a, "score": 0.5} for a in truth.dataset["annotations"]]
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    assert evaluation.stats[0] == pytest.approx(1.0)  # the truth itself as detections


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"workers": -1}, {"seed": -1}])
def test_impossible_settings_are_refused(tmp_path: Path, wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}=.*: must be"):
        DetectionData(tmp_path, **{"batch_size": 1, "seed": 0, **wrong})


def test_defects_are_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for split in ("train", "val"):
        write_split(tmp_path, split, [entry(1, 1, [1, 1, 9, 9]), entry(8, 2, [1, 1, 0, 9])])
    DetectionData(tmp_path, batch_size=1, seed=0, workers=0).setup("fit")
    messages = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    messages = [message for message in messages if "zero_area" in message]
    assert len(messages) == 2
    assert "1 x zero_area -> drop, e.g. zero_area: image 2, annotation 8" in messages[0]

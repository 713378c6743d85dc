"""Two processes give the numbers of one; the padding of a distributed sampler changes nothing."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import distributed as dist

from ifpn.evaluation import SUMMARY_NAMES, CocoEvaluator, CocoMetric
from tests.evaluation.cases import random_case
from tests.processes import in_processes

pytestmark = pytest.mark.process

IDS = [1, 4, 7, 10]


def detections(found, image_id: int) -> dict[str, torch.Tensor]:
    mine = [f for f in found if f["image_id"] == image_id]
    boxes = torch.tensor([f["bbox"] for f in mine], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.tensor([f["score"] for f in mine], dtype=torch.float64)
    return {
        "boxes": boxes,
        "scores": scores,
        "labels": torch.tensor([IDS.index(f["category_id"]) for f in mine]).long(),
    }


def score(images: list[int], truth, found) -> tuple[dict[str, float], dict[str, float], int]:
    evaluator, metric = CocoEvaluator(truth, IDS), CocoMetric(truth, IDS)
    for image_id in images:
        evaluator.update([image_id], [detections(found, image_id)])
        metric.update([detections(found, image_id)], [{"image_id": torch.tensor([image_id])}])
    evaluator.gather()
    evaluator.gather()  # a second call finds everything there already
    result = evaluator.compute()
    return result.summary, {name: float(v) for name, v in metric.compute().items()}, result.images


def on_rank(rank: int, folder: str, cases: list[list[list[int]]]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        truth, found = random_case(21, images=7)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was called before")  # torchmetrics, on the empty rank
            results = [score(shares[rank], truth, found) for shares in cases]
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path) -> None:
    truth, found = random_case(21, images=7)
    images = [image["id"] for image in truth["images"]]
    padded = [images[0::2], [*images[1::2], images[0]]]  # a sampler pads 7 images to 8
    lonely = [images, []]
    assert in_processes(on_rank, 2, str(tmp_path), [padded, lonely]) == [0, 0]
    alone, _, _ = score(images, truth, found)
    for rank in range(2):
        for summary, metric, count in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert count == 7
            assert summary == alone
            assert metric == pytest.approx(alone, abs=1e-6)  # fp32 scalars


def test_metric_equals_evaluator_and_resets() -> None:
    truth, found = random_case(22)
    images = [image["id"] for image in truth["images"]]
    summary, metric, _ = score([*images, images[0]], truth, found)
    assert list(metric) == list(SUMMARY_NAMES)
    assert metric == pytest.approx(summary, abs=1e-6)  # fp32 scalars
    again = CocoMetric(truth, IDS)
    again.update([detections(found, images[0])], [{"image_id": images[0]}])
    again.reset()
    for image_id in images:
        again.update([detections(found, image_id)], [{"image_id": image_id}])
    assert float(again.compute()["AP"]) == pytest.approx(summary["AP"], abs=1e-6)


def test_metric_keeps_large_ids_and_fp32_boxes_exactly() -> None:
    image_id = 2**40 + 1  # more than fp32 or int32 can hold
    box = torch.tensor([[0.1, 0.2, 30.3, 40.4]])
    x, y, right, bottom = box.double()[0].tolist()
    truth = {
        "images": [{"id": image_id}],
        "categories": [{"id": 5, "name": "a"}],
        "annotations": [{"id": 1, "image_id": image_id, "category_id": 5, "bbox": [x, y, right - x, bottom - y]}],
    }
    metric = CocoMetric(truth, [5])
    metric.update([{"boxes": box, "scores": torch.ones(1), "labels": torch.zeros(1).long()}], [{"image_id": image_id}])
    assert float(metric.compute()["AP"]) == 1.0
    with pytest.raises(ValueError, match="1 predictions for 2 targets"):
        metric.update([{}], [{}, {}])
    with pytest.raises(ValueError, match=r"target 1 has no image_id \(it has: boxes\)"):
        metric.update([{}, {}], [{"image_id": image_id}, {"boxes": box}])

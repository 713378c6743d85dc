"""What a picture says is wrong: missed and false boxes; and what it says where nothing is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ifpn.plots.samples import draw_batch, draw_samples, judge

TRUTH = {
    "boxes": torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10]]),
    "labels": torch.tensor([0, 1, 0]),
}


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, torch.Tensor]:
    kinds = {"scores": torch.tensor(scores), "labels": torch.tensor(labels, dtype=torch.int64)}
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), **kinds}


def test_each_box_is_found_once_and_by_its_own_class() -> None:
    boxes = [[0, 0, 10, 9], [0, 0, 10, 10], [20, 20, 40, 40], [50, 0, 60, 10]]
    judged = judge(TRUTH, found(boxes, [0.9, 0.8, 0.7, 0.2], [0, 0, 0, 0]), score_threshold=0.5)
    # The second has no free box, the third the wrong class, the fourth too low a score.
    assert [item.wrong for item in judged.found] == ["", "false", "false"]
    assert [item.wrong for item in judged.truths] == ["", "missed", "missed"]


def test_crowds_are_neither_missed_nor_used_up() -> None:
    truth = {**TRUTH, "iscrowd": torch.tensor([1, 0, 0])}
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9]]
    judged = judge(truth, found(boxes, [0.9, 0.8], [0, 0]), score_threshold=0.5)
    assert [item.wrong for item in judged.found] == ["", ""]
    assert judged.truths[0].wrong == ""


def test_an_empty_panel_says_why(tmp_path: Path) -> None:
    image = torch.zeros(3, 200, 200, dtype=torch.uint8)
    pages = []
    for scores in ([0.07], []):
        none = found([[0, 0, 5, 5]] * len(scores), scores, [0] * len(scores))
        draw_samples([image], [TRUTH], [none], ["a", "b"], tmp_path / "page.png", score_threshold=0.5)
        with Image.open(tmp_path / "page.png") as page:
            pages.append(np.asarray(page).copy())
    # "none above 0.5; best 0.07" is a longer sentence than "none above 0.5".
    assert (pages[0] != pages[1]).any()


def test_a_batch_is_drawn_with_its_padding(tmp_path: Path) -> None:
    batch = torch.zeros(2, 3, 64, 96)
    batch[0, 0] = 1.0
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    draw_batch(batch, [(64, 96), (32, 48)], [empty, empty], ["a"], tmp_path / "batch.png")
    with Image.open(tmp_path / "batch.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert tuple(pixels[24 + 10, 24 + 10]) == (255, 0, 0)
    # Drawn twice as large: the second image begins 192 pixels and a gap of 10 further right.
    assert tuple(pixels[24 + 10, 24 + 192 + 10 + 10]) == (0, 0, 0)
    assert tuple(pixels[24 + 70, 24 + 192 + 10 + 10]) == (128, 128, 128)

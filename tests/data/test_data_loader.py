"""Batches are the same with any number of workers and after a resume; no other randomness is disturbed."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from ifpn.data import Augment, DetectionData

ALL_ON = Augment(flip=0.5, color_jitter=0.4, iou_crop=0.5, scale_jitter=(0.5, 1.5), jitter_size=96)


def module(root: Path, workers: int = 0, **more: object) -> DetectionData:
    return DetectionData(root, **{"batch_size": 4, "seed": 5, "workers": workers, "augment": ALL_ON, **more})


def digest(batch: tuple) -> list:
    images, targets = batch
    return [
        (target["image_id"], *(part.numpy().tobytes() for part in (image, target["boxes"], target["labels"])))
        for image, target in zip(images, targets, strict=True)
    ]


def epoch(data: DetectionData) -> list:
    return [digest(batch) for batch in data.train_dataloader()]


@pytest.mark.slow
def test_same_batches_with_and_without_workers(small_shapes: Path) -> None:
    alone = epoch(module(small_shapes))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002  # the global generator is the point here
    random.seed(99)
    assert epoch(module(small_shapes, workers=2)) == alone
    assert len({item[1] for batch in alone for item in batch}) == len(alone) * 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.slow
def test_resumed_batches_are_the_tail(small_shapes: Path, workers: int) -> None:
    data = module(small_shapes)
    loader = data.train_dataloader()
    whole = [digest(batch) for _ in range(2) for batch in loader]
    length = len(loader)
    assert length == data.batches_per_epoch(1) == 7
    resumed = module(small_shapes, workers=workers)
    resumed.position = length + 4
    assert epoch(resumed) == whole[length + 4 :]
    assert resumed.position == 2 * length


def test_position_may_be_a_function_and_may_be_set_later(small_shapes: Path) -> None:
    whole = epoch(module(small_shapes))
    data = module(small_shapes)
    data.position = lambda: 5
    assert data.position == 5
    assert epoch(data) == whole[5:]
    loader = data.train_dataloader()
    data.position = 2
    assert [digest(batch) for batch in loader] == whole[2:]
    with pytest.raises(ValueError, match="position=-1"):
        data.position = -1


def test_augmentation_differs_between_epochs(small_shapes: Path) -> None:
    data = module(small_shapes)
    first, second = (data.train_dataset[(k, 3)] for k in (0, 1))
    again = data.train_dataset[(0, 3)]
    assert torch.equal(first[0], again[0])
    assert first[0].shape != second[0].shape or not torch.equal(first[0], second[0])


def test_loading_leaves_the_global_generators_alone(small_shapes: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    data = module(small_shapes)
    for loader in (data.train_dataloader(), data.val_dataloader()):
        next(iter(loader))
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_serves_every_image_once_as_it_is(small_shapes: Path) -> None:
    data = module(small_shapes)
    served = [target["image_id"] for _, targets in data.val_dataloader() for target in targets]
    assert served == data.val_dataset.annotations.image_ids.tolist()
    assert len(served) == 7
    images, targets = next(iter(data.val_dataloader()))
    assert isinstance(images, list)
    assert [image.dtype for image in images] == [torch.uint8] * 4
    assert targets[0]["boxes"].dtype == torch.float32
    assert targets[0]["labels"].dtype == torch.int64


def test_batches_are_wide_or_not(small_shapes: Path) -> None:
    data = module(small_shapes, augment=Augment(flip=0))
    kinds = [{image.shape[2] > image.shape[1] for image in images} for images, _ in data.train_dataloader()]
    assert sum(len(kind) > 1 for kind in kinds) <= 2  # the two groups leave fewer than two batches

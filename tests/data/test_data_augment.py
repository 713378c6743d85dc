"""Boxes stay on their objects whatever is done to the image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ifpn.data import Augment

Scene = tuple[Tensor, Tensor, Tensor]  # image, boxes, labels
SIZES = st.tuples(st.integers(40, 120), st.integers(40, 120))


def scene(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> Scene:
    """A black image with one filled box per channel of red, green, blue; labels 0, 1, 2."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[channel, y1:y2, x1:x2] = 255
    return image, torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.arange(len(boxes))


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    height, width = draw(SIZES)
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        x1, y1 = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
        boxes.append((x1, y1, draw(st.integers(x1 + 10, width)), draw(st.integers(y1 + 10, height))))
    return scene(height, width, boxes)


def extent(channel: Tensor) -> list[float] | None:
    """Box of the pixels brighter than half."""
    bright = channel > 127
    rows, columns = (torch.nonzero(bright.any(dim=d)).flatten() for d in (1, 0))
    if len(rows) == 0:
        return None
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def check(image: Tensor, boxes: Tensor, labels: Tensor, tolerance: float) -> None:
    height, width = image.shape[1:]
    assert image.dtype == torch.uint8
    assert boxes.shape == (len(labels), 4)
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= torch.tensor([width, height])).all()
    assert ((boxes[:, 2:] - boxes[:, :2]) > 1).all()
    for box, label in zip(boxes, labels, strict=True):
        seen = extent(image[int(label)])
        if seen is None:  # a sliver thinner than the tolerance that interpolation has darkened
            assert (box[2:] - box[:2]).min() <= 2 * tolerance
        else:
            assert (box - torch.tensor(seen)).abs().max() <= tolerance


@settings(max_examples=80, deadline=None)
@given(case=scenes(), seed=st.integers(0, 2**30))
def test_flip_is_exact_and_its_own_inverse(case: Scene, seed: int) -> None:
    flip = Augment(flip=1.0)
    image, boxes, labels = flip(*case, (seed,))
    check(image, boxes, labels, 0)
    assert torch.equal(image, case[0].flip(-1))
    again = flip(image, boxes, labels, (seed,))
    assert all(torch.equal(a, b) for a, b in zip(again, case, strict=True))


@settings(max_examples=80, deadline=None)
@given(case=scenes(), seed=st.integers(0, 2**30))
def test_crops_keep_boxes_on_objects(case: Scene, seed: int) -> None:
    image, boxes, labels = Augment(flip=0.5, iou_crop=1.0)(*case, (seed,))
    check(image, boxes, labels, 0)  # pixels are cut, never resampled
    if len(case[2]):
        assert len(labels) >= 1  # a crop keeps at least one object's centre


@settings(max_examples=60, deadline=None)
@given(case=scenes(), seed=st.integers(0, 2**30))
def test_large_scale_jitter_keeps_boxes_on_objects(case: Scene, seed: int) -> None:
    image, boxes, labels = Augment(flip=0, scale_jitter=(0.5, 2.0), jitter_size=96)(*case, (seed,))
    assert image.shape == (3, 96, 96)
    # padding is grey 127, below the threshold of `extent`; resampling by up to 2 x 96 / 40 moves an edge by 3
    check(image, boxes, labels, 3.0)


@settings(max_examples=30, deadline=None)
@given(case=scenes(), seed=st.integers(0, 2**30))
def test_colour_changes_no_box(case: Scene, seed: int) -> None:
    image, boxes, labels = Augment(flip=0, color_jitter=0.5)(*case, (seed,))
    assert torch.equal(boxes, case[1])
    assert torch.equal(labels, case[2])
    assert image.shape == case[0].shape


def test_all_off_changes_nothing() -> None:
    case = scene(40, 50, [(1, 2, 30, 20)])
    assert all(a is b for a, b in zip(Augment(flip=0)(*case, (0,)), case, strict=True))


def test_the_seed_alone_decides_and_the_flip_rate_is_right() -> None:
    case = scene(40, 50, [(1, 2, 30, 20)])
    augment = Augment(flip=0.5)
    flipped = []
    for seed in range(400):
        torch.manual_seed(0)
        first = augment(*case, (7, seed, 3))
        torch.manual_seed(1)
        second = augment(*case, (7, seed, 3))
        assert torch.equal(first[0], second[0])
        flipped.append(not torch.equal(first[0], case[0]))
    assert abs(sum(flipped) / 400 - 0.5) < 0.1  # four standard deviations of 400 fair draws


def test_the_global_generator_is_left_alone_even_by_an_error() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="shape"):
        Augment(flip=1.0)(torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 3), torch.zeros(1), (1,))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.5},
        {"iou_crop": -0.1},
        {"color_jitter": 2},
        {"scale_jitter": (2.0, 0.1)},
        {"scale_jitter": (0.0, 1.0)},
        {"jitter_size": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}=.*: must be"):
        Augment(**wrong)

"""Which locations learn which boxes: symmetries, ties, boxes nobody can learn."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from ifpn.detectors.anchors import Anchors
from ifpn.detectors.atss import assign_atss
from ifpn.detectors.autoassign import negative_exemption
from ifpn.detectors.boxes import DeltaCoder, LTRBCoder, areas, iou, side_distances
from ifpn.detectors.fcos import assign_fcos
from ifpn.detectors.matching import match_anchors
from tests.detectors.cases import make_anchors, numbers

# 264 px: the levels have 33, 17, 9, 5 and 3 points a side, all symmetric about 128, so that flips map
# points to points
SIDE = 256.0
CELLS = (33, 17, 9, 5, 3)
ASSIGNED = ("fcos", "fcos_whole", "atss", "retina")
# deterministic: with random boxes, exact ties are too rare to meet by chance, and are tested apart
quick = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def priors_of(name: str) -> Anchors:
    return make_anchors(name.removesuffix("_whole"), [(n, n) for n in CELLS])


def assign(name: str, anchors: Anchors, boxes: Tensor, *, low_quality: bool = True) -> Tensor:
    if name == "atss":
        return assign_atss(anchors, boxes, numbers("atss")["num_candidates"])
    if name == "retina":
        return match_anchors(iou(boxes[:, None], anchors.boxes), 0.4, 0.5, low_quality=low_quality)
    radius = None if name == "fcos_whole" else 1.5
    return assign_fcos(anchors, boxes, numbers("fcos")["size_limits"], radius)


def random_boxes(seed: int, count: int) -> Tensor:
    """Boxes inside the 256 px square, corners on 1/64 px, sides from 1 px to all of it, small ones often."""
    generator = torch.Generator().manual_seed(seed)
    sides = (torch.rand(count, 2, generator=generator) * 5.54).exp().clamp(max=SIDE)
    low = torch.rand(count, 2, generator=generator) * (SIDE - sides)
    return (torch.cat([low, low + sides.clamp(min=1)], dim=1) * 64).round() / 64


def flip_sites(matched: Tensor, per_cell: int, x: bool, y: bool) -> Tensor:
    """The same assignment seen in the flipped image."""
    axes = [axis for axis, wanted in ((0, y), (1, x)) if wanted]
    levels = matched.split([n * n * per_cell for n in CELLS])
    grids = [level.view(n, n, per_cell) for level, n in zip(levels, CELLS, strict=True)]
    return torch.cat([grid.flip(axes).flatten() for grid in grids])


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSIGNED)
@given(seed=seeds, count=st.integers(1, 12))
@quick
def test_order_of_boxes_does_not_matter(name: str, seed: int, count: int) -> None:
    """Up to ties: the same locations are positive, and each takes a box as good by the detector's measure."""
    anchors, boxes = priors_of(name), random_boxes(seed, count)
    boxes[-1] = boxes[0]  # a duplicate, always tied
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    one, other = assign(name, anchors, boxes), assign(name, anchors, boxes[order])
    assert torch.equal(one.clamp(max=0), other.clamp(max=0))
    locations = (one >= 0).nonzero()[:, 0]
    first, second = boxes[one[locations]], boxes[order][other[locations]]
    if name.startswith("fcos"):
        assert torch.equal(areas(first), areas(second))
    else:
        assert torch.equal(iou(anchors.boxes[locations], first), iou(anchors.boxes[locations], second))


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSIGNED)
@given(seed=seeds, count=st.integers(1, 12), x=st.booleans(), y=st.booleans())
@quick
def test_flips_of_image_and_boxes(name: str, seed: int, count: int, x: bool, y: bool) -> None:
    anchors, boxes = priors_of(name), random_boxes(seed, count)
    flipped = boxes.clone()
    if x:
        flipped[:, [0, 2]] = SIDE - boxes[:, [2, 0]]
    if y:
        flipped[:, [1, 3]] = SIDE - boxes[:, [3, 1]]
    per_cell = len(anchors.points) // sum(n * n for n in CELLS)
    # without RetinaNet's low-quality matches: a small box lies wholly inside many anchors of equal size,
    # whose IoU is equal up to rounding, and "the best of them" is then a matter of the last digit
    matched = assign(name, anchors, boxes, low_quality=False)
    other = assign(name, anchors, flipped, low_quality=False)
    assert torch.equal(flip_sites(matched, per_cell, x, y), other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSIGNED)
@given(seed=seeds, far=st.sampled_from([-10_000.0, 10_000.0]))
@quick
def test_boxes_far_outside_get_no_positive(name: str, seed: int, far: float) -> None:
    anchors, boxes = priors_of(name), random_boxes(seed, 4)
    assert (assign(name, anchors, boxes + far) < 0).all()
    near = assign(name, anchors, boxes)
    assert torch.equal(assign(name, anchors, torch.cat([boxes, boxes + far])), near)


@pytest.mark.parametrize("name", ASSIGNED)
def test_equal_boxes_go_to_the_first(name: str) -> None:
    box = torch.tensor([[40.0, 40.0, 140.0, 150.0]])
    matched = assign(name, priors_of(name), box.repeat(3, 1))
    assert (matched >= 0).any()
    assert matched.max() == 0


@pytest.mark.parametrize("name", ASSIGNED)
def test_no_boxes(name: str) -> None:
    assert (assign(name, priors_of(name), torch.zeros(0, 4)) == -1).all()


def test_fcos_levels_meet_at_their_limits() -> None:
    """A largest distance of exactly 64 px belongs to both levels it separates, 65 px to the coarser one."""
    anchors = priors_of("fcos")
    levels = torch.arange(5).repeat_interleave(torch.tensor(anchors.level_sizes))
    for half, expected in ((64.0, {0, 1}), (65.0, {1})):
        box = torch.tensor([[128 - half, 128 - half, 128 + half, 128 + half]])
        at_centre = (anchors.points == 128).all(dim=1)
        matched = assign_fcos(anchors, box, numbers("fcos")["size_limits"], 1.5)
        assert set(levels[at_centre & (matched >= 0)].tolist()) == expected


def test_fcos_prefers_the_smaller_box() -> None:
    boxes = torch.tensor([[64.0, 64.0, 192.0, 192.0], [100.0, 100.0, 156.0, 156.0]])
    anchors = priors_of("fcos")
    matched = assign_fcos(anchors, boxes, [64, 128, 256, 512], None)
    inner = side_distances(anchors.points, boxes[1]).amin(dim=1) > 0
    fine = torch.arange(len(matched)) < anchors.level_sizes[0]
    assert (matched[inner & fine] == 1).all()


def test_fcos_refuses_other_numbers_of_levels() -> None:
    with pytest.raises(ValueError, match="one between each two of the 5 levels"):
        assign_fcos(priors_of("fcos"), torch.rand(1, 4), [64, 128], 1.5)


def test_atss_with_levels_of_few_cells() -> None:
    """One cell per level: all five are candidates; mean + std keeps the one whose anchor fits the box."""
    anchors = make_anchors("atss", [(1, 1)] * 5)
    matched = assign_atss(anchors, torch.tensor([[-30.0, -34.0, 34.0, 30.0]]), 9)
    assert matched.tolist() == [0, -1, -1, -1, -1]


def test_atss_with_a_single_cell() -> None:
    anchors = make_anchors("atss", [(1, 1)], strides=(8,))
    assert assign_atss(anchors, torch.tensor([[-9.0, -9.0, 9.0, 9.0]]), 9).tolist() == [0]


def test_low_quality_match_keeps_the_anchors_own_best_box() -> None:
    """Anchor 1 is the best of box 1 (0.3), but overlaps box 0 more: it becomes positive, for box 0."""
    overlap = torch.tensor([[0.9, 0.35], [0.0, 0.3]])
    assert match_anchors(overlap, 0.4, 0.5, low_quality=True).tolist() == [0, 0]
    assert match_anchors(overlap, 0.4, 0.5, low_quality=False).tolist() == [0, -1]


def test_exemption_is_scaled_per_box_and_the_later_of_a_class_counts() -> None:
    overlap = torch.tensor([0.0, 0.5, 0.75])  # 1 / (1 - IoU): 1, 2, 4
    inside = torch.tensor([[True, False], [True, True], [True, True]])
    same = negative_exemption(overlap, inside, torch.tensor([1, 1]), 3)
    # box 0 alone: 0, 1/3, 1; box 1 has locations 1 and 2: 0, 1
    assert_close(same, torch.tensor([[0.0, 0, 0], [0, 0, 0], [0, 1, 0]]))
    other = negative_exemption(overlap, inside, torch.tensor([1, 2]), 3)
    assert_close(other, torch.tensor([[0.0, 0, 0], [0, 1 / 3, 0], [0, 1, 1]]))


@given(seed=seeds)
@quick
def test_decoding_inverts_coding(seed: int) -> None:
    boxes = random_boxes(seed, 8)
    for name in ("fcos", "atss", "retina"):
        anchors = priors_of(name)
        generator = torch.Generator().manual_seed(seed)
        locations = torch.randint(len(anchors.points), (8,), generator=generator)
        points, sizes = anchors.points[locations], anchors.sizes[locations]
        distances = side_distances(points, boxes)
        # coordinates below 256 px, and logarithms of size ratios below 2^9: some units of 2^-15 px
        assert_close(LTRBCoder().decode(distances, points, sizes), boxes, rtol=0, atol=1e-4)
        delta = DeltaCoder((10.0, 10.0, 5.0, 5.0))
        fits = ((boxes[:, 2:] - boxes[:, :2]) / sizes < 62).all(dim=1)
        decoded = delta.decode(delta.encode(boxes, points, sizes), points, sizes)
        assert_close(decoded[fits], boxes[fits], rtol=0, atol=1e-3)


def test_decoded_boxes_stay_finite() -> None:
    """exp(1000) is not: sizes are limited to 62.5 anchors."""
    decoded = DeltaCoder((1.0, 1.0, 1.0, 1.0)).decode(
        torch.tensor([[0.0, 0.0, 1000.0, 1000.0]]), torch.zeros(1, 2), torch.full((1, 2), 16.0)
    )
    assert_close(decoded, torch.tensor([[-500.0, -500.0, 500.0, 500.0]]))


def test_priors_have_exact_strides() -> None:
    """800 x 1344: the coarsest maps are 13 x 21 and 7 x 11, yet their cells are 64 and 128 px apart."""
    sizes = [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)]
    anchors = make_anchors("retina", sizes)
    for level, (rows, columns), stride in zip(
        anchors.points.split(list(anchors.level_sizes)), sizes, (8, 16, 32, 64, 128), strict=True
    ):
        assert level[-1].tolist() == [(columns - 1) * stride, (rows - 1) * stride]
        assert level[9 * columns].tolist() == [0, stride]
    side = anchors.sizes.prod(dim=1).sqrt().view(-1, 3, 3)[:: 168 * 100]
    assert_close(side[0, :, 0], torch.tensor([32.0, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]))
    assert_close(anchors.sizes[:3, 1] / anchors.sizes[:3, 0], torch.tensor([0.5, 1.0, 2.0]))

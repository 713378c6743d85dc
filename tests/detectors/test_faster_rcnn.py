"""What Faster R-CNN does differently from torchvision's: strides, pooling, losses."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close
from torchvision.models.detection.image_list import ImageList

from ifpn.detectors.anchors import AnchorGrid
from ifpn.detectors.roi import PyramidRoIAlign, box_head_losses
from ifpn.detectors.rpn import AnchorAdapter, ProposalMatcher, ProposalNetwork
from tests.detectors.cases import make_detector, make_target

STRIDES = (4, 8, 16, 32)


def ramps(size: int) -> dict[str, Tensor]:
    """Maps of the x coordinate in px of each cell's centre, and of the level's index in channel 1."""
    maps = {}
    for i, stride in enumerate(STRIDES):
        x = (torch.arange(size // stride) + 0.5) * stride
        ramp = x.expand(1, 1, size // stride, -1)
        maps[str(i)] = torch.cat([ramp, torch.full_like(ramp, float(i))], dim=1)
    return maps


def test_pooled_bins_lie_where_the_box_is() -> None:
    """Sampling a ramp gives the centres of the bins, also of boxes between cells (aligned sampling)."""
    boxes = torch.tensor([[20.0, 24.0, 90.0, 94.0], [101.3, 64.0, 421.8, 400.0], [97.0, 50.0, 500.0, 500.0]])
    pooled = PyramidRoIAlign(STRIDES, 7)(ramps(640), [boxes], [(640, 640)])
    centres = boxes[:, :1] + (torch.arange(7) + 0.5) / 7 * (boxes[:, 2:3] - boxes[:, :1])
    assert pooled.shape == (3, 2, 7, 7)
    assert_close(pooled[:, 0], centres[:, None].expand(3, 7, 7), rtol=0, atol=1e-3)


def test_level_follows_the_size() -> None:
    """224 px from stride 16 (level 4); half of it one level finer; limits at both ends; order is kept."""
    sides = [500.0, 10.0, 223.0, 225.0, 111.0, 449.0]
    boxes = [torch.tensor([[20.0, 20.0, 20 + side, 20 + side] for side in sides])]
    pooled = PyramidRoIAlign(STRIDES, 7)(ramps(640), boxes, [(640, 640)])
    assert pooled[:, 1, 3, 3].tolist() == [3, 0, 1, 2, 0, 3]


def test_every_level_has_a_gradient_also_without_proposals() -> None:
    maps = {name: level.requires_grad_() for name, level in ramps(64).items()}
    PyramidRoIAlign(STRIDES, 7)(maps, [torch.zeros(0, 4)], [(64, 64)]).sum().backward()
    assert all(level.grad is not None and level.grad.abs().max() == 0 for level in maps.values())


def test_anchors_have_exact_strides() -> None:
    """800 x 1344: the pooled level has 13 x 21 cells, 64 px apart."""
    sizes = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    grid = AnchorGrid((4, 8, 16, 32, 64), (8.0,), (0.5, 1.0, 2.0))
    anchors = AnchorAdapter(grid)(
        ImageList(torch.zeros(2, 3, 800, 1344), [(800, 1333), (790, 1344)]),
        [torch.zeros(2, 1, *s) for s in sizes],
    )
    assert len(anchors) == 2
    assert_close(anchors[0][-2], torch.tensor([20 * 64.0 - 256, 12 * 64 - 256, 20 * 64 + 256, 12 * 64 + 256]))


def test_a_box_that_overlaps_no_anchor_gets_none() -> None:
    overlap = torch.tensor([[0.2, 0.1, 0.0], [0.0, 0.0, 0.0]])
    assert ProposalMatcher(0.3, 0.7)(overlap).tolist() == [0, -1, -1]


def network(batch_size: int) -> ProposalNetwork:
    return ProposalNetwork(
        8,
        AnchorGrid((8,), (8.0,), (1.0,)),
        foreground_iou=0.7,
        background_iou=0.3,
        batch_size_per_image=batch_size,
        positive_fraction=0.5,
        pre_nms_top_n=(100, 100),
        post_nms_top_n=(100, 100),
        nms_threshold=0.7,
    )


def test_proposal_losses() -> None:
    """Sums over sampled anchors, ignored ones left out, over the constant 256 x 2 images."""
    logits, deltas, targets = torch.randn(8, 1), torch.randn(8, 4), torch.randn(8, 4)
    labels = torch.tensor([1.0, 0, 0, -1, 1, 0, 0, 0])
    cls, box = network(256).compute_loss(logits, deltas, list(labels.split(4)), list(targets.split(4)))
    kept = labels >= 0
    assert_close(cls, F.binary_cross_entropy_with_logits(logits[kept, 0], labels[kept], reduction="sum") / 512)
    assert_close(box, (deltas - targets)[labels == 1].abs().sum() / 512)


def test_box_head_losses() -> None:
    """Cross entropy is the mean over proposals; L1 reads the offsets of each proposal's own class."""
    logits, labels = torch.randn(6, 4), torch.tensor([0, 3, 1, 0, 2, 0])
    deltas, targets = torch.randn(6, 16), torch.randn(6, 4)
    losses = box_head_losses(logits, deltas, labels, targets)
    assert_close(losses["loss_classifier"], F.cross_entropy(logits, labels))
    own = torch.stack([deltas[i, 4 * label : 4 * label + 4] for i, label in enumerate(labels.tolist())])
    assert_close(losses["loss_box_reg"], (own - targets)[labels > 0].abs().sum() / 6)


@pytest.mark.parametrize("training", [True, False])
def test_background_stays_inside(training: bool) -> None:
    """Class 0 of one is a real class: it has a box loss, and comes out as label 0."""
    model = make_detector("faster_rcnn", 1).train(training)
    picture = [torch.rand(3, 64, 64)]
    if training:
        assert model(picture, [make_target([[10, 10, 50, 50]], [0])])["loss_box_reg"] > 0
    else:
        assert set(model(picture)[0]["labels"].tolist()) == {0}

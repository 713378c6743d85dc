"""Losses on raw tensors: finite for every valid target, independent of how often a batch is repeated."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from ifpn.detectors.boxes import giou_loss
from ifpn.detectors.heads import Prediction
from ifpn.detectors.losses import mean_over_ranks
from ifpn.detectors.postprocess import Postprocess, clip
from tests.detectors.cases import DENSE, make_anchors, make_detector, make_target

SIZES = [(16, 12), (8, 6), (4, 3), (2, 2), (1, 1)]  # 128 x 96 px
KINDS = (*DENSE, "atss_delta")
finite_floats = st.floats(-200, 500, width=32)


def criterion_of(kind: str, num_classes: int) -> nn.Module:
    name, _, coder = kind.partition("_")
    return make_detector(name, num_classes, box_coder=coder or "ltrb").criterion


def random_prediction(kind: str, num_classes: int, images: int = 2, *, scale: float = 1.0, seed: int = 0) -> Prediction:
    """Logits of the given scale; distances of some 50 px times the scale, never negative."""
    generator = torch.Generator().manual_seed(seed)
    anchors = make_anchors(kind.partition("_")[0], SIZES)

    def normal(last: int) -> Tensor:
        return torch.randn(images, len(anchors.points), last, generator=generator) * scale

    box = normal(4) if kind in ("retina", "atss_delta") else (normal(4) * 50).relu()
    quality = None if kind == "retina" else normal(1).requires_grad_()
    return Prediction(normal(num_classes).requires_grad_(), box.requires_grad_(), quality)


def run(kind: str, criterion: nn.Module, prediction: Prediction, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return criterion(prediction, make_anchors(kind.partition("_")[0], SIZES), targets)


@st.composite
def targets(draw: st.DrawFn, num_classes: int) -> dict[str, Tensor]:
    """Valid boxes of any place and size, from 1/64 px on, also outside the image; duplicates are likely."""
    boxes, labels = [], []
    for _ in range(draw(st.integers(0, 5))):
        x, y = draw(finite_floats), draw(finite_floats)
        width, height = draw(st.floats(1 / 64, 2000, width=32)), draw(st.floats(1 / 64, 2000, width=32))
        boxes.append([x, y, x + width, y + height])
        labels.append(draw(st.integers(0, num_classes - 1)))
    return make_target(boxes + boxes[:1], labels + labels[:1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), scale=st.sampled_from([0.01, 1.0, 30.0]), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_losses_and_gradients_are_finite(kind: str, data: st.DataObject, scale: float, seed: int) -> None:
    criterion = criterion_of(kind, 3)
    prediction = random_prediction(kind, 3, scale=scale, seed=seed)
    losses = run(kind, criterion, prediction, [data.draw(targets(3)), data.draw(targets(3))])
    total = torch.stack(list(losses.values()))
    assert total.isfinite().all()
    assert (total >= 0).all()
    total.sum().backward()
    leaves = [t for t in prediction if t is not None] + list(criterion.parameters())
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("part", ["cls_logits", "box_code"])
@pytest.mark.parametrize("kind", KINDS)
def test_predictions_that_are_nan_give_a_loss_that_is_nan_and_no_error(kind: str, part: str) -> None:
    """The policy for losses that are not finite then decides; torch's cross-entropy of probabilities would raise."""
    prediction = random_prediction(kind, 3)
    prediction = prediction._replace(**{part: getattr(prediction, part) * torch.nan})
    losses = run(kind, criterion_of(kind, 3), prediction, [make_target([[10, 10, 90, 80]], [1])] * 2)
    total = torch.stack(list(losses.values())).sum()
    assert total.isnan()
    total.backward()


@pytest.mark.parametrize("kind", KINDS)
def test_repeating_the_batch_changes_nothing(kind: str) -> None:
    """Every loss is a sum over something counted in the same batch, so two copies have the same loss."""
    prediction = random_prediction(kind, 3)
    batch = [make_target([[10, 10, 60, 70], [30, 5, 90, 100]], [0, 2]), make_target([[5, 40, 50, 90]], [1])]
    once = run(kind, criterion_of(kind, 3), prediction, batch)
    twice = Prediction(*(None if t is None else t.detach().repeat(2, 1, 1) for t in prediction))
    again = run(kind, criterion_of(kind, 3), twice, batch * 2)
    for key, loss in once.items():
        assert_close(again[key], loss, rtol=1e-5, atol=1e-6)
        assert loss > 0


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_boxes_does_not_change_losses(kind: str) -> None:
    prediction = random_prediction(kind, 3)
    boxes, labels = [[10, 10, 60, 70], [30, 5, 90, 100], [12, 8, 61, 75]], [0, 2, 0]
    second = make_target([[5, 40, 50, 90]], [1])
    one = run(kind, criterion_of(kind, 3), prediction, [make_target(boxes, labels), second])
    other = run(kind, criterion_of(kind, 3), prediction, [make_target(boxes[::-1], labels[::-1]), second])
    # where boxes of a class overlap, the exemption of the later one counts: the stated rule
    for key in one.keys() - {"loss_neg"}:
        assert_close(other[key], one[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["fcos", "atss", "autoassign"])
def test_a_perfect_prediction_has_almost_no_loss(kind: str) -> None:
    """All locations inside the box predict it; sure of its class inside, of background outside."""
    box, label = torch.tensor([10.0, 10.0, 60.0, 70.0]), 1
    anchors = make_anchors(kind, SIZES)
    distances = torch.cat([anchors.points - box[:2], box[2:] - anchors.points], dim=1)
    criterion = criterion_of(kind, 3)
    inside = distances.amin(dim=1) > 0
    logits = torch.full((1, len(distances), 3), -20.0)
    logits[0, inside, label] = 20.0
    quality = torch.full((1, len(distances), 1), 20.0)
    good = Prediction(logits, distances.clamp(min=0)[None], quality)
    losses = run(kind, criterion, good, [make_target([box.tolist()], [label])])
    if kind == "autoassign":
        assert losses["loss_pos"] < 1e-3
    else:
        assert losses["loss_box_reg"] < 1e-5


def test_autoassign_without_any_location_inside() -> None:
    """The constant -ln(0), limited to 100, for each box; no gradient, and no explosion of the prior."""
    criterion = criterion_of("autoassign", 3)
    prediction = random_prediction("autoassign", 3, images=1)
    losses = run("autoassign", criterion, prediction, [make_target([[1, 1, 3, 3], [9, 9, 11, 12]], [0, 1])])
    assert_close(losses["loss_pos"].item(), 0.25 * 100)
    assert losses["loss_norm"].item() == 0
    (losses["loss_pos"] + losses["loss_norm"]).backward()
    assert all(leaf.grad.abs().max() == 0 for leaf in (prediction.cls_logits, prediction.box_code, criterion.mu))


@pytest.mark.parametrize(("x", "y"), [(True, False), (False, True), (True, True)])
def test_flips_of_image_and_boxes_do_not_change_autoassign(x: bool, y: bool) -> None:
    """256 px in levels of 33, 17, 9, 5 and 3 points a side, all symmetric about 128; sigma away from 1, mu 0."""
    cells, side = (33, 17, 9, 5, 3), 256.0
    anchors = make_anchors("autoassign", [(n, n) for n in cells])
    generator = torch.Generator().manual_seed(3)
    shape = (1, len(anchors.points))
    cls, quality = (torch.randn(*shape, last, generator=generator) for last in (3, 1))
    prediction = Prediction(cls, (torch.randn(*shape, 4, generator=generator) * 50).relu(), quality)
    boxes = torch.tensor([[10.0, 12, 60, 71], [30, 5, 190, 100], [20, 30, 200, 250], [101, 99, 103, 102]])
    axes = [axis for axis, wanted in ((0, y), (1, x)) if wanted]

    def flipped(maps: Tensor) -> Tensor:
        grids = [g.view(n, n, -1) for g, n in zip(maps[0].split([n * n for n in cells]), cells, strict=True)]
        return torch.cat([grid.flip(axes).flatten(0, 1) for grid in grids])[None]

    order = [2 if x else 0, 3 if y else 1, 0 if x else 2, 1 if y else 3]  # left, top, right, bottom
    mirrored = torch.where(torch.tensor([x, y, x, y]), side - boxes[:, [2, 3, 0, 1]], boxes)
    other = Prediction(flipped(cls), flipped(prediction.box_code)[..., order], flipped(quality))
    criterion, labels = criterion_of("autoassign", 3), torch.tensor([0, 2, 0, 1])
    with torch.no_grad():
        criterion.sigma.copy_(torch.tensor([[0.5, 2.0], [1.0, 1.5], [3.0, 0.7]]))
    one = criterion(prediction, anchors, [{"boxes": boxes, "labels": labels}])
    two = criterion(other, anchors, [{"boxes": mirrored, "labels": labels}])
    for key, loss in one.items():
        assert_close(two[key], loss, rtol=1e-5, atol=1e-6)  # sums in another order
        assert loss > 0


def test_running_mean_of_positives_is_kept_in_checkpoints() -> None:
    criterion = criterion_of("retina", 3)
    assert criterion.state_dict()["positives_per_image"] == 50
    run("retina", criterion, random_prediction("retina", 3), [make_target([], [])] * 2)
    # at least one positive per batch is counted, as in cvpods: 0.9 * 50 + 0.1 * 1 / 2 images
    assert_close(criterion.state_dict()["positives_per_image"], torch.tensor(45.05))


def test_mean_over_ranks_of_one_process() -> None:
    values = torch.tensor([3.0, 4.0])
    assert mean_over_ranks(values) is values


@pytest.mark.parametrize("kind", ["fcos", "atss", "autoassign"])
def test_heads_without_quality_are_refused(kind: str) -> None:
    prediction = random_prediction(kind, 3)._replace(quality_logits=None)
    with pytest.raises(ValueError, match="PointHead"):
        run(kind, criterion_of(kind, 3), prediction, [make_target([], [])] * 2)


def test_giou_of_known_boxes() -> None:
    """Half overlap: IoU 1/3, hull full: loss 2/3. Touching corners: IoU 0, half the hull empty: loss 1.5."""
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.0]])
    b = torch.tensor([[1.0, 0.0, 3.0, 2.0], [2.0, 2.0, 4.0, 4.0]])
    assert_close(giou_loss(a, b), torch.tensor([2 / 3, 1.5]))


def fixed_prediction(probabilities: list[list[float]], boxes: list[list[float]]) -> tuple[Prediction, Any]:
    """Sites with the given class probabilities and boxes, quality 0.25."""

    class Given:
        def decode(self, code: Tensor, points: Tensor, sizes: Tensor) -> Tensor:
            return code

    logits = torch.tensor(probabilities).logit()[None]
    quality = torch.full((1, len(boxes), 1), 0.25).logit()
    return Prediction(logits, torch.tensor(boxes)[None], quality), Given()


@pytest.mark.parametrize(
    ("score", "expected"),
    [("class", [0.9, 0.1]), ("sqrt_quality", [(0.9 / 4) ** 0.5, (0.1 / 4) ** 0.5]), ("quality", [0.9 / 4])],
)
def test_scores(score: str, expected: list[float]) -> None:
    """Threshold 0.05 on the class alone for sqrt_quality (0.1 passes), on the product for quality (not)."""
    boxes = [[0.0, 0, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49]]
    prediction, coding = fixed_prediction([[0.9], [0.1], [0.04]], boxes)
    anchors = make_anchors("fcos", [(1, 3)], strides=(8,))
    (found,) = Postprocess(score, 0.05, 1000, 0.6, 100)(prediction, anchors, coding)
    assert_close(found["scores"], torch.tensor(expected))


def test_suppression_is_per_class_also_left_of_the_image() -> None:
    """Boxes are not clipped yet; the second lies one class shift of torchvision's NMS before the first."""
    boxes = [[900.0, 0, 1000, 100], [-101.0, -1001, -1, -901], [905.0, 0, 1000, 100]]
    prediction, coding = fixed_prediction([[0.9, 0.01], [0.01, 0.8], [0.7, 0.01]], boxes)
    anchors = make_anchors("fcos", [(1, 3)], strides=(8,))
    (found,) = Postprocess("class", 0.05, 1000, 0.6, 100)(prediction, anchors, coding)
    assert found["labels"].tolist() == [0, 1]  # the third overlaps the first, of its own class
    assert_close(found["boxes"], torch.tensor(boxes[:2]))


def test_top_k_per_level_and_maximum() -> None:
    boxes = [[20.0 * i, 0, 20 * i + 9, 9] for i in range(6)]
    prediction, coding = fixed_prediction([[0.9 - 0.1 * i, 0.2] for i in range(6)], boxes)
    anchors = make_anchors("fcos", [(1, 4), (1, 2)], strides=(8, 16))
    (found,) = Postprocess("class", 0.05, 3, 0.6, 100)(prediction, anchors, coding)
    # the best 3 of the first level; the second has two locations, so two
    assert_close(found["scores"], torch.tensor([0.9, 0.8, 0.7, 0.5, 0.4]))
    (found,) = Postprocess("class", 0.05, 3, 0.6, 2)(prediction, anchors, coding)
    assert_close(found["scores"], torch.tensor([0.9, 0.8]))


def test_unknown_score_is_refused() -> None:
    with pytest.raises(ValueError, match="sqrt_quality"):
        Postprocess("sqrt", 0.05, 1000, 0.6, 100)


def test_clip_drops_what_is_outside() -> None:
    detection = {
        "boxes": torch.tensor([[-5.0, -5, 5, 5], [-9.0, 2, -1, 8], [2.0, 3, 40, 9]]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
        "labels": torch.tensor([0, 1, 2]),
    }
    (found,) = clip([detection], [(10, 20)])
    assert found["boxes"].tolist() == [[0, 0, 5, 5], [2, 3, 20, 9]]
    assert found["labels"].tolist() == [0, 2]

"""Targets, losses and detections against figures computed by the reference implementations (tests/golden).

Indices are compared exactly, floats to rtol 1e-5: both sides compute in float32, in different orders.
"""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import sigmoid_focal_loss

from ifpn.detectors import ATSSCriterion, AutoAssignCriterion, FCOSCriterion, RetinaNetCriterion
from ifpn.detectors.anchors import Anchors
from ifpn.detectors.atss import assign_atss
from ifpn.detectors.autoassign import negative_bag_loss, positive_bag_loss
from ifpn.detectors.boxes import DeltaCoder, LTRBCoder, giou_loss, iou, side_distances
from ifpn.detectors.centerness import centerness
from ifpn.detectors.fcos import assign_fcos
from ifpn.detectors.heads import Prediction
from ifpn.detectors.matching import IGNORED
from ifpn.detectors.postprocess import Postprocess, clip
from tests.detectors.cases import arrays, figures, grid_sizes, make_anchors, make_target, numbers


def close(actual: Tensor, expected: object, rtol: float = 1e-5) -> None:
    assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype), rtol=rtol, atol=1e-6)


def pick(config: dict, *names: str) -> dict:
    return {name: config[name] for name in names}


POST = ("score_threshold", "top_k", "nms_threshold", "max_detections")
FOCAL = ("alpha", "gamma", "box_weight")


@pytest.fixture(scope="module")
def dense() -> tuple[Prediction, list[dict[str, Tensor]], list[tuple[int, int]]]:
    """Two 512 x 640 images, four classes."""
    data = arrays("dense_loss_inputs")
    targets = [{"boxes": data[f"gt_boxes_{i}"], "labels": data[f"gt_labels_{i}"]} for i in range(2)]
    prediction = Prediction(data["cls_logits"], data["ltrb_pixels"], data["ctr_logits"])
    return prediction, targets, grid_sizes(data)


def atss_criterion(coding: str = "ltrb") -> ATSSCriterion:
    config = numbers("atss", coding)
    code = LTRBCoder() if coding == "ltrb" else DeltaCoder(config["weights"])
    return ATSSCriterion(**pick(config, *FOCAL, "num_candidates"), coding=code, count_empty=coding == "delta")


def fcos_criterion() -> FCOSCriterion:
    return FCOSCriterion(**pick(numbers("fcos"), *FOCAL, "size_limits", "centre_radius"))


def autoassign_criterion(num_classes: int) -> AutoAssignCriterion:
    names = ("box_weight", "positive_weight", "negative_weight", "prior_weight")
    return AutoAssignCriterion(num_classes, **pick(numbers("autoassign"), *names))


def leaves(prediction: Prediction) -> Prediction:
    """The same numbers as leaves that collect gradients."""
    return Prediction(*(t.clone().requires_grad_() for t in prediction))


def test_atss_targets() -> None:
    data = arrays("atss_assign_case0_random_512x640")
    anchors = make_anchors("atss", grid_sizes(data))
    matched = assign_atss(anchors, data["gt_boxes"], numbers("atss")["num_candidates"])
    locations = (matched >= 0).nonzero()[:, 0]
    boxes = data["gt_boxes"][matched[locations]]
    distances = side_distances(anchors.points[locations], boxes)
    assert locations.tolist() == data["mmdet_pos_idx"].tolist() == data["cvpods_fg_idx"].tolist()
    assert matched[locations].tolist() == data["mmdet_pos_gt"].tolist()
    assert torch.equal(distances, data["cvpods_fg_ltrb"])
    close(centerness(distances), data["cvpods_fg_centerness"])
    close(iou(anchors.boxes[locations], boxes), data["mmdet_pos_iou"])
    counts = matched[locations].bincount(minlength=len(data["gt_boxes"])).tolist()
    assert counts == figures("atss_assign_summary")["case0_random_512x640"]["pos_per_gt"]


def test_atss_targets_in_a_crowd() -> None:
    """A box that repeats an earlier one gets nothing, nor does one of 3 px between the points."""
    data = arrays("dense_loss_inputs")
    anchors, boxes = make_anchors("atss", grid_sizes(data)), data["gt_boxes_1"]
    matched = assign_atss(anchors, boxes, numbers("atss")["num_candidates"])
    locations = (matched >= 0).nonzero()[:, 0]
    assert matched[locations].bincount(minlength=len(boxes)).tolist() == [5, 7, 9, 0, 0, 9]
    first = centerness(side_distances(anchors.points[locations[:4]], boxes[matched[locations[:4]]]))
    close(first, [0.696311, 0.617914, 0.696311, 0.888889])


def test_atss_targets_of_an_empty_image() -> None:
    data = arrays("atss_assign_case2_empty_512x640")
    assert (assign_atss(make_anchors("atss", grid_sizes(data)), data["gt_boxes"], 9) == -1).all()


@pytest.mark.parametrize(("radius", "prefix"), [(1.5, "r1p5"), (None, "r0")])
def test_fcos_targets(radius: float | None, prefix: str) -> None:
    data = arrays("fcos_targets_case0_random_512x640")
    anchors = make_anchors("fcos", grid_sizes(data))
    matched = assign_fcos(anchors, data["gt_boxes"], numbers("fcos")["size_limits"], radius)
    locations = (matched >= 0).nonzero()[:, 0]
    distances = side_distances(anchors.points[locations], data["gt_boxes"][matched[locations]])
    assert locations.tolist() == data[f"{prefix}_fg_idx"].tolist()
    assert data["gt_labels"][matched[locations]].tolist() == data[f"{prefix}_fg_class"].tolist()
    assert torch.equal(distances, data[f"{prefix}_fg_ltrb"])
    close(centerness(distances), data[f"{prefix}_fg_centerness"])


@pytest.mark.parametrize("name", ["fcos", "atss"])
def test_centerness_detector_losses(name: str, dense) -> None:
    prediction, targets, sizes = dense
    expected = figures("dense_loss_expected")[f"{name}_cvpods"]
    criterion = fcos_criterion() if name == "fcos" else atss_criterion()
    inputs = leaves(prediction)
    losses = criterion(inputs, make_anchors(name, sizes), targets)
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_centerness"}
    for key, loss in losses.items():
        close(loss.detach(), expected[key])
    sum(losses.values()).backward()
    for key, leaf in zip(("cls", "reg", "ctr"), inputs, strict=True):
        close(leaf.grad.norm(), expected[f"grad_l2_{key}"])


def test_atss_losses_with_box_deltas(dense) -> None:
    prediction, targets, sizes = dense
    expected = figures("dense_loss_expected")["atss_mmdet_boxdelta"]
    prediction = prediction._replace(box_code=arrays("atss_boxdelta_inputs")["deltas"])
    losses = atss_criterion("delta")(prediction, make_anchors("atss", sizes), targets)
    close(losses["loss_cls"], expected["loss_cls"])
    close(losses["loss_box_reg"], expected["loss_bbox"])
    close(losses["loss_centerness"], expected["loss_centerness"])


def test_atss_losses_without_boxes(dense) -> None:
    """Figures of mmdet for the batch whose images were emptied."""
    prediction, targets, sizes = dense
    anchors = make_anchors("atss", sizes)
    prediction = prediction._replace(box_code=arrays("atss_boxdelta_inputs")["deltas"])
    empty = make_target([], [])
    one = atss_criterion("delta")(prediction, anchors, [targets[0], empty])
    none = atss_criterion("delta")(prediction, anchors, [empty, empty])
    close(torch.stack(list(one.values())), [44.13202, 1.654461, 0.786221])
    close(torch.stack(list(none.values())), [1333.582, 0.0, 0.0])


def test_autoassign_losses_and_gradients(dense) -> None:
    prediction, targets, sizes = dense
    expected = figures("dense_loss_expected")["autoassign_authors_init"]
    criterion = autoassign_criterion(4)
    inputs = leaves(prediction)
    losses = criterion(inputs, make_anchors("autoassign", sizes), targets)
    assert set(losses) == {"loss_pos", "loss_neg", "loss_norm"}
    for key, loss in losses.items():
        close(loss.detach(), expected[key])
    sum(losses.values()).backward()
    # sums of gradients of both signs: errors are relative to the terms, not to the result
    assert_close(criterion.mu.grad, torch.tensor(expected["grad_mu"]), rtol=1e-5, atol=1e-7)
    assert_close(criterion.sigma.grad, torch.tensor(expected["grad_sigma"]), rtol=1e-5, atol=1e-7)
    for key, leaf in zip(("cls", "reg", "obj"), inputs, strict=True):
        close(leaf.grad.norm(), expected[f"grad_l2_{key}"])


def autoassign_by_definition(
    prediction: Prediction, anchors: Anchors, targets: list[dict[str, Tensor]], mu: Tensor, sigma: Tensor
) -> dict[str, Tensor]:
    """The three losses of AutoAssign (Eq. 4 to 9), one box after the other, in float64."""
    points, strides = anchors.points.double(), anchors.strides.double()[:, None]
    bags, shares, negatives, prior_sum = [], [], [], 0.0
    for i, target in enumerate(targets):
        cls, code, objectness = (t[i].double() for t in prediction)
        joint = cls.sigmoid() * objectness.sigmoid()
        decoded = torch.cat([points - code[:, :2], points + code[:, 2:]], dim=1)
        boxes = target["boxes"].double()
        best = iou(decoded[:, None], boxes).amax(dim=1)
        exempt, image_sum = torch.zeros_like(joint), torch.zeros(())
        for box, label in zip(boxes, target["labels"].tolist(), strict=True):
            inside = (side_distances(points, box).amin(dim=1) > 0).nonzero()[:, 0]
            shift = ((points[inside] - (box[:2] + box[2:]) / 2) / strides[inside] - mu[label]) / sigma[label]
            prior = (-shift.square().sum(dim=1) / 2).exp()
            correct = joint[inside, label] * (-5 * giou_loss(decoded[inside], box)).exp()
            weight = (3 * correct).exp() * prior
            image_sum = image_sum + prior.sum()
            bags.append(-((weight * correct).sum() / weight.sum()).log() if len(inside) else torch.tensor(100.0))
            if len(inside):
                doubt = 1 / (1 - best[inside])
                exempt[inside, label] = (doubt - doubt.min()) / (doubt.max() - doubt.min()).clamp(min=1e-12)
        wrong = joint * (1 - exempt)
        negatives.append((-(wrong**2) * (1 - wrong).log()).sum())
        shares.append(len(boxes) / image_sum)
        prior_sum += float(image_sum.detach())
    return {
        "loss_pos": 0.25 * sum(bags) / len(bags),
        "loss_neg": 0.75 * sum(negatives) / prior_sum,
        "loss_norm": 0.75 * sum(shares) / len(shares),
    }


def test_autoassign_losses_with_trained_priors(dense) -> None:
    """Against the definition, box by box in float64, with mu and sigma away from 0 and 1; also a crowd."""
    prediction, targets, sizes = dense
    criterion, anchors = autoassign_criterion(4), make_anchors("autoassign", sizes)
    with torch.no_grad():
        criterion.mu.copy_(torch.linspace(-0.6, 0.8, 8).view(4, 2))
        criterion.sigma.copy_(torch.linspace(1.4, 0.5, 8).view(4, 2))
    exact = criterion.mu.detach().double().requires_grad_(), criterion.sigma.detach().double().requires_grad_()
    inputs = leaves(prediction)
    losses = criterion(inputs, anchors, targets)
    expected = autoassign_by_definition(prediction, anchors, targets, *exact)
    for key, value in expected.items():
        close(losses[key].detach(), value.detach())
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    for mine, its in zip((criterion.mu, criterion.sigma), exact, strict=True):
        assert_close(mine.grad, its.grad.float(), rtol=1e-5, atol=1e-7)


def test_autoassign_losses_of_single_and_emptied_images(dense) -> None:
    """Figures of the authors' code for image 0 alone, of mmdet for a batch with its second image emptied."""
    prediction, targets, sizes = dense
    criterion, anchors = autoassign_criterion(4), make_anchors("autoassign", sizes)
    first = Prediction(*(t[:1] for t in prediction))
    alone = criterion(first, anchors, targets[:1])
    emptied = criterion(prediction, anchors, [targets[0], make_target([], [])])
    close(torch.stack(list(alone.values())).detach(), [1.036340, 2.691510, 0.0719426])
    close(torch.stack(list(emptied.values())).detach(), [1.036340, 5.488258, 0.0359713])


def test_focal_giou_and_bag_tables() -> None:
    table = figures("retinanet_scalar_lr_expected")["scalar_tables"]
    logits = torch.tensor(table["focal_logits"])
    for label in (0, 1):
        loss = sigmoid_focal_loss(logits, torch.full_like(logits, label), alpha=0.25, gamma=2.0)
        close(loss, table[f"focal_target{label}_cvpods"])
    close(giou_loss(torch.tensor(table["boxes_pred"]), torch.tensor(table["boxes_tgt"])), table["giou_cvpods"])
    close(negative_bag_loss(torch.tensor(table["negbag_prob"])), table["autoassign_negative_bag"])
    weight = torch.tensor(table["posbag_gauss"]) * torch.tensor(table["posbag_mask"])
    close(positive_bag_loss(torch.tensor(table["posbag_p"]).T, weight.T), table["autoassign_positive_bag"])


def test_retinanet_anchors_targets_and_losses() -> None:
    data = arrays("retinanet")
    expected = figures("retinanet_scalar_lr_expected")["retinanet"]
    config = numbers("retina")
    names = ("background_iou", "foreground_iou", "alpha", "gamma", "momentum")
    coding = DeltaCoder((1.0, 1.0, 1.0, 1.0))
    # the figures are those of one image, where a running count that starts at 100 is 100 per image
    criterion = RetinaNetCriterion(coding=coding, initial_positives=100, **pick(config, *names))
    anchors = make_anchors("retina", grid_sizes(data))
    starts = torch.tensor([0, *anchors.level_sizes[:-1]]).cumsum(0)
    for start, cell in zip(starts, data["cell_anchors"], strict=True):
        close(anchors.boxes[start : start + 9], cell)  # the first cell of a level is centred at 0

    matched = criterion.match(anchors, data["gt_boxes"])
    locations = (matched >= 0).nonzero()[:, 0]
    assert locations.tolist() == data["fg_idx"].tolist()
    assert data["gt_labels"][matched[locations]].tolist() == data["fg_class"].tolist()
    assert (matched == IGNORED).nonzero()[:, 0].tolist() == data["ignore_idx"].tolist()
    code = coding.encode(data["gt_boxes"][matched[locations]], anchors.points[locations], anchors.sizes[locations])
    close(code, data["fg_deltas"])

    prediction = Prediction(data["cls_logits_NHWA_K"][None], data["deltas"][None], None)
    losses = criterion(prediction, anchors, [{"boxes": data["gt_boxes"], "labels": data["gt_labels"]}])
    close(losses["loss_cls"], expected["loss_cls"])
    close(losses["loss_box_reg"], expected["loss_box_reg"])
    close(criterion.positives_per_image, expected["ema_normalizer"])


def test_retinanet_detections() -> None:
    data = arrays("retinanet")
    config = numbers("retina")
    prediction = Prediction(data["cls_logits_NHWA_K"][None], data["deltas"][None], None)
    post = Postprocess("class", **pick(config, *POST))
    (found,) = post(prediction, make_anchors("retina", grid_sizes(data)), DeltaCoder((1.0, 1.0, 1.0, 1.0)))
    assert len(found["scores"]) == len(data["det_scores"]) == 100
    close(found["scores"], data["det_scores"])

    def ordered(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        """Rows (score, label, box) in one order: the reference sorts equal scores as its CPU pleases."""
        rows = torch.cat([scores[:, None], labels[:, None].to(scores.dtype), boxes], dim=1)
        return torch.stack(sorted(rows, key=lambda row: [round(float(v), 3) for v in row], reverse=True))

    actual = ordered(found["boxes"], found["scores"], found["labels"])
    expected = ordered(data["det_boxes_unclipped"], data["det_scores"], data["det_labels"])
    assert_close(actual, expected, rtol=1e-5, atol=1e-4)  # px, near 0


def test_point_detections() -> None:
    data = arrays("decode_nms_points")
    config = numbers("atss")
    prediction = Prediction(*(data[k][None] for k in ("cls_logits", "ltrb_pixels", "ctr_logits")))
    post = Postprocess("sqrt_quality", **pick(config, *POST))
    (found,) = post(prediction, make_anchors("fcos", grid_sizes(data)), LTRBCoder())
    close(found["scores"], data["fcos_atss_scores"])
    assert found["labels"].tolist() == data["fcos_atss_labels"].tolist()
    assert_close(found["boxes"], data["fcos_atss_boxes_unclipped"], rtol=1e-5, atol=1e-4)

    post = Postprocess("quality", **pick(numbers("autoassign"), *POST))
    (product,) = post(prediction, make_anchors("autoassign", grid_sizes(data)), LTRBCoder())
    assert len(product["scores"]) == 12
    close(product["scores"][0], 0.814014)

    height, width = data["image_hw"].tolist()
    scale = torch.tensor([600 / width, 480 / height, 600 / width, 480 / height])
    (final,) = clip([{**found, "boxes": found["boxes"] * scale}], [(480, 600)])
    assert_close(final["boxes"], data["fcos_atss_post_480x600_boxes"], rtol=1e-5, atol=1e-4)
    close(final["scores"], data["fcos_atss_post_480x600_scores"])
    assert final["labels"].tolist() == data["fcos_atss_post_480x600_labels"].tolist()

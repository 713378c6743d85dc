"""The three losses that FCOS and ATSS share: they differ in which locations are positive."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ifpn.detectors.anchors import Anchors
from ifpn.detectors.boxes import BoxCoder, giou_loss, side_distances
from ifpn.detectors.contract import Target
from ifpn.detectors.heads import Prediction
from ifpn.detectors.losses import mean_over_ranks
from ifpn.detectors.matching import gather_matches


def centerness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of positive distances (..., 4) (FCOS, Eq. 3)."""
    near = torch.minimum(distances[..., :2], distances[..., 2:])
    far = torch.maximum(distances[..., :2], distances[..., 2:])
    return (near / far).prod(dim=-1).sqrt()


def centerness_losses(
    prediction: Prediction,
    anchors: Anchors,
    targets: Sequence[Target],
    matched: Tensor,
    *,
    coding: BoxCoder,
    alpha: float,
    gamma: float,
    box_weight: float,
    count_empty: bool = False,
) -> dict[str, Tensor]:
    """Focal, GIoU and centerness loss, each over the global batch's normaliser.

    N, the number of positive locations, divides the focal loss of all locations and the centerness loss of
    positive ones; S, the sum of their target centerness, divides the GIoU loss, which is weighted by it. N
    and S are averages over the ranks, at least 1.

    Args:
        prediction: cls_logits (N, A, K), box_code (N, A, 4), quality_logits (N, A, 1).
        anchors: of the images of this batch.
        targets: boxes and labels, one dict per image.
        matched: (N, A) index of the target box of each location within its image, `BACKGROUND` for none.
        coding: how box_code is read.
        alpha: weight of positives in the focal loss.
        gamma: its exponent.
        box_weight: factor of the GIoU loss.
        count_empty: an image without positives adds one to N, as in mmdet.

    Returns:
        `loss_cls`, `loss_box_reg`, `loss_centerness`.
    """
    if prediction.quality_logits is None:
        raise ValueError("the head predicts no centerness; use PointHead")
    images, locations, boxes, labels = gather_matches(matched, targets)
    points = anchors.points[locations]
    quality = centerness(side_distances(points, boxes))
    positives = (matched >= 0).sum(dim=1).clamp(min=int(count_empty)).sum()
    total = mean_over_ranks(torch.stack([positives.to(quality.dtype), quality.sum()])).clamp(min=1)

    classes = torch.zeros_like(prediction.cls_logits)
    classes[images, locations, labels] = 1
    focal = sigmoid_focal_loss(prediction.cls_logits, classes, alpha=alpha, gamma=gamma, reduction="sum")
    # boxes relative to their own point: differences of coordinates near 1000 px would lose three digits
    origin = torch.zeros_like(points)
    predicted = coding.decode(prediction.box_code[images, locations], origin, anchors.sizes[locations])
    giou = giou_loss(predicted, boxes - torch.cat([points, points], dim=1))
    logits = prediction.quality_logits[images, locations, 0]
    return {
        "loss_cls": focal / total[0],
        "loss_box_reg": box_weight * (giou * quality).sum() / total[1],
        "loss_centerness": F.binary_cross_entropy_with_logits(logits, quality, reduction="sum") / total[0],
    }

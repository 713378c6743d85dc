"""The three losses that FCOS and ATSS share: they differ in which sites are positive."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import sigmoid_focal_loss

from ifpn.detectors.boxes import BoxCoding, giou_loss, side_distances
from ifpn.detectors.heads import Prediction
from ifpn.detectors.matching import gather_matches
from ifpn.detectors.normaliser import mean_over_ranks
from ifpn.detectors.priors import Priors
from ifpn.detectors.targets import Target


def centerness(distances: Tensor) -> Tensor:
    """sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) of positive distances (..., 4) (FCOS, Eq. 3)."""
    near = torch.minimum(distances[..., :2], distances[..., 2:])
    far = torch.maximum(distances[..., :2], distances[..., 2:])
    return (near / far).prod(dim=-1).sqrt()


def centerness_losses(
    prediction: Prediction,
    priors: Priors,
    targets: Sequence[Target],
    matched: Tensor,
    *,
    coding: BoxCoding,
    alpha: float,
    gamma: float,
    box_weight: float,
    count_empty: bool = False,
) -> dict[str, Tensor]:
    """Focal, GIoU and centerness loss, each over the global batch's normaliser.

    N, the number of positive sites, divides the focal loss of all sites and the centerness loss of
    positive ones; S, the sum of their target centerness, divides the GIoU loss, which is weighted by it. N
    and S are averages over the ranks, at least 1.

    Args:
        prediction: cls_logits (N, A, K), box_code (N, A, 4), quality_logits (N, A, 1).
        matched: (N, A) index of the target box of each site within its image, ``BACKGROUND`` for none.
        coding: how box_code is read.
        alpha, gamma: of the focal loss.
        box_weight: factor of the GIoU loss.
        count_empty: an image without positives adds one to N, as in mmdet.

    Returns:
        ``loss_cls``, ``loss_box_reg``, ``loss_centerness``.
    """
    if prediction.quality_logits is None:
        raise ValueError("the head predicts no centerness; use PointHead")
    images, sites, boxes, labels = gather_matches(matched, targets)
    points = priors.points[sites]
    quality = centerness(side_distances(points, boxes))
    positives = (matched >= 0).sum(dim=1).clamp(min=int(count_empty)).sum()
    total = mean_over_ranks(torch.stack([positives.to(quality.dtype), quality.sum()])).clamp(min=1)

    classes = torch.zeros_like(prediction.cls_logits)
    classes[images, sites, labels] = 1
    focal = sigmoid_focal_loss(prediction.cls_logits, classes, alpha=alpha, gamma=gamma, reduction="sum")
    # boxes relative to their own point: differences of coordinates near 1000 px would lose three digits
    origin = torch.zeros_like(points)
    predicted = coding.decode(prediction.box_code[images, sites], origin, priors.sizes[sites])
    giou = giou_loss(predicted, boxes - torch.cat([points, points], dim=1))
    logits = prediction.quality_logits[images, sites, 0]
    return {
        "loss_cls": focal / total[0],
        "loss_box_reg": box_weight * (giou * quality).sum() / total[1],
        "loss_centerness": F.binary_cross_entropy_with_logits(logits, quality, reduction="sum") / total[0],
    }

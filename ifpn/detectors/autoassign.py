"""AutoAssign (Zhu et al. 2020): locations inside a box are positive and negative at once, by weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from ifpn.bounds import Weight, check
from ifpn.detectors.anchors import Anchors
from ifpn.detectors.boxes import BoxCoder, LTRBCoder, giou_loss, side_distances
from ifpn.detectors.contract import Target
from ifpn.detectors.heads import Prediction
from ifpn.detectors.losses import bce_keep_nan, mean_over_ranks

DISTANCES = LTRBCoder()
TINY = 1e-12  # of the authors' code: keeps empty bags and equal overlaps from dividing by zero


def positive_bag_loss(probability: Tensor, weight: Tensor) -> Tensor:
    """-ln of the weighted mean probability of a box's locations (AutoAssign, Eq. 6).

    Args:
        probability: (A, G) P_ij, of location i being a correct detection of box j.
        weight: (A, G) centre prior, 0 outside the box; the weight of a location is e^(3 P) times it,
            normalised over the box. Gradients flow through it.

    Returns:
        (G,) losses; 100 for a box without any location (the logarithm is limited to -100).
    """
    confident = (3 * probability).exp() * weight
    share = confident / confident.sum(dim=0).clamp(min=TINY)
    bag = (share * probability).sum(dim=0).clamp(max=1)  # a weighted mean may exceed 1 by a rounding error
    return bce_keep_nan(bag, 1.0)


def negative_bag_loss(probability: Tensor) -> Tensor:
    """p² * -ln(1 - p) of each element: focal loss of background, gamma 2; gradients flow through p² too."""
    return probability**2 * bce_keep_nan(probability, 0.0)


@torch.no_grad()
def negative_exemption(overlap: Tensor, inside: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How far each (location, class) is exempt from being background (1 - w⁻ of AutoAssign, Eq. 8).

    A location inside a box is exempt for that box's class in proportion to 1 / (1 - IoU) of its
    prediction, scaled to 0..1 over the box. Inside two boxes of a class, the one of higher index counts.

    Args:
        overlap: (A,) best IoU of each predicted box with any target.
        inside: (A, G) whether the location lies inside the box.
        labels: (G,) classes.
        num_classes: K.

    Returns:
        (A, K) in 0..1.
    """
    inverse_margin = (1 / (1 - overlap).clamp(min=TINY))[:, None].expand(inside.shape)
    low = inverse_margin.masked_fill(~inside, torch.inf).amin(dim=0)
    high = inverse_margin.masked_fill(~inside, -torch.inf).amax(dim=0)
    scaled = (inverse_margin - low + TINY) / (
        high - low + TINY
    )  # infinite or NaN only where nothing is inside: not read
    # highest box index per (location, class), free of the undefined order of colliding writes on a GPU
    order = torch.where(inside, torch.arange(len(labels), device=labels.device), -1)
    winner = torch.full((len(inside), num_classes), -1, device=labels.device)
    winner.scatter_reduce_(1, labels.expand(inside.shape), order, "amax")
    return torch.where(winner >= 0, scaled.gather(1, winner.clamp(min=0)), 0.0)


@check
class AutoAssignCriterion(nn.Module):
    """Losses of AutoAssign.

    They are computed in three steps: 1) every location inside a box gets a weight as a positive of that box, from a
    learned centre prior and the location's own confidence; 2) the same locations are exempt from being background
    in proportion to the overlap of their prediction; 3) the positive loss asks each box's weighted mean for a
    detection, the negative loss asks what is not exempt for none, and the third keeps the centre prior on locations
    inside boxes.

    The centre prior of class c is a Gaussian of the distance between location and box centre in units of the
    level's stride, with learned `mu[c]` and `sigma[c]` for x and y.

    Args:
        num_classes: K.
        box_weight: factor of the GIoU loss in the exponent of the localisation probability.
        positive_weight: factor of the positive loss.
        negative_weight: factor of the negative loss.
        prior_weight: factor of the centre prior's own loss.
        coding: of the predicted boxes.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        box_weight: Weight,
        positive_weight: Weight,
        negative_weight: Weight,
        prior_weight: Weight,
        coding: BoxCoder = DISTANCES,
    ) -> None:
        super().__init__()
        self.coding = coding
        self.box_weight = box_weight
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight
        self.prior_weight = prior_weight
        self.mu = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))

    def forward(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`loss_pos`, `loss_neg`, `loss_norm`.

        Normalisers are averages over the ranks: number of boxes (at least 1) for the positive loss, sum of
        the centre prior inside boxes (at least 1) for the negative one, number of images for the prior's own.
        """
        if prediction.quality_logits is None:
            raise ValueError("the head predicts no objectness; use PointHead")
        objectness = prediction.quality_logits.sigmoid()
        joint = prediction.cls_logits.sigmoid() * objectness  # (N, A, K)
        graph_anchor = prediction.box_code[:0].sum() + self.mu[:0].sum() + self.sigma[:0].sum()  # 0, with gradients 0
        positive, prior_loss, prior_sum, exemptions = [graph_anchor], [graph_anchor], [graph_anchor.detach()], []
        for probability, code, target in zip(joint, prediction.box_code, targets, strict=True):
            boxes, labels = target["boxes"], target["labels"]
            if len(boxes) == 0:
                exemptions.append(torch.zeros_like(probability))
                continue
            distances = side_distances(anchors.points[:, None], boxes)  # (A, G, 4)
            inside = distances.amin(dim=-1) > 0
            weight = self.centre_prior(anchors, boxes, labels) * inside
            localised = self._localised(code, anchors.sizes, distances)
            loss = positive_bag_loss(probability[:, labels] * localised, weight)
            positive.append(loss.sum())
            # boxes with no location at all cannot shape the prior: without this rule they would add 1e12 each
            share = len(boxes) / weight.sum().clamp(min=TINY)
            prior_loss.append(torch.where(inside.any(), share, weight.sum() * 0))
            prior_sum.append(weight.sum().detach())

            decoded = self.coding.decode(code.detach(), anchors.points, anchors.sizes)
            overlap = box_iou(decoded, boxes).amax(dim=1)
            exemptions.append(negative_exemption(overlap, inside, labels, probability.shape[1]))

        negative = negative_bag_loss(joint * (1 - torch.stack(exemptions))).sum()
        count = sum(len(target["labels"]) for target in targets)
        local = torch.stack(
            [negative.new_tensor(count), torch.stack(prior_sum).sum(), negative.new_tensor(len(targets))]
        )
        total = mean_over_ranks(local).clamp(min=1)
        return {
            "loss_pos": self.positive_weight * torch.stack(positive).sum() / total[0],
            "loss_neg": self.negative_weight * negative / total[1],
            "loss_norm": self.prior_weight * torch.stack(prior_loss).sum() / total[2],
        }

    def centre_prior(self, anchors: Anchors, boxes: Tensor, labels: Tensor) -> Tensor:
        """(A, G) prod over x, y of exp(-((location - centre) / stride - mu)² / (2 sigma²))."""
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        shift = (anchors.points[:, None] - centres) / anchors.strides[:, None, None] - self.mu[labels]
        return (-(shift**2) / (2 * self.sigma[labels] ** 2)).sum(dim=-1).exp()

    def _localised(self, code: Tensor, sizes: Tensor, distances: Tensor) -> Tensor:
        """(A, 4) predicted codes and (A, G, 4) true distances -> (A, G) e^(-box_weight * GIoU loss)."""
        sign = code.new_tensor([-1.0, -1.0, 1.0, 1.0])  # distances to xyxy around the location itself
        predicted = self.coding.decode(code, torch.zeros_like(sizes), sizes)
        return (-self.box_weight * giou_loss(predicted[:, None], distances * sign)).exp()

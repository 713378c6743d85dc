"""ATSS (Zhang et al. 2020): positives chosen by statistics of the candidates' overlaps."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.detectors.body import Body
from ifpn.detectors.boxes import BoxCoding, DeltaCoding, DistanceCoding, iou, side_distances
from ifpn.detectors.centerness import centerness_losses
from ifpn.detectors.dense import DenseDetector
from ifpn.detectors.heads import PointHead, Prediction
from ifpn.detectors.matching import BACKGROUND
from ifpn.detectors.postprocess import Postprocess
from ifpn.detectors.priors import PriorGrid, Priors
from ifpn.detectors.targets import Target
from ifpn.errors import UserError


def assign_atss(priors: Priors, boxes: Tensor, num_candidates: int) -> Tensor:
    """Which box each site learns (ATSS, Algorithm 1).

    A box's candidates are, on every level, the sites closest to its centre. Positive are those whose
    anchor's IoU reaches the mean plus the (unbiased) standard deviation over all candidates of the box and
    whose point lies strictly inside. A site claimed by several boxes takes the one of highest IoU, the
    first of equal ones.

    Among sites at exactly the same distance from the centre, those that ``torch.topk`` returns are
    candidates: always the same on the CPU, and independent of the other boxes, but not symmetric under
    flips of the image.

    Args:
        priors: one square anchor per cell.
        boxes: (G, 4) xyxy; G may be 0.
        num_candidates: per level; a level with fewer cells gives all it has.

    Returns:
        (A,) box index, or -1 for background.
    """
    if len(boxes) == 0:
        return torch.full_like(priors.strides, BACKGROUND, dtype=torch.int64)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = (priors.points[:, None] - centres).pow(2).sum(dim=-1).sqrt()  # (A, G)
    candidates, start = [], 0
    for size in priors.level_sizes:
        level = distance[start : start + size]
        nearest = level.topk(min(num_candidates, size), dim=0, largest=False).indices
        candidates.append(nearest + start)
        start += size
    sites = torch.cat(candidates)  # (C, G)

    overlap = iou(priors.boxes[sites], boxes)
    # the deviation of a single candidate is not defined; it then competes with itself alone
    spread = overlap.std(dim=0) if len(sites) > 1 else torch.zeros_like(overlap[0])
    inside = side_distances(priors.points[sites], boxes).amin(dim=-1) > 0
    positive = inside & (overlap >= overlap.mean(dim=0) + spread)

    claims = torch.full_like(distance, -1.0)
    claims.scatter_(0, sites, torch.where(positive, overlap, -1.0))
    best, index = claims.max(dim=1)
    return torch.where(best >= 0, index, BACKGROUND)


class ATSSCriterion(nn.Module):
    """Adaptive assignment, then the three losses of FCOS.

    Args:
        num_candidates: sites per level and box that may become positive.
        coding: of the predicted boxes.
        alpha, gamma: of the focal loss.
        box_weight: factor of the GIoU loss.
        count_empty: whether an image without positives adds one to the number of positives.
    """

    def __init__(
        self,
        *,
        num_candidates: int,
        coding: BoxCoding,
        alpha: float,
        gamma: float,
        box_weight: float,
        count_empty: bool,
    ) -> None:
        super().__init__()
        self.num_candidates = num_candidates
        self.coding = coding
        self.alpha, self.gamma, self.box_weight = alpha, gamma, box_weight
        self.count_empty = count_empty

    def forward(self, prediction: Prediction, priors: Priors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """``loss_cls``, ``loss_box_reg``, ``loss_centerness``."""
        matched = [assign_atss(priors, target["boxes"], self.num_candidates) for target in targets]
        return centerness_losses(
            prediction,
            priors,
            targets,
            torch.stack(matched),
            coding=self.coding,
            alpha=self.alpha,
            gamma=self.gamma,
            box_weight=self.box_weight,
            count_empty=self.count_empty,
        )


class ATSS(DenseDetector):
    """Args: see conf/detector/atss.yaml, where every number stands with its source.

    ``box_coding`` is ``"ltrb"``, distances from the point as in FCOS, or ``"delta"``, offsets from the
    square anchor coded with ``delta_weights`` as in the ATSS authors' code. An image without positives then
    counts as one positive, as in mmdet; with ``"ltrb"`` only a batch without any does, as in cvpods.
    """

    def __init__(
        self,
        body: Body,
        num_classes: int,
        *,
        transform: GeneralizedRCNNTransform,
        num_convs: int,
        prior: float,
        deformable: bool,
        anchor_scale: float,
        num_candidates: int,
        box_coding: Literal["ltrb", "delta"],
        delta_weights: Sequence[float],
        alpha: float,
        gamma: float,
        box_weight: float,
        score_threshold: float,
        top_k: int,
        nms_threshold: float,
        max_detections: int,
    ) -> None:
        if box_coding not in ("ltrb", "delta"):
            raise UserError(f"box_coding must be 'ltrb' or 'delta', got {box_coding!r}")
        if len(delta_weights) != 4:
            raise UserError(f"delta_weights must be four numbers (x, y, width, height), got {list(delta_weights)}")
        x, y, width, height = delta_weights
        coding = DistanceCoding() if box_coding == "ltrb" else DeltaCoding((x, y, width, height))
        super().__init__(
            body,
            num_classes,
            head=PointHead(
                body.out_channels,
                num_classes,
                body.strides,
                num_convs=num_convs,
                prior=prior,
                box_bias=0.0,
                code="distance" if box_coding == "ltrb" else "delta",
                deformable=deformable,
            ),
            grid=PriorGrid(body.strides, scales=(anchor_scale,)),
            coding=coding,
            criterion=ATSSCriterion(
                num_candidates=num_candidates,
                coding=coding,
                alpha=alpha,
                gamma=gamma,
                box_weight=box_weight,
                count_empty=box_coding == "delta",
            ),
            postprocess=Postprocess("sqrt_quality", score_threshold, top_k, nms_threshold, max_detections),
            transform=transform,
        )

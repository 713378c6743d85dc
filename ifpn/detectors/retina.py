"""RetinaNet (Lin et al. 2017) with the settings of cvpods: L1 on box offsets, a running normaliser."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from ifpn.bounds import Ge, Gt, Le, Probability, check
from ifpn.detectors.anchors import Anchors
from ifpn.detectors.boxes import BoxCoder
from ifpn.detectors.contract import Target
from ifpn.detectors.heads import Prediction
from ifpn.detectors.losses import mean_over_ranks
from ifpn.detectors.matching import IGNORED, gather_matches, match_anchors
from ifpn.errors import UserError


@check
class RetinaNetCriterion(nn.Module):
    """Losses of RetinaNet.

    They are computed in two steps: 1) `match_anchors` gives each anchor the box it overlaps most, the background, or
    nothing to learn, by two thresholds on their IoU; 2) focal loss over all anchors that learn, L1 on the box codes of
    positive ones.

    Both sums are divided by a running mean of the number of positive anchors per image times the number of
    images, averaged over ranks. cvpods keeps the mean of one GPU's count instead; per image it is the same
    number for its batches, and one process and several then train alike. The mean is a buffer, so that a
    resumed run continues it.

    Args:
        coding: of the predicted boxes.
        background_iou: anchors below are background.
        foreground_iou: anchors from here on are positive; those between are ignored.
        alpha: weight of positive anchors in the focal loss.
        gamma: exponent of the focal loss.
        momentum: share of the old running mean.
        initial_positives: positive anchors per image that the mean starts from.
    """

    positives_per_image: Tensor

    def __init__(
        self,
        *,
        coding: BoxCoder,
        background_iou: Probability,
        foreground_iou: Probability,
        alpha: Probability,
        gamma: Annotated[float, Ge(0), Le(100)],
        momentum: Probability,
        initial_positives: Annotated[float, Gt(0), Le(1e9)],
    ) -> None:
        super().__init__()
        if background_iou > foreground_iou:
            raise UserError(f"background_iou={background_iou}: must be at most foreground_iou={foreground_iou}.")
        self.coding = coding
        self.background_iou, self.foreground_iou = background_iou, foreground_iou
        self.alpha, self.gamma = alpha, gamma
        self.momentum = momentum
        self.register_buffer("positives_per_image", torch.tensor(float(initial_positives)))

    def match(self, anchors: Anchors, boxes: Tensor) -> Tensor:
        """(G, 4) -> (A,) index of each anchor's box, -1 for background, -2 for ignored."""
        return match_anchors(box_iou(boxes, anchors.boxes), self.background_iou, self.foreground_iou, low_quality=True)

    def forward(self, prediction: Prediction, anchors: Anchors, targets: Sequence[Target]) -> dict[str, Tensor]:
        """`loss_cls`, `loss_box_reg`; box codes are offsets from the anchors."""
        matched = torch.stack([self.match(anchors, target["boxes"]) for target in targets])
        images, locations, boxes, labels = gather_matches(matched, targets)
        normaliser = self._normaliser(len(locations), len(targets), boxes)

        classes = torch.zeros_like(prediction.cls_logits)
        classes[images, locations, labels] = 1
        focal = sigmoid_focal_loss(prediction.cls_logits, classes, alpha=self.alpha, gamma=self.gamma)
        focal = (focal * (matched != IGNORED)[..., None]).sum()
        code = self.coding.encode(boxes, anchors.points[locations], anchors.sizes[locations])
        distance = F.l1_loss(prediction.box_code[images, locations], code, reduction="sum")
        return {"loss_cls": focal / normaliser, "loss_box_reg": distance / normaliser}

    @torch.no_grad()
    def _normaliser(self, positives: int, images: int, like: Tensor) -> Tensor:
        """Update the running mean; the number of positive anchors to divide this rank's sums by."""
        count, number = mean_over_ranks(like.new_tensor([positives, images]))
        new = count.clamp(min=1) / number
        self.positives_per_image.mul_(self.momentum).add_((1 - self.momentum) * new)
        result: Tensor = self.positives_per_image * number
        return result

"""Raw predictions to detections."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from ifpn.bounds import Count, Probability, check
from ifpn.detectors.anchors import Anchors
from ifpn.detectors.boxes import BoxCoder
from ifpn.detectors.contract import Detection
from ifpn.detectors.heads import Prediction

Score = Literal["class", "sqrt_quality", "quality"]


@check
@dataclass(frozen=True)
class Postprocess:
    """Threshold, best `top_k` of each level, class-wise NMS, best `max_detections` of the image.

    Boxes are not clipped before NMS: `clip` does that once they are back in the image's own pixels.

    Attributes:
        score: what ranks a (location, class) pair. `"class"`: p = sigmoid(cls). `"sqrt_quality"`: threshold and
            top-k on p, final score sqrt(p * sigmoid(quality)) (FCOS, ATSS). `"quality"`: p * sigmoid(quality)
            throughout (AutoAssign).
        score_threshold: pairs must score above this.
        top_k: pairs kept per level; never more than the level has locations. Ties: the first in memory.
        nms_threshold: IoU above which the weaker of two boxes of a class goes.
        max_detections: boxes kept per image.
    """

    score: Score
    score_threshold: Probability
    top_k: Count
    nms_threshold: Probability
    max_detections: Count

    @torch.no_grad()
    def __call__(self, prediction: Prediction, anchors: Anchors, coding: BoxCoder) -> list[Detection]:
        """Detections in pixels of the network's input, not clipped."""
        if self.score != "class" and prediction.quality_logits is None:
            raise ValueError(f"score={self.score!r} needs a head with a quality branch")
        boxes = coding.decode(prediction.box_code, anchors.points, anchors.sizes)
        cls = prediction.cls_logits.sigmoid()
        quality = None if prediction.quality_logits is None else prediction.quality_logits.sigmoid()
        return [
            self._image(cls[i], None if quality is None else quality[i], boxes[i], anchors.level_sizes)
            for i in range(len(boxes))
        ]

    def _image(self, cls: Tensor, quality: Tensor | None, boxes: Tensor, sizes: Sequence[int]) -> Detection:
        """Scores (A, K), quality (A, 1), boxes (A, 4) -> one image's detections."""
        rank = cls * quality if quality is not None and self.score == "quality" else cls
        num_classes = cls.shape[1]
        chosen, start = [], 0
        for size in sizes:
            scores = rank[start : start + size].flatten()
            index = (scores > self.score_threshold).nonzero()[:, 0]
            best = scores[index].sort(descending=True, stable=True).indices[: min(self.top_k, size)]
            chosen.append(index[best] + start * num_classes)
            start += size
        pairs = torch.cat(chosen)
        locations, labels = pairs // num_classes, pairs % num_classes
        scores = rank.flatten()[pairs]
        if quality is not None and self.score == "sqrt_quality":
            scores = (scores * quality[locations, 0]).sqrt()
        boxes = boxes[locations]
        keep = self._nms(boxes, scores, labels)
        return {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}

    def _nms(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
        if len(boxes) == 0:
            return labels
        # torchvision keeps classes apart by shifting them to the right of one another, which takes
        # coordinates for non-negative; these are not clipped, so a box left of 0 would reach into the
        # class before
        keep: Tensor = batched_nms(boxes - boxes.amin(), scores, labels, self.nms_threshold)
        return keep[: self.max_detections]


def clip(detections: list[Detection], sizes: Sequence[tuple[int, int]]) -> list[Detection]:
    """Clip boxes to their images, (height, width) each, and drop those of which nothing is left."""
    clipped: list[Detection] = []
    for detection, size in zip(detections, sizes, strict=True):
        boxes = clip_boxes_to_image(detection["boxes"], size)
        keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        clipped.append({"boxes": boxes[keep], "scores": detection["scores"][keep], "labels": detection["labels"][keep]})
    return clipped

"""The whole detector as one function of tensors: preprocessing, network, decoding, suppression, fixed-size outputs."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torchvision.models.detection.image_list import ImageList

from ifpn.detectors import DenseDetector
from ifpn.detectors.heads import Prediction
from ifpn.detectors.postprocess import Postprocess
from ifpn.export.suppression import keep_mask
from ifpn.necks.implicit import EquilibriumNeck

MULTIPLE = 32  # of the padded size, as torchvision's transform pads
NOT_FOUND = -1.0  # score of a place that holds no detection

Candidates = tuple[Tensor, Tensor, Tensor]
Found = tuple[Tensor, Tensor, Tensor, Tensor]


class ExportedDetector(nn.Module):
    """Detections of a batch of images of one size.

    Args:
        detector: `DenseDetector` or `FasterRCNN`, in evaluation mode.
        evals: applications of G of an equilibrium neck, by plain iteration from its P^0; other necks ignore it.

    Attributes:
        max_detections: detections per image in the outputs.
    """

    limits: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, detector: Any, evals: int) -> None:
        super().__init__()
        self.detector: Any = _folded(detector).requires_grad_(False).cpu()
        self.evals = evals
        dense = isinstance(detector, DenseDetector)
        self.max_detections = int(
            detector.postprocess.max_detections if dense else detector.roi_heads.detections_per_img
        )
        transform: Any = detector.transform
        self.sides = int(transform.min_size[-1]), int(transform.max_size)
        self.register_buffer("limits", torch.tensor(self.sides, dtype=torch.float64), persistent=False)
        self.register_buffer("mean", torch.tensor(transform.image_mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(transform.image_std)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Found:
        """Boxes (N, D, 4), scores (N, D), labels (N, D) and count (N,) of images (N, 3, H, W) uint8 in RGB.

        Boxes are x1, y1, x2, y2 in pixels of the given image, float32, best score first; what is beyond `count` is 0.
        """
        size, inner = self._sizes(images)
        pixels = (images.float() / 255 - self.mean) / self.std
        resized = F.interpolate(pixels, size=tuple(inner), mode="bilinear", align_corners=False)
        pyramid = self._pyramid(_padded(resized))
        dense = isinstance(self.detector, DenseDetector)
        candidates = self._dense(self.detector, pyramid) if dense else self._two_stage(self.detector, pyramid, inner)
        return self._finish(*candidates, _row(size), _row(inner))

    def _sizes(self, images: Tensor) -> tuple[list[Any], list[Any]]:
        """(height, width) of the images, and of what they are resized to, by torchvision's arithmetic digit by digit.

        The shorter side goes to its limit, the longer at most to its own. Tensors while a graph is recorded for any
        size, so that none is baked in, else numbers.
        """
        if _recording():
            size = torch._shape_as_tensor(images)[2:]
            sides = size.double()  # as Python's numbers: in single precision 100 x 0.96 is 95.99…
            scale = (self.limits / torch.stack([sides.min(), sides.max()])).min()
            return list(size), list((sides * scale).floor().clamp(min=1).to(torch.int64))
        height, width = images.shape[-2:]
        shorter, longer = self.sides
        factor = min(shorter / min(height, width), longer / max(height, width))
        return [height, width], [max(1, math.floor(side * factor)) for side in (height, width)]

    def _pyramid(self, images: Tensor) -> list[Tensor]:
        body: Any = self.detector.body
        maps = body.backbone(images)
        features = OrderedDict((name, maps[name]) for name in body.in_levels)
        neck = body.neck
        if isinstance(neck, EquilibriumNeck):
            levels = self._iterated(neck, list(features.values()))
            return levels if neck.extra_blocks is None else neck.extra_blocks(levels, [], [])[0]
        return list(neck(features).values())

    def _iterated(self, neck: EquilibriumNeck, features: list[Tensor]) -> list[Tensor]:
        """P^n of P^(t+1) = G(P^t + B) from P^0, zero or fitted; for no application, B."""
        b = neck.project(features)
        if self.evals == 0:
            return b
        p = neck.first_levels(b)
        for _ in range(self.evals):
            p = neck.step(p, b)
        return [p_l + b_l for p_l, b_l in zip(p, b, strict=True)] if neck.add_input else p

    def _dense(self, detector: DenseDetector, pyramid: list[Tensor]) -> Candidates:
        """Candidates of every level, suppressed: boxes (N, M, 4), scores (N, M) or `NOT_FOUND`, labels (N, M)."""
        post: Postprocess = detector.postprocess
        prediction: Prediction = detector.head(pyramid)
        anchors = detector.anchors.for_features(pyramid)
        boxes = detector.box_coder.decode(prediction.box_code, anchors.points, anchors.sizes)
        cls = prediction.cls_logits.sigmoid()
        quality = None if prediction.quality_logits is None else prediction.quality_logits.sigmoid()
        rank = cls * quality if quality is not None and post.score == "quality" else cls
        classes = detector.num_classes  # a plain number, also while a graph is traced
        chosen, start = [], 0
        for level in pyramid:
            cells = level.shape[-2] * level.shape[-1] * detector.anchors.per_cell
            _, index = rank[:, start : start + cells].flatten(1).topk(_at_most(post.top_k, cells), dim=1)
            chosen.append(index + start * classes)
            start = start + cells
        pairs = torch.cat(chosen, dim=1)
        locations, labels = torch.div(pairs, classes, rounding_mode="floor"), pairs % classes
        scores = ranks = rank.flatten(1).gather(1, pairs)
        if quality is not None and post.score == "sqrt_quality":
            scores = (ranks * quality.squeeze(2).gather(1, locations)).sqrt()
        absent = torch.full_like(scores, NOT_FOUND)
        scores = torch.where(ranks > post.score_threshold, scores, absent)
        boxes = boxes.gather(1, locations[..., None].expand(-1, -1, 4))
        kept = keep_mask(boxes, scores, labels, classes, post.nms_threshold)
        return boxes, torch.where(kept, scores, absent), labels

    def _two_stage(self, detector: Any, pyramid: list[Tensor], inner: list[Any]) -> Candidates:
        """The same of Faster R-CNN; its number of proposals varies, so images go through one by one."""
        rows = []
        size: Any = (
            (inner[0], inner[1]) if torch._C._get_tracing_state() is not None else (int(inner[0]), int(inner[1]))
        )
        for i in range(pyramid[0].shape[0]):
            features = {str(k): level[i : i + 1] for k, level in enumerate(pyramid)}
            proposals, _ = detector.rpn(ImageList(pyramid[0][i : i + 1], [size]), features)
            (found,), _ = detector.roi_heads(features, proposals, [size])
            places = self.max_detections
            boxes = F.pad(found["boxes"], (0, 0, 0, places))
            scores = F.pad(found["scores"], (0, places), value=NOT_FOUND)
            rows.append((boxes[:places], scores[:places], F.pad(found["labels"] - 1, (0, places))[:places]))
        boxes, scores, labels = (torch.stack(column) for column in zip(*rows, strict=True))
        return boxes, scores, labels

    def _finish(self, boxes: Tensor, scores: Tensor, labels: Tensor, size: Tensor, inner: Tensor) -> Found:
        """The best detections, in pixels of the image, clipped to it; the ones of which nothing is left go last."""
        count = self.max_detections
        # Small images have fewer candidates than places.
        scores = F.pad(scores, (0, count), value=NOT_FOUND)
        boxes, labels = F.pad(boxes, (0, 0, 0, count)), F.pad(labels, (0, count))
        scores, boxes, labels = _best(scores, boxes, labels, count)
        limit = torch.stack([size[1], size[0], size[1], size[0]])
        scale = limit / torch.stack([inner[1], inner[0], inner[1], inner[0]])
        boxes = torch.minimum((boxes * scale).clamp(min=0), limit)
        whole = ((boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])) & (scores > NOT_FOUND)
        scores, boxes, labels = _best(
            torch.where(whole, scores, torch.full_like(scores, NOT_FOUND)), boxes, labels, count
        )
        found = scores > NOT_FOUND
        zero = torch.zeros_like(scores)
        return (
            torch.where(found[..., None], boxes, torch.zeros_like(boxes)),
            torch.where(found, scores, zero),
            torch.where(found, labels, torch.zeros_like(labels)),
            found.sum(dim=1),
        )


def _folded(detector: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weight norm has become plain weights.

    Not by `remove_parametrizations`: a copy shares its class with the original, which would lose them too.
    """
    copied = copy.deepcopy(detector).eval()
    for name, part in list(copied.named_modules()):
        if parametrize.is_parametrized(part) and isinstance(part, nn.Conv2d):
            settings: Any = part.stride, part.padding, part.dilation, part.groups, part.bias is not None
            plain = nn.Conv2d(part.in_channels, part.out_channels, part.kernel_size, *settings)  # type: ignore[arg-type]
            plain.load_state_dict({key: getattr(part, key).detach() for key in plain.state_dict()})
            parent, _, key = name.rpartition(".")
            setattr(copied.get_submodule(parent), key, plain.eval())
    return copied


def _padded(images: Tensor) -> Tensor:
    """Zeros below and to the right, up to a multiple of 32."""
    height, width = images.shape[-2:]
    return F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE))


def _at_most(top_k: int, cells: Any) -> Any:
    """min(top_k, cells) that stays symbolic while a graph is traced."""
    if _recording():
        return torch.minimum(torch.tensor(top_k), torch.as_tensor(cells))
    return min(top_k, cells)


def _recording() -> bool:
    """Whether a graph is being recorded in which sizes are to stay variables."""
    return torch._C._get_tracing_state() is not None


def _row(values: list[Any]) -> Tensor:
    """Numbers, or tensors of one element, as float32 (2,)."""
    if isinstance(values[0], Tensor):
        return torch.stack(values).float()
    return torch.tensor(values, dtype=torch.float32)


def _best(scores: Tensor, boxes: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    best, order = scores.topk(count, dim=1)
    return best, boxes.gather(1, order[..., None].expand(-1, -1, 4)), labels.gather(1, order)

"""Augmentation by torchvision's transforms on an image and its boxes together.

Multi-scale training (paper Sec. 4.1: shortest side 640 to 800) is not here: the detector resizes, in training
too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from ifpn.bounds import Ge, Gt, Le, Length, Probability, check, shown
from ifpn.errors import UserError

MIN_SIDE = 1.0  # boxes of at most this many pixels after cutting are taken away, as on loading
PAD_GREY = 127


@check
@dataclass(frozen=True)
class Augment:
    """What happens to a training image; every field at its "off" value leaves it as it is.

    flip:         probability of a left-right mirror
    color_jitter: strength of a change of brightness, contrast and saturation (hue: a fifth of it), 0 = off
    iou_crop:     probability of a random crop that keeps at least one box's centre (as SSD), 0 = off
    scale_jitter: (low, high) of large-scale jitter: the image is fitted into `jitter_size` times a random
                  factor, then cut or padded with grey to exactly `jitter_size`; None = off
    jitter_size:  side of the square that large-scale jitter makes, in pixels
    """

    flip: Probability = 0.5
    color_jitter: Probability = 0.0
    iou_crop: Probability = 0.0
    scale_jitter: Annotated[Sequence[Annotated[float, Gt(0), Le(10)]] | None, Length(2, 2)] = None
    jitter_size: Annotated[int, Ge(1), Le(8192)] = 1024

    def __post_init__(self) -> None:
        if self.scale_jitter is not None and self.scale_jitter[0] > self.scale_jitter[1]:
            raise UserError(f"scale_jitter={shown(list(self.scale_jitter))}: must be a smaller and a larger factor.")

    @cached_property
    def _pipeline(self) -> Any:
        steps: list[Any] = []
        if self.scale_jitter is not None:
            side = (self.jitter_size, self.jitter_size)
            steps += [
                v2.ScaleJitter(side, scale_range=tuple(self.scale_jitter), antialias=True),
                v2.RandomCrop(side, pad_if_needed=True, fill=PAD_GREY),
            ]
        if self.iou_crop > 0:
            steps.append(v2.RandomApply([v2.RandomIoUCrop()], p=self.iou_crop))
        if self.flip > 0:
            steps.append(v2.RandomHorizontalFlip(self.flip))
        if self.color_jitter > 0:
            s = self.color_jitter
            steps.append(v2.ColorJitter(brightness=s, contrast=s, saturation=s, hue=min(0.5, s / 5)))
        return v2.Compose([*steps, v2.SanitizeBoundingBoxes()]) if steps else None

    def __call__(
        self, image: Tensor, boxes: Tensor, labels: Tensor, seed: Sequence[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Augment one image (3, H, W) uint8 with boxes (M, 4) xyxy and labels (M,); `seed` alone decides how.

        The state of torch's global generator is the same before and after, whatever process this runs in.
        """
        if self._pipeline is None:
            return image, boxes, labels
        size = image.shape[-2:]
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=tuple(size)),
            "labels": labels,
        }
        # the CPU generator only: torch.manual_seed would also reset the device's generator, which dropout
        # uses
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1))
            changed, target = self._pipeline(tv_tensors.Image(image), target)
        finally:
            torch.set_rng_state(state)
        kept = target["boxes"].as_subclass(Tensor)
        large = ((kept[:, 2:] - kept[:, :2]) > MIN_SIDE).all(dim=1)
        return changed.as_subclass(Tensor).contiguous(), kept[large], target["labels"][large]

"""Evaluation in batches of equal size, so that what is found in an image does not depend on the images beside it."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.detectors.contract import Detection
from ifpn.detectors.postprocess import clip


def detect_by_size(
    transform: GeneralizedRCNNTransform,
    images: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    detect: Callable[[ImageList], list[Detection]],
) -> list[Detection]:
    """Detect in each image padded to its own size alone, images of one padded size together.

    Padding to the largest image of a batch would change the answer: group normalisation averages over the padded area,
    and convolutions carry its border inwards.

    Args:
        transform: resizes, normalises and pads to a multiple of 32, and undoes the resizing of boxes.
        images: (3, H, W) each.
        sizes: their (height, width).
        detect: a batch of equal sizes to detections in pixels of the batch.

    Returns:
        One detection per image, in pixels of the image, clipped to it.
    """
    prepared: list[ImageList] = [transform([image])[0] for image in images]
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, one in enumerate(prepared):
        groups[tuple(one.tensors.shape[-2:])].append(index)
    found: dict[int, Detection] = {}
    for members in groups.values():
        together = [prepared[i] for i in members]
        batch = ImageList(torch.cat([one.tensors for one in together]), [one.image_sizes[0] for one in together])
        found.update(zip(members, detect(batch), strict=True))
    in_order = [found[i] for i in range(len(images))]
    restored = transform.postprocess(in_order, [one.image_sizes[0] for one in prepared], list(sizes))
    return clip(cast(list[Detection], restored), sizes)

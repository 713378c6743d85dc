"""torchvision's resizing, normalising and batching of images, for images of any shape."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes


class ImageTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision has no types
    """torchvision's transform, which fails on strips: a side that would round to nothing keeps one pixel."""

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Resize an image (3, H, W) and the boxes of its target."""
        height, width = (int(side) for side in image.shape[-2:])
        scale = self.max_size / max(height, width)
        if min(height, width) * scale >= 1:
            resized: tuple[Tensor, dict[str, Tensor] | None] = super().resize(image, target)
            return resized
        size = [max(1, int(side * scale)) for side in (height, width)]
        image = F.interpolate(image[None], size=size, mode="bilinear", align_corners=False)[0]
        if target is not None:
            target["boxes"] = resize_boxes(target["boxes"], [height, width], size)
        return image, target

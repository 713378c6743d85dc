"""An image of any kind that a user has in hand, as a tensor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ifpn.data.decode import decode_image
from ifpn.errors import UserError

OneImage = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8] | Tensor
ALLOWED = (
    "a path, bytes of an image file, a Pillow image, a uint8 array (H, W, 3), "
    "or a tensor (3, H, W), uint8 or floating point in 0..1"
)


class ImageError(UserError):
    """An image of a shape, type or range that a detector does not take."""


def to_tensor(image: OneImage, *, bgr: bool = False) -> Tensor:
    """An image of any accepted kind as a tensor (3, H, W), uint8 or floating point in 0..1.

    Raises:
        ImageError: another kind, shape, type or range.
        BadImage: a file that cannot be decoded.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return decode_image(bytes(image))
    if isinstance(image, str) and image.startswith(("http://", "https://")):
        raise ImageError(f"{image}: must be a file. Download it, and give the file or its bytes.")
    if isinstance(image, str | os.PathLike):
        return decode_image(Path(image))
    if isinstance(image, Image.Image):
        return decode_image(image)
    if isinstance(image, np.ndarray):
        return _from_array(image, bgr)
    if isinstance(image, Tensor):
        return _checked_tensor(image)
    raise ImageError(f"an image of type {type(image).__name__}: must be {ALLOWED}.")


def _from_array(image: NDArray[Any], bgr: bool) -> Tensor:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ImageError(
            f"an array of {image.dtype} and shape {image.shape}: must be uint8 (H, W, 3), RGB.{_array_hint(image)}"
        )
    ordered = image[:, :, ::-1] if bgr else image
    return torch.from_numpy(np.array(ordered.transpose(2, 0, 1), order="C"))  # a copy: frame buffers are written again


def _array_hint(image: NDArray[Any]) -> str:
    if image.ndim == 4:
        return " Give several images as a list: list(x)."
    if image.ndim == 2:
        return " Repeat the grey channel: np.stack([x] * 3, axis=2)."
    if image.ndim == 3 and image.shape[2] == 4:
        return " Leave the transparency out: x[:, :, :3]."
    if image.ndim == 3 and image.shape[0] == 3:
        return " Move the channels to the end: x.transpose(1, 2, 0)."
    in_unit_range = image.dtype.kind == "f" and image.size > 0 and 0 <= image.min() <= image.max() <= 1
    return " Bring it to 0..255: (x * 255).round().astype(np.uint8)." if in_unit_range else ""


def _checked_tensor(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape or image.layout != torch.strided:
        hint = " Give several images as a list: list(x)." if image.ndim == 4 else ""
        raise ImageError(f"a tensor of shape {tuple(image.shape)}: must be (3, H, W), RGB, dense.{hint}")
    if image.dtype == torch.uint8:
        return image
    if not image.is_floating_point():
        raise ImageError(f"a tensor of {image.dtype}: must be uint8, or floating point in 0..1.")
    values = image.detach()
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # NaN fails both
        hint = " Divide by 255, or convert to uint8." if 0 <= low <= high <= 255 else ""
        raise ImageError(f"a tensor of {image.dtype} with values from {low:g} to {high:g}: must be in 0..1.{hint}")
    return values.float()


def unit_range(image: Tensor) -> Tensor:
    """uint8 to 0..1; floating point as it is."""
    return image.float() / 255 if image.dtype == torch.uint8 else image

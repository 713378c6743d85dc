"""Backbone and neck: an image becomes the pyramid that a detector's head reads."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated

import torch
from torch import Tensor, nn
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ifpn.bounds import Length, check, shown
from ifpn.errors import UserError
from ifpn.necks.neck import ExtraLevelsFrom


class BackboneWithNeck(nn.Module):
    """Selects levels of a backbone, runs the neck over them and returns the pyramid, fine to coarse.

    Args:
        backbone: (N, 3, H, W) -> ordered dict of maps; has `levels`, {name: (channels, stride)}.
        neck: ordered dict of the selected maps -> ordered dict of maps, all of `out_channels` channels;
            extra, coarser levels come last.
        in_levels: names of the backbone's maps, fine to coarse.
        num_extra_levels: levels that the neck adds above the last one; each doubles the stride.

    Attributes:
        strides: pixels between neighbouring cells of each level. They are fixed (8, 16, 32, 64, 128), never
            estimated from a map's size: 1333 px padded to 1344 has 11 cells at stride 128, not at 122.

    Raises:
        UserError: a level the backbone does not have, or levels whose strides do not double.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        in_levels: Sequence[str] = ("c3", "c4", "c5"),
        num_extra_levels: int = 2,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.in_levels = tuple(in_levels)
        self.out_channels: int = neck.out_channels  # type: ignore[assignment]  # Module types loosely
        strides = [stride for _, stride in _select(backbone, self.in_levels)]
        strides += [strides[-1] * 2**i for i in range(1, num_extra_levels + 1)]
        if any(coarse != 2 * fine for fine, coarse in pairwise(strides)):
            raise UserError(f"in_levels={shown(self.in_levels)}: must have strides that double, and have {strides}.")
        self.strides = tuple(strides)

    @property
    def auxiliary_losses(self) -> dict[str, Tensor]:
        """Losses of the neck's last training forward (a Jacobian penalty, say), if it has any."""
        losses: dict[str, Tensor] = getattr(self.neck, "auxiliary_losses", {})
        return losses

    def forward(self, images: Tensor) -> list[Tensor]:
        """(N, 3, H, W) -> [(N, out_channels, ceil(H / stride), ceil(W / stride)) for each stride].

        Raises:
            ValueError: the neck returned another number of levels, or maps of other sizes.
        """
        # Backbones are fastest with channels last (EfficientNet-Lite0 forward and backward on a CPU: 1.6 times).
        maps = self.backbone(images.contiguous(memory_format=torch.channels_last))
        pyramid = self.neck(OrderedDict((name, maps[name].contiguous()) for name in self.in_levels))
        height, width = images.shape[-2:]
        sizes = [tuple(level.shape[-2:]) for level in pyramid.values()]
        expected = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
        if sizes != expected:
            raise ValueError(
                f"for {height}x{width} images and strides {self.strides} the pyramid must have sizes "
                f"{expected}, the neck returned {sizes}; check num_extra_levels and the neck's extra levels"
            )
        return list(pyramid.values())


@check
def attach_neck(
    backbone: nn.Module,
    neck: Callable[..., nn.Module],
    *,
    in_levels: Annotated[Sequence[str], Length(1)],
    extra_levels: ExtraLevelsFrom,
) -> BackboneWithNeck:
    """Make the neck for the chosen levels of a backbone, and join the two.

    Args:
        backbone: see `BackboneWithNeck`.
        neck: makes the neck, called with `in_channels_list`, `extra_blocks` and `extra_levels`.
        in_levels: names of the backbone's maps, fine to coarse.
        extra_levels: where P6 and P7 come from: `"p5"` or `"c5"`, strided convolutions of the neck; `"none"`, one
            level only, max-pooled from the neck's last output (Faster R-CNN's P6, used by the RPN).

    Raises:
        UserError: unknown `extra_levels`, or a level that the backbone does not have.
    """
    made = neck(
        in_channels_list=[width for width, _ in _select(backbone, in_levels)],
        extra_blocks=LastLevelMaxPool() if extra_levels == "none" else None,
        extra_levels=extra_levels,
    )
    return BackboneWithNeck(backbone, made, in_levels, num_extra_levels=1 if extra_levels == "none" else 2)


def _select(backbone: nn.Module, names: Sequence[str]) -> list[tuple[int, int]]:
    """(channels, stride) of the named levels."""
    levels: dict[str, tuple[int, int]] = backbone.levels  # type: ignore[assignment]  # as above
    missing = [name for name in names if name not in levels]
    if missing or not names:
        raise UserError(f"in_levels={shown(names)}: must be levels of the backbone. It has {', '.join(levels)}.")
    return [levels[name] for name in names]

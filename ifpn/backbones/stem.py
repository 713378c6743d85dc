"""A short-sighted backbone: five 3x3 convolutions of stride 2, for questions about how far a neck sees."""

from collections import OrderedDict

from torch import Tensor, nn

from ifpn.backbones.weights import FROM_CHECKPOINT
from ifpn.bounds import Width, check
from ifpn.errors import WeightsError

LEVELS = ("c2", "c3", "c4", "c5")


@check
class Stem(nn.Module):
    """Levels c2 to c5 that see 7, 15, 31 and 63 pixels: a 3x3 convolution of stride 2 doubles the field, plus one.

    Convolution, BatchNorm and ReLU, five times. Unlike GroupNorm, BatchNorm tells no cell of another in evaluation.

    Args:
        channels: of c2; doubled once, for c3 and beyond.
        weights: "none": there are no trained ones.

    Raises:
        WeightsError: other weights.
    """

    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.25, 0.25, 0.25)

    def __init__(self, channels: Width = 16, weights: str = "none") -> None:
        super().__init__()
        if weights not in ("none", FROM_CHECKPOINT):
            raise WeightsError(f"backbone.weights={weights}: must be none. Nobody has trained a backbone=stem.")
        widths = (channels, channels, 2 * channels, 2 * channels, 2 * channels)
        self.levels = {name: (widths[i + 1], 2 ** (i + 2)) for i, name in enumerate(LEVELS)}
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            )
            for before, after in zip((3, *widths[:-1]), widths, strict=True)
        )

    def forward(self, images: Tensor) -> "OrderedDict[str, Tensor]":
        """(N, 3, H, W) -> (N, C_l, ceil(H / stride), ceil(W / stride)) by name."""
        levels, x = OrderedDict(), self.blocks[0](images)
        for name, block in zip(LEVELS, list(self.blocks)[1:], strict=True):
            x = levels[name] = block(x)
        return levels

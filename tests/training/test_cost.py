"""Multiply-adds, against a count by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ifpn.training.cost import multiply_adds


class Two(nn.Module):
    """A 3x3 convolution and a product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.Linear(4, 5, bias=False)

    def forward(self, images: list[Tensor]) -> Tensor:
        assert not self.training
        return self.linear(self.conv(images[0][None]).mean((2, 3)))


def test_convolutions_and_products_count() -> None:
    detector = Two().train()
    image = torch.zeros(3, 8, 10, dtype=torch.uint8)
    assert multiply_adds(detector, image) == 8 * 10 * 3 * 4 * 9 + 4 * 5
    assert detector.training  # as before


def test_compiled_parts_cannot_be_watched() -> None:
    detector = Two()
    detector.conv.compile()
    assert multiply_adds(detector, torch.zeros(3, 8, 8, dtype=torch.uint8)) is None

"""Backbone, neck and levels joined."""

from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from ifpn.detectors import BackboneWithNeck, attach_neck
from tests.detectors.cases import TinyBackbone, TorchvisionFPN


class Recorder(nn.Module):
    """A neck that notes how it was made and passes its input on."""

    def __init__(self, **made_with: object) -> None:
        super().__init__()
        self.made_with = made_with
        self.out_channels = 8

    def forward(self, maps: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        return maps


def attach(neck: type[nn.Module], in_levels: list[str], channels: int, extra_levels: str) -> BackboneWithNeck:
    factory = partial(neck, out_channels=channels)
    return attach_neck(TinyBackbone(), factory, in_levels=in_levels, extra_levels=extra_levels)


@pytest.mark.parametrize("extra_levels", ["p5", "c5"])
def test_five_levels_of_exact_strides(extra_levels: str) -> None:
    body = attach(TorchvisionFPN, ["c3", "c4", "c5"], 16, extra_levels)
    assert body.strides == (8, 16, 32, 64, 128)
    assert body.out_channels == 16
    sizes = [tuple(level.shape[1:]) for level in body(torch.rand(1, 3, 160, 224))]
    assert sizes == [(16, 20, 28), (16, 10, 14), (16, 5, 7), (16, 3, 4), (16, 2, 2)]


def test_pooled_level_of_faster_rcnn() -> None:
    body = attach(TorchvisionFPN, ["c2", "c3", "c4", "c5"], 16, "none")
    assert body.strides == (4, 8, 16, 32, 64)
    pyramid = body(torch.rand(1, 3, 96, 160))
    assert torch.equal(pyramid[4], pyramid[3][:, :, ::2, ::2])


def test_the_neck_is_told_what_it_needs() -> None:
    body = attach(Recorder, ["c3", "c4"], 24, "c5")
    assert body.neck.made_with == {
        "in_channels_list": [16, 24],
        "out_channels": 24,
        "extra_blocks": None,
        "extra_levels": "c5",
    }


def test_missing_levels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"c6.*must be levels of the backbone\. It has c2"):
        BackboneWithNeck(TinyBackbone(), Recorder(), ["c5", "c6"])
    with pytest.raises(ValueError, match=r"in_levels=\[\]: must be levels of the backbone"):
        BackboneWithNeck(TinyBackbone(), Recorder(), [])


def test_levels_must_double() -> None:
    with pytest.raises(ValueError, match=r"\[8, 32, 64, 128\]"):
        BackboneWithNeck(TinyBackbone(), Recorder(), ["c3", "c5"])


def test_unknown_extra_levels_are_refused() -> None:
    with pytest.raises(ValueError, match="must be p5, c5 or none"):
        attach(Recorder, ["c3"], 16, "p6")


def test_a_neck_that_returns_other_levels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must have sizes.*returned \[\(8, 8\)\]"):
        BackboneWithNeck(TinyBackbone(), Recorder(), ["c3"])(torch.rand(1, 3, 64, 64))


def test_necks_without_auxiliary_losses() -> None:
    assert BackboneWithNeck(TinyBackbone(), Recorder(), ["c3"]).auxiliary_losses == {}

"""At random initialisation with 256 channels the default G has a fixed point, and 15 evaluations find it.

Features are EfficientNet-Lite0's, with ImageNet weights, of the photograph that matplotlib ships.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib import cbook
from PIL import Image
from torch import Tensor, nn

from ifpn.backbones import efficientnet_lite0
from ifpn.csc import BiFPNLayer, DenseFusion, NASFPNCell, NoFusion, PyramidConv
from ifpn.necks import ImplicitFPN
from ifpn.solvers import Equilibrium, Unroll

CSC: dict[str, Callable[[int, int], nn.Module]] = {
    "pyramid": PyramidConv,
    "pyramid shared": partial(PyramidConv, share=True),
    "pyramid ibn": partial(PyramidConv, ibn=True),
    "pyramid deform": partial(PyramidConv, deform=True),
    "dense": DenseFusion,
    "bifpn": BiFPNLayer,
    "nasfpn": NASFPNCell,
}


@pytest.fixture(scope="module")
def photograph() -> "OrderedDict[str, Tensor]":
    """C3..C5 of two crops of 128 x 128 pixels."""
    with cbook.get_sample_data("grace_hopper.jpg") as file, Image.open(file) as image:
        crops = [image.crop(box).resize((128, 128)) for box in ((60, 60, 460, 460), (0, 200, 400, 600))]
    images = torch.stack([torch.from_numpy(np.array(crop)).permute(2, 0, 1) for crop in crops])
    backbone = efficientnet_lite0(weights="imagenet", frozen_stages=2, frozen_norm=True).eval()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.image_mean, backbone.image_std))
    with torch.no_grad():
        levels = backbone((images / 255 - mean) / std)
    return OrderedDict((name, levels[name]) for name in ("c3", "c4", "c5"))


def residual(
    photograph: "OrderedDict[str, Tensor]", csc: Callable[[int, int], nn.Module], output_norm: bool = False
) -> float:
    """Largest relative residual after 15 evaluations, in training mode, dropout on."""
    torch.manual_seed(0)
    channels = [int(level.shape[1]) for level in photograph.values()]
    solver = Equilibrium(train_evals=15)
    neck = ImplicitFPN(channels, 256, csc=csc, solver=solver, output_norm=output_norm).train()
    with torch.no_grad():
        neck(photograph)
    assert neck.stats is not None
    assert neck.stats.forward.evals == 15
    return float(neck.stats.forward.residual.max())


@pytest.mark.slow
@pytest.mark.parametrize("name", CSC)
def test_default_g_converges(name: str, photograph: "OrderedDict[str, Tensor]") -> None:
    """5e-2 is the residual that counts as converged in the DEQ papers."""
    assert residual(photograph, CSC[name]) < 5e-2


def test_without_cross_scale_block_only_the_output_norm_gives_a_fixed_point(
    photograph: "OrderedDict[str, Tensor]",
) -> None:
    assert residual(photograph, NoFusion) > 5e-2
    assert residual(photograph, NoFusion, output_norm=True) < 5e-2


def test_input_norm_makes_the_pyramid_independent_of_the_scale_of_the_features() -> None:
    """GN(s B) = GN(B): a backbone whose features are ten times as large gives the same P*."""
    torch.manual_seed(0)
    neck = ImplicitFPN([8, 8, 8], 16, input_norm=True, output_norm=True).eval()
    features = {f"c{i}": torch.randn(2, 8, size, size) for i, size in ((3, 32), (4, 16), (5, 8))}
    with torch.no_grad():
        small, large = neck(features), neck({name: 10 * level for name, level in features.items()})
    for name, level in small.items():
        # GroupNorm's eps of 1e-5 is the only difference; the smallest variance here is of the order of 1e-1
        torch.testing.assert_close(large[name], level, rtol=0, atol=5e-3)
        assert float(level.std()) > 0.1, name


def test_add_input_returns_the_argument_of_g() -> None:
    """P* + B with the very P* of the neck without it; B is what ``Unroll(0)`` returns."""
    features = {f"c{i}": torch.randn(2, 8, size, size) for i, size in ((3, 32), (4, 16), (5, 8))}
    levels = []
    for add_input, solver in ((True, None), (False, None), (False, Unroll(0))):
        torch.manual_seed(0)
        neck = ImplicitFPN([8, 8, 8], 16, add_input=add_input, solver=solver).eval()
        with torch.no_grad():
            levels.append(list(neck(features).values()))
    for both, p, b in zip(*levels, strict=True):
        torch.testing.assert_close(both, p + b, rtol=0, atol=0)

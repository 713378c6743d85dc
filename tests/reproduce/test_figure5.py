"""Feature maps and receptive fields, on networks whose receptive field is known."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.detectors import BackboneWithNeck
from ifpn.predictor import Predictor
from ifpn.solvers import Anderson, Equilibrium, Implicit
from reproduce.figure5 import describe_pair, draw_fields, draw_figure5, level_maps
from reproduce.receptive import receptive_fields

SIZE = 96


class Blocks(nn.Module):
    """c3: the mean of each 8 x 8 block of pixels."""

    levels = {"c3": (3, 8)}  # noqa: RUF012

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"c3": F.avg_pool2d(x, 8)}


class Box(nn.Module):
    """`times` means over 3 x 3 cells; times=0 changes nothing."""

    out_channels = 3

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def forward(self, x: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        (level,) = x.values()
        for _ in range(self.times):
            level = F.avg_pool2d(level, 3, 1, 1)
        return OrderedDict(c3=level)


class Echo(nn.Module):
    """P = 0.8 mean over 3 x 3 cells of P, + B: a linear equilibrium, or so many plain steps of it."""

    out_channels = 3

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.steps = steps
        # Budgets too small to see far: the report must use its own.
        self.solver = Equilibrium(Anderson(), train_evals=1, test_evals=1, backward=Implicit(max_vjps=1))

    def forward(self, x: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        (b,) = x.values()

        def f(z: Tensor) -> Tensor:
            return 0.8 * F.avg_pool2d(z.view_as(b), 3, 1, 1).flatten(1) + b.flatten(1)

        z = torch.zeros_like(b).flatten(1)
        if self.steps is None:
            z, _ = self.solver(f, z, training=self.training)
        else:
            for _ in range(self.steps):
                z = f(z)
        return OrderedDict(c3=z.view_as(b))


class Bright(nn.Module):
    """One channel vector at cell (2, 9), longer the more the image varies, and an offset that no image changes."""

    out_channels = 3

    def forward(self, x: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
        level = torch.linspace(0, 50, x["c3"].shape[-1]).expand_as(x["c3"]).clone()
        level[:, :, 2, 9] += torch.tensor([0.0, 3.0, 4.0]) * x["c3"].std()
        return OrderedDict(c3=level)


def predictor(neck: nn.Module) -> Predictor:
    detector = nn.Module()
    detector.body = BackboneWithNeck(Blocks(), neck, in_levels=("c3",), num_extra_levels=0)
    # min = max = the image's own size, mean 0, deviation 1: the network sees the image as it is.
    detector.transform = GeneralizedRCNNTransform(SIZE, SIZE, [0.0] * 3, [1.0] * 3)
    return Predictor(detector, ["thing"], [1], {}, torch.device("cpu"))


def photo(height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("times", [0, 1, 3])
def test_the_field_is_the_block_of_cells_that_the_architecture_reaches(times: int) -> None:
    (field,) = receptive_fields(predictor(Box(times)), [photo()], ["P3"])
    rows, columns = np.nonzero(field.density > 0)
    side = 8 * (2 * times + 1)
    assert (rows.max() - rows.min() + 1, columns.max() - columns.min() + 1) == (side, side)
    # The cell is in the middle: one pixel of an even block lies off it.
    assert abs((rows.max() + rows.min()) / 2 - field.density.shape[0] // 2) <= 1
    assert field.density.sum() == pytest.approx(1)
    assert 0 < field.half < field.most <= side * 2**-0.5 + 1


def test_the_distances_are_those_of_a_uniform_square() -> None:
    """Half the area of a square of side 8 lies within r = sqrt(32 / pi), 3.19 px; a pixel is 1 wide."""
    (field,) = receptive_fields(predictor(Box(0)), [photo()], ["P3"])
    assert field.half == pytest.approx((32 / np.pi) ** 0.5, abs=1)
    assert np.all(np.diff(field.within) >= 0)


def test_the_field_of_an_equilibrium_is_that_of_many_steps_and_wider_than_one() -> None:
    images = [photo()]
    (one,) = receptive_fields(predictor(Echo(1)), images, ["P3"])
    (many,) = receptive_fields(predictor(Echo(100)), images, ["P3"])
    (rest,) = receptive_fields(predictor(Echo(None)), images, ["P3"])
    # 0.8^100 = 2e-10 is left of the unrolled sum; the implicit gradient is solved to about 1e-6 in float32.
    np.testing.assert_allclose(rest.density, many.density, atol=1e-6)
    assert rest.half > 2 * one.half


def test_the_solver_is_as_it_was_afterwards() -> None:
    tested = predictor(Echo(None))
    before = tested.detector.body.neck.solver
    receptive_fields(tested, [photo()], ["P3"], probes=1)
    assert tested.detector.body.neck.solver is before


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        receptive_fields(predictor(Box(0)), [], ["P3"])


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (SIZE // 2, SIZE), (56, 90)])
def test_a_map_is_bright_where_the_level_is(height: int, width: int) -> None:
    """Padding to a multiple of 32 must not move or scale the map."""
    maps = level_maps(predictor(Bright()), photo(height, width), ["P3"])
    shade = maps.levels["P3"]
    assert maps.picture.shape[:2] == shade.shape
    assert maps.cells == {"P3": (-(-shade.shape[0] // 8), -(-shade.shape[1] // 8))}
    assert shade.min() == 0
    rows, columns = np.nonzero(shade == shade.max())
    if min(maps.cells["P3"]) < 12:  # cells are drawn as cells
        assert shade.max() == 1
        assert (set(rows), set(columns)) == (set(range(16, 24)), set(range(72, 80)))
        return
    # Enlarged eight times, the pixels next to the middle of a cell lie 1/16 of a cell beside it, in both directions.
    assert shade.max() == pytest.approx((15 / 16) ** 2, abs=1e-6)
    assert rows[0] == pytest.approx(2.5 * 8, abs=1)
    assert columns[0] == pytest.approx(9.5 * 8, abs=1)


def test_the_pictures_have_a_row_per_image_and_per_checkpoint(tmp_path: Path) -> None:
    a, b = predictor(Box(1)), predictor(Bright())
    assert describe_pair(a, b) == ("Box", "Bright")
    assert describe_pair(a, a) == ("A: Box", "B: Box")
    sizes = []
    for count in (1, 3):
        pairs = [(level_maps(a, photo(), ["P3"]), level_maps(b, photo(), ["P3"])) for _ in range(count)]
        draw_figure5(pairs, ("Box", "Bright"), tmp_path / "figure5.png")
        with Image.open(tmp_path / "figure5.png") as picture:
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[1][1] > 2 * sizes[0][1]
    fields = [("Box", receptive_fields(a, [photo()], ["P3"], probes=1))] * 2
    draw_fields(fields, tmp_path / "field.png")
    with Image.open(tmp_path / "field.png") as picture:
        assert min(picture.size) > 500

"""What is measured on a checkpoint's equilibrium is what it says."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image

from ifpn.errors import ConfigError
from ifpn.plots.curves import Curve
from ifpn.predictor import Predictor
from reproduce.equilibria import ap_by_evaluations, gradient_errors, radius_at
from reproduce.equilibrium_figures import draw_evaluations, draw_gradients, draw_spectrum
from reproduce.inspect_checkpoint import body_of, equilibrium_of, inside_the_solve, level_names, neck_name
from tests.reproduce.cases import CONTRACTION, make


@pytest.fixture(scope="module")
def implicit() -> Predictor:
    return make(*CONTRACTION)


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    return torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_gradient_errors_follow_the_theory(implicit: Predictor, photo: torch.Tensor) -> None:
    fine, _ = gradient_errors(implicit, photo, [2, 3, 16])
    assert fine.residual < 1e-5
    errors = {name: dict(points) for name, points in fine.errors.items()}
    assert set(errors) == {"GMRES", "Broyden", "Anderson", "Neumann", "unrolled", "phantom, 0.5", "one step"}
    # float32 leaves about 1e-6 of a gradient; 16 products of GMRES on this contraction reach it.
    assert errors["GMRES"][16] < 1e-4
    assert errors["GMRES"][16] < errors["GMRES"][3] < errors["one step"][0]
    # At the fixed point n unrolled steps are the Neumann series with n - 1 products: one step is none of it.
    assert errors["unrolled"][3] == pytest.approx(errors["Neumann"][2], rel=0.02)


def test_the_radius_predicts_how_plain_iteration_shrinks(implicit: Predictor, photo: torch.Tensor) -> None:
    from ifpn.solvers import Picard, solve

    (radius,) = radius_at(implicit, [photo])
    with torch.no_grad():
        (trace,) = inside_the_solve(implicit, photo, lambda f, z0: [solve(f, z0, Picard(), max_evals=14).trace[:, 0]])
    # The leading eigenvalue takes over slowly: the ratio of late residuals agrees to a tenth or so.
    assert float((trace[13] / trace[9]) ** 0.25) == pytest.approx(radius, abs=0.15)


@pytest.mark.slow
def test_more_evaluations_leave_a_smaller_residual_on_every_image(implicit: Predictor, tmp_path: Path) -> None:
    data_config = {**implicit.config["data"], "root": str(tmp_path / "shapes"), "workers": 0}
    data = instantiate(OmegaConf.create(data_config))
    data.prepare_data()
    data.setup("validate")
    named = make(*CONTRACTION, classes=data.num_classes)
    named.class_names = list(data.class_names)
    before = equilibrium_of(named)
    found = ap_by_evaluations(named, data, [1, 4, 12], None)
    assert [len(one.residual) for one in found] == [4, 4, 4]
    for few, many in itertools.pairwise(found):
        assert all(b < a for a, b in zip(few.residual, many.residual, strict=True))
    assert all(one.ap == -1 or 0 <= one.ap <= 1 for one in found)
    assert equilibrium_of(named) is before
    draw_evaluations(found, (15, 7), tmp_path / "evaluations.png")
    with Image.open(tmp_path / "evaluations.png") as picture:
        assert picture.width > picture.height > 400
    (part,) = ap_by_evaluations(named, data, [1], 2)
    assert len(part.residual) < 4


def test_what_solves_nothing_is_refused_in_words(photo: torch.Tensor) -> None:
    explicit = make("neck=fpn")
    assert neck_name(explicit) == "FPN"
    assert level_names(explicit) == ["P3", "P4", "P5", "P6", "P7"]
    assert body_of(explicit).out_channels == 8
    for call in (lambda: radius_at(explicit, [photo]), lambda: gradient_errors(explicit, photo, [1])):
        with pytest.raises(ConfigError, match=r"neck \(FPN\) solves no fixed point"):
            call()


def test_pictures_are_drawn_with_and_without_what_was_logged(implicit: Predictor, tmp_path: Path) -> None:
    import numpy as np

    from reproduce.equilibria import GradientErrors

    errors = GradientErrors("state", 1e-3, {"GMRES": [(1, 0.1), (2, 0.01)], "one step": [(0, 0.5)]})
    draw_gradients([errors, errors], tmp_path / "gradient.png")
    curve = Curve(np.array([0.0, 10.0]), np.array([0.5, 0.7]))
    for name, curves, points in (
        ("all", {"solver/spectral_radius": curve, "solver/forward_residual": curve}, [(10, [0.6, 0.7])]),
        ("nothing", {}, []),
    ):
        draw_spectrum(curves, points, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000

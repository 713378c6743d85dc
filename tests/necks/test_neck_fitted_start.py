"""Evaluation's first state, fitted to P*: the least squares it claims, and one fixed point whatever the start."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ifpn.csc import PyramidConv
from ifpn.necks import EquilibriumNeck, ImplicitFPN, MDEQNeck, Stream
from ifpn.necks.fitted_start import FittedStart, StartFit
from ifpn.solvers import Anderson, Equilibrium, Status, Unroll
from tests.necks.cases import Turn, features

SIZES = ((13, 9), (7, 5))  # odd ones: P6 and P7 follow with 4 x 3 and 2 x 2
SOLVER = Equilibrium(Anderson(5), test_evals=100, rtol=1e-4, fit_start=32)


def build(solver: Any = SOLVER, kind: type[ImplicitFPN | MDEQNeck] = ImplicitFPN, **options: Any) -> EquilibriumNeck:
    torch.manual_seed(0)
    neck = kind([6, 8], 16, solver=solver, **options).eval()
    with torch.no_grad():
        for parameter in neck.g.parameters():
            parameter.mul_(0.6)  # as easy as those of trained networks
    return neck


def is_fitted(neck: EquilibriumNeck) -> bool:
    return neck.fitted_start.is_fitted


def images(count: int = 12, first_seed: int = 100) -> list[OrderedDict[str, Tensor]]:
    return [features(sizes=SIZES, batch=1, seed=first_seed + i) for i in range(count)]


@torch.no_grad()
def fit(neck: EquilibriumNeck) -> StartFit:
    with neck.fitting_start() as found:
        for x in images():
            neck(x)
    return found


def fitted(**options: Any) -> EquilibriumNeck:
    neck = build(**options)
    fit(neck)
    assert is_fitted(neck)
    return neck


def with_solver(neck: EquilibriumNeck, **changes: Any) -> EquilibriumNeck:
    other = copy.deepcopy(neck)
    assert isinstance(neck.solver, Equilibrium)
    other.solver = replace(neck.solver, **changes)
    return other


def flat(levels: OrderedDict[str, Tensor]) -> Tensor:
    return torch.cat([level.flatten(1) for level in levels.values()], dim=1)


@torch.no_grad()
def test_the_weights_of_a_linear_pyramid_are_recovered() -> None:
    """P is a known linear function of B of the fitted form: least squares finds it, but for the ridge of 1e-4."""
    generator = torch.Generator().manual_seed(0)
    truth = FittedStart(4, 3)
    truth.hold({name: torch.randn(shape, generator=generator) for name, shape in truth.shapes.items()})
    found = StartFit()
    for _ in range(6):
        b = [torch.randn(2, 4, *size, generator=generator) for size in ((13, 18), (7, 9), (4, 5))]
        found.add(b, truth(b), torch.tensor([True, True]))
    weights = found.solve()
    for name in ("own", "coarser", "finer", "bias"):
        # neighbouring features are correlated, which multiplies the ridge's bias by at most some tens
        assert torch.allclose(weights[name].float(), truth.get_buffer(name), atol=1e-2), name


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"add_input": True, "input_norm": True}])
def test_the_fixed_point_is_what_it_was(options: dict[str, Any]) -> None:
    plain, neck = build(**options), fitted(**options)
    x = features(sizes=SIZES)
    wanted, found = flat(plain(x)), flat(neck(x))
    # both have a residual below 1e-4, at a contraction of about a half
    assert float((found - wanted).norm() / wanted.norm()) < 4e-4


def exact_after_one_evaluation() -> tuple[EquilibriumNeck, Tensor]:
    """A neck whose P* is a linear function of B, cell by cell, with its start fitted; and P* of `features`."""
    neck = build()
    neck.g = Turn(0.5)
    fit(neck)
    return neck, flat(with_solver(neck, fit_start=0)(features(sizes=SIZES)))


@torch.no_grad()
def test_of_a_linear_g_the_start_is_the_fixed_point() -> None:
    """G z = t z with |t| = 0.5: P* = t / (1 - t) B, and an evaluation leaves |t| / |1 - t| = 0.531 of a residual."""
    neck, exact = exact_after_one_evaluation()
    found = flat(with_solver(neck, test_evals=1, rtol=0.0)(features(sizes=SIZES)))
    assert float((found - exact).norm() / exact.norm()) < 1e-3  # the ridge; from zero it is 0.5
    assert neck.fitted_start.known("residual") < 2e-3
    assert neck.fitted_start.known("contraction") == pytest.approx(0.531, abs=0.005)
    stopped = with_solver(neck, rtol=0.01)
    stopped(features(sizes=SIZES))
    assert stopped.evals().tolist() == [1, 1]


@torch.no_grad()
@pytest.mark.parametrize(("kind", "gain"), [(ImplicitFPN, 0.9), (MDEQNeck, 1.0)])
def test_other_images_are_nearer_after_one_evaluation(kind: type[ImplicitFPN | MDEQNeck], gain: float) -> None:
    neck = fitted(kind=kind)
    exact = flat(neck(features(sizes=SIZES, seed=7)))
    errors = []
    for start in (32, 0):
        once = with_solver(neck, test_evals=1, rtol=0.0, fit_start=start)
        errors.append(float((flat(once(features(sizes=SIZES, seed=7))) - exact).norm() / exact.norm()))
    # Random features of random weights leave little to predict. Trained networks: a factor of five (docs/results.md).
    assert errors[0] < gain * errors[1]


@torch.no_grad()
def test_what_is_said_of_the_start_is_so() -> None:
    """`residual` and `contraction` of the median image looked at, against their definitions on other images."""
    neck = fitted()
    residuals, contractions = [], []
    for x in images(first_seed=500):
        b = neck.project(list(x.values()))
        f = neck.flat_map(b)
        z0 = f.layout.flatten(neck.first_levels(b), torch.float32)
        exact = f.layout.flatten(list(neck(x).values()), torch.float32)
        value = f(z0)
        residuals.append((value - z0).norm() / value.norm())
        contractions.append((value - exact).norm() / (value - z0).norm())
    # images of one distribution: the medians of 4 and of 12 agree to a tenth
    assert neck.fitted_start.known("residual") == pytest.approx(float(torch.stack(residuals).median()), rel=0.1)
    assert neck.fitted_start.known("contraction") == pytest.approx(float(torch.stack(contractions).median()), rel=0.1)


@torch.no_grad()
def test_the_search_stops_at_the_error_that_was_asked_for() -> None:
    """As the contraction is known, the error of the value is the residual times it."""
    neck, exact = exact_after_one_evaluation()
    start = neck.fitted_start
    start.own = start.own * 0.9 if start.own is not None else None  # a start with an error of a tenth: 0.05 after one
    used = []
    for error in (0.08, 0.03, 0.003):
        asked = with_solver(neck, test_error=error)
        found = flat(asked(features(sizes=SIZES)))
        assert float((found - exact).norm() / exact.norm()) < error
        used.append(int(asked.evals().max()))
    assert used[0] == 1
    assert used == sorted(used)
    assert used[-1] > 1


@torch.no_grad()
def test_one_evaluation_is_enough_where_the_fit_says_so() -> None:
    neck, _ = exact_after_one_evaluation()
    estimate = neck.fitted_start.error
    assert with_solver(neck, test_error=1.01 * estimate).one_is_enough
    assert not with_solver(neck, test_error=0.99 * estimate).one_is_enough
    assert not with_solver(neck, test_error=1.01 * estimate, fit_start=0).one_is_enough
    assert not neck.one_is_enough  # no error asked for
    far = fitted()
    assert far.fitted_start.known("residual") > 0.5
    assert not with_solver(far, test_error=1.0).one_is_enough


@torch.no_grad()
def test_zero_can_be_asked_for() -> None:
    neck, x = fitted(), features(sizes=SIZES)
    assert torch.equal(flat(with_solver(neck, fit_start=0)(x)), flat(build()(x)))


def test_only_a_training_step_forgets_the_fit() -> None:
    neck, x = fitted(), features(sizes=SIZES)
    neck.train()
    with torch.no_grad():
        neck(x)
    assert is_fitted(neck)
    neck(x)
    assert not is_fitted(neck)
    assert torch.equal(flat(neck.eval()(x)), flat(build()(x)))


@torch.no_grad()
def test_a_state_dict_carries_the_fit_and_is_read_without() -> None:
    neck, x = fitted(), features(sizes=SIZES)
    other = build()
    keys = other.state_dict().keys()
    held = {
        name: torch.empty(value.numel() + 1)[1:].view_as(value).copy_(value)
        for name, value in neck.state_dict().items()
    }
    other.load_state_dict(held)  # from memory that begins anywhere, as that of a file
    assert torch.equal(flat(other(x)), flat(neck(x)))
    held["fitted_start.own"].zero_()
    assert torch.equal(flat(other(x)), flat(neck(x)))
    other.load_state_dict({name: neck.state_dict()[name] for name in keys})  # as an older version wrote it
    assert not is_fitted(other)
    assert other.state_dict().keys() == keys
    assert torch.equal(flat(copy.deepcopy(neck)(x)), flat(neck(x)))
    for wrong in ({"fitted_start.bias": torch.zeros(2, 16)}, {"fitted_start.other": torch.zeros(1)}):
        with pytest.raises(RuntimeError, match="Unexpected key"):
            build().load_state_dict({**neck.state_dict(), **wrong})


@torch.no_grad()
def test_the_least_squares_of_autocast_are_those_of_float32() -> None:
    """Sums of products in bfloat16 would have three digits, too few to be inverted: the very same numbers."""
    generator = torch.Generator().manual_seed(0)
    b = [5 + torch.randn(2, 4, *size, generator=generator) for size in ((7, 9), (4, 5))]
    p = [level.flip(1) for level in b]
    found = []
    for autocast in (False, True):
        fit = StartFit()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            fit.add(b, p, torch.tensor([True, True]))
        found.append(fit.solve())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@torch.no_grad()
def test_in_half_precision() -> None:
    neck, x = fitted(), features(sizes=SIZES)
    wanted = flat(neck(x))
    half = with_solver(neck, rtol=1e-2).to(torch.bfloat16)
    found = flat(half(OrderedDict((name, level.bfloat16()) for name, level in x.items())))
    assert float((found.float() - wanted).norm() / wanted.norm()) < 0.05  # bfloat16 has three digits


@torch.no_grad()
def test_a_broken_image_fails_alone_and_from_zero() -> None:
    neck, x = fitted(), features(sizes=SIZES)
    broken = OrderedDict((name, level.clone()) for name, level in x.items())
    broken["c3"][0, 0, 2, 2] = torch.nan
    wanted, found = flat(neck(x)), flat(neck(broken))
    assert neck.stats is not None
    assert neck.stats.forward.status.tolist() == [int(Status.NONFINITE), int(Status.CONVERGED)]
    assert torch.equal(found[0], torch.zeros_like(found[0]))
    assert torch.allclose(found[1], wanted[1], atol=1e-5)


@torch.no_grad()
def test_a_stream_that_changes_scene_starts_from_the_fit() -> None:
    neck = fitted()
    limit = neck.fitted_start.known("residual")
    with Stream(with_solver(neck, rtol=1.01 * limit)) as stream:
        for seed in (1, 1, 2):
            stream(features(sizes=SIZES, batch=1, seed=seed))
    # the first frame from the fit, the second from the first, the third from the fit after the second was refused
    assert [int(e) for e in stream.evals] == [1, 1, 2] or [int(e) for e in stream.evals] == [2, 1, 3]


@torch.no_grad()
def test_a_stream_solves_every_frame_by_itself_where_one_evaluation_is_enough() -> None:
    """A frame before, however near, costs an evaluation as well."""
    neck = with_solver(exact_after_one_evaluation()[0], test_error=0.1)
    frames = [features(sizes=SIZES, batch=1, seed=seed) for seed in (1, 1, 2)]
    alone = [flat(neck(frame)) for frame in frames]
    with Stream(neck) as stream:
        found = [flat(stream(frame)) for frame in frames]
    assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))
    assert [int(e) for e in stream.evals] == [1, 1, 1]


@torch.no_grad()
def test_no_fit_where_there_is_no_fixed_point() -> None:
    neck = build()
    for parameter in neck.g.parameters():
        parameter.mul_(50)
    found = fit(neck)
    assert not is_fitted(neck)
    assert found.images == 0
    assert found.missed == 12
    assert "found for none of 12" in neck.fitted_start.told(found)


def test_no_fit_of_what_would_not_use_it() -> None:
    for neck in (build(Unroll(2)), build(replace(SOLVER, fit_start=0))):
        with pytest.raises(RuntimeError, match="fit_start above 0"), neck.fitting_start():
            pass
    training = build().train()
    with pytest.raises(RuntimeError, match="evaluation mode"), training.fitting_start():
        pass


@torch.no_grad()
def test_one_level() -> None:
    torch.manual_seed(0)
    neck = ImplicitFPN([6], 16, csc=PyramidConv, solver=SOLVER, extra_levels="none").eval()
    with neck.fitting_start():
        for seed in range(4):
            neck(features((6,), ((9, 9),), batch=1, seed=seed))
    assert is_fitted(neck)
    neck(features((6,), ((9, 9),)))
    assert neck.stats is not None
    assert float(neck.stats.forward.residual.max()) <= 1e-4

"""Is the equilibrium found, and is its gradient right? Measured on a checkpoint, for the figures the paper lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ifpn.data import DetectionData
from ifpn.evaluation import CocoEvaluator, match_classes
from ifpn.predictor import Predictor
from ifpn.solvers import (
    GMRES,
    Anderson,
    Broyden,
    Equilibrium,
    Forward,
    Implicit,
    Neumann,
    OneStep,
    Phantom,
    Picard,
    Stats,
    Unrolled,
    fixed_point,
    solve,
    spectral_radius,
)
from reproduce.inspect_checkpoint import Map, body_of, equilibrium_of, features, inside_the_solve, solved_by

# The search that all others are measured against; 60 evaluations leave rounding where there is a contraction.
REFERENCE_EVALS, REFERENCE_PRODUCTS = 60, 60
PHANTOM_TAU = 0.5  # Geng et al. 2021 use 0.5 to 0.9


@dataclass(frozen=True)
class AtBudget:
    """What `evals` evaluations per image give. residual: per image, of the state found. AP in 0..1, -1: no boxes."""

    evals: int
    residual: list[float]
    ap: float
    ap50: float


def ap_by_evaluations(
    predictor: Predictor,
    data: DetectionData,
    budgets: Sequence[int],
    images: int | None,
    progress: Callable[[AtBudget], None] = lambda _: None,
    *,
    from_zero: bool = False,
) -> list[AtBudget]:
    """AP and residual on the validation set for each test-time budget of evaluations of G.

    images: at most so many, from the first on; None is all. from_zero: also where a start is fitted.

    Raises:
        ConfigError: the checkpoint solves nothing, or knows classes that the data do not have.
    """
    solver = replace(equilibrium_of(predictor), test_rtol=None, test_error=None, rtol=0.0, atol=0.0)
    if from_zero:
        solver = replace(solver, fit_start=0)
    labels = match_classes(predictor.class_names, data.class_names)
    found = []
    for evals in budgets:
        with solved_by(predictor, replace(solver, test_evals=evals)):
            found.append(_at_budget(predictor, data, labels, evals, images))
        progress(found[-1])
    return found


@torch.no_grad()
def _at_budget(predictor: Predictor, data: DetectionData, labels: Tensor, evals: int, images: int | None) -> AtBudget:
    evaluator = CocoEvaluator(data.val_dataset.annotations, data.category_ids, max_detections=data.max_detections)
    residual: list[float] = []
    for batch, targets in data.val_dataloader():
        detections = []
        for image in batch:  # one by one: the neck remembers its last solve only, and sizes are solved apart
            detections += predictor.detector([image.to(predictor.device).float() / 255])
            stats: Any = body_of(predictor).neck.stats
            residual += stats.forward.residual.tolist()
        detections = [{**{k: v.cpu() for k, v in d.items()}, "labels": labels[d["labels"].cpu()]} for d in detections]
        evaluator.update([int(t["image_id"]) for t in targets], detections)
        if images is not None and len(residual) >= images:
            break
    summary = evaluator.compute().summary
    return AtBudget(evals, residual, summary["AP"], summary["AP50"])


@dataclass(frozen=True)
class GradientErrors:
    """Relative errors |u - exact| / |exact| of the gradient in G's parameters.

    state: in words. residual: of that state. errors: {method: [(products or steps, error), ...]}.
    """

    state: str
    residual: float
    errors: dict[str, list[tuple[int, float]]]


def gradient_errors(predictor: Predictor, image: Tensor, budgets: Sequence[int]) -> list[GradientErrors]:
    """Every backward against the exact implicit gradient: at a fine state, and at the state that training finds.

    The loss is ‖P‖². The exact gradient: `REFERENCE_EVALS` evaluations, `REFERENCE_PRODUCTS`
    products of GMRES.

    Raises:
        ConfigError: the checkpoint solves nothing.
    """
    solver = equilibrium_of(predictor)
    maps = features(predictor, image)
    search = {
        f"state after {REFERENCE_EVALS} evaluations": (Anderson(), REFERENCE_EVALS),
        f"state after {solver.train_evals} evaluations, as in training": (solver.forward, solver.train_evals),
    }
    states = {
        words: inside_the_solve(predictor, image, lambda f, z0, how=how: _state(f, z0, *how))  # type: ignore[misc]
        for words, how in search.items()
    }
    fine = next(iter(states.values()))[0]
    exact = _gradient(predictor, maps, fine, Implicit(GMRES(), REFERENCE_PRODUCTS))
    found = []
    for words, (state, residual) in states.items():
        errors: dict[str, list[tuple[int, float]]] = {}
        for name, make in METHODS.items():
            for budget in budgets:
                gradient = _gradient(predictor, maps, state, make(budget))
                errors.setdefault(name, []).append((budget, float((gradient - exact).norm() / exact.norm())))
        one = _gradient(predictor, maps, state, OneStep())
        errors["one step"] = [(0, float((one - exact).norm() / exact.norm()))]
        found.append(GradientErrors(words, residual, errors))
    return found


METHODS: dict[str, Callable[[int], Any]] = {
    "GMRES": lambda n: Implicit(GMRES(), n),
    "Broyden": lambda n: Implicit(Broyden(), n),
    "Anderson": lambda n: Implicit(Anderson(), n),
    "Neumann": lambda n: Implicit(Neumann(), n),
    "unrolled": lambda n: Unrolled(n),
    f"phantom, {PHANTOM_TAU:g}": lambda n: Phantom(n, PHANTOM_TAU),
}


def _state(f: Map, z0: Tensor, rule: Any, evals: int) -> tuple[Tensor, float]:
    found = solve(f, z0, rule, max_evals=evals)
    return found.value, float(found.residual.median())


@dataclass(frozen=True)
class _From:
    """A policy that starts at a given state: one evaluation confirms it, then `backward` differentiates."""

    state: Tensor
    backward: Any

    def __call__(self, f: Map, z0: Tensor, *, training: bool) -> tuple[Tensor, Stats]:
        return fixed_point(f, self.state, forward=Forward(Picard(), max_evals=1), backward=self.backward)


def _gradient(predictor: Predictor, maps: Any, state: Tensor, backward: Any) -> Tensor:
    """Gradient of ‖P‖² with respect to the parameters of G, flat, float64."""
    neck = body_of(predictor).neck
    parameters = [p for p in neck.g.parameters() if p.requires_grad]  # type: ignore[union-attr]  # Module types loosely
    with torch.enable_grad(), solved_by(predictor, _From(state, backward)):
        loss = sum(level.square().sum() for level in neck(maps).values())
        assert isinstance(loss, Tensor)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    return torch.cat([g.double().flatten() for g in gradients])


def radius_at(predictor: Predictor, images: Sequence[Tensor]) -> list[float]:
    """Spectral radius of dG/dP at the state of the test-time budget, per image."""
    solver: Equilibrium = equilibrium_of(predictor)

    def look(f: Map, z0: Tensor) -> list[float]:
        with torch.no_grad():
            state = solve(f, z0, solver.forward, max_evals=solver.test_evals).value
        return [float(r) for r in spectral_radius(f, state)]

    return [r for image in images for r in inside_the_solve(predictor, image, look)]

"""Differentiable equilibria: z* = f(z*), with a gradient in everything that f closes over.

The search runs without autograd, so its memory does not grow with the number of evaluations. Then f is
evaluated once more, with autograd, at the state found. That one evaluation gives the returned value, the
Jacobian products of the backward solve, and the gradients of the parameters: the backward pass only exchanges
the incoming gradient g for the solution u of u = g + Jᵀu, and ordinary autograd does the rest. So every
parameter receives exactly one gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.profiler import record_function

from ifpn.bounds import Ge, Gt, Le, check
from ifpn.solvers.adjoint import GMRES, LinearSolver, Neumann, solve_adjoint
from ifpn.solvers.anderson import Anderson
from ifpn.solvers.batched import sample_norms
from ifpn.solvers.broyden import Broyden
from ifpn.solvers.iterate import search
from ifpn.solvers.repeat import repeat
from ifpn.solvers.solution import Map, Stats
from ifpn.solvers.state import flatten
from ifpn.solvers.step_rule import StepRule, check_rule

# Names of the two solves in a profile.
SEARCH, ADJOINT = "solver: search of the fixed point", "solver: gradient"


@check
@dataclass(frozen=True)
class Forward:
    """How to search the equilibrium: a step rule, budget in evaluations of f, tolerances (see `solve`)."""

    solver: StepRule = field(default_factory=Anderson)
    max_evals: Annotated[int, Ge(1)] = 15
    rtol: Annotated[float, Ge(0)] = 0.0
    atol: Annotated[float, Ge(0)] = 0.0

    def __post_init__(self) -> None:
        check_rule("Forward", self.solver)


@check
@dataclass(frozen=True)
class Implicit:
    """The exact gradient of the equilibrium, to the accuracy of max_vjps vector-Jacobian products.

    Products beyond the accuracy of the forward solve are wasted: the Jacobian is that of the state found.
    """

    solver: LinearSolver = field(default_factory=GMRES)
    max_vjps: Annotated[int, Ge(1), Le(1000)] = 7
    rtol: Annotated[float, Ge(0), Le(1)] = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.solver, GMRES | Neumann | Broyden | Anderson):
            raise TypeError(
                f"Implicit: solver must be GMRES(), Neumann(), Broyden() or Anderson(), got {self.solver!r}"
            )


@check
@dataclass(frozen=True)
class Unrolled:
    """Backpropagate through `steps` plain evaluations that follow the state found, and no further."""

    steps: Annotated[int, Ge(1), Le(1000)]


@check
@dataclass(frozen=True)
class Phantom:
    """As Unrolled, with damped steps z + tau (f(z) - z) (Geng et al., On Training Implicit Models, 2021)."""

    steps: Annotated[int, Ge(1), Le(1000)]
    tau: Annotated[float, Gt(0), Le(1)]


@dataclass(frozen=True)
class OneStep:
    """u = g: differentiate one evaluation, once, as if its input were constant (Fung et al., JFB, 2022)."""


Backward = Implicit | Unrolled | Phantom | OneStep


def check_backward(owner: str, backward: object) -> None:
    """Raise TypeError unless `backward` says how to differentiate."""
    if not isinstance(backward, Backward):
        raise TypeError(
            f"{owner}: backward must be Implicit(solver, max_vjps), Unrolled(steps), Phantom(steps, tau) or OneStep(), "
            f"got {backward!r}"
        )


def fixed_point(
    f: Map, z0: Tensor, *, forward: Forward | None = None, backward: Backward | None = None
) -> tuple[Tensor, Stats]:
    """Find z = f(z) from z0 and return a value that is differentiable in all that f closes over.

        z, stats = fixed_point(lambda z: torch.tanh(linear(z) + x), torch.zeros_like(x))

    The returned value is f(z) at the best state z found (after `steps` such evaluations for Unrolled and
    Phantom), with and without gradients, in training and in evaluation. Grad mode decides whether the value
    carries a gradient. With it f is evaluated once more, under autograd: fifteen evaluations to search cost 16 and
    make 15 updates, as 15 iterations of DEQ's Broyden do. Without it the search has f(z) already, and fifteen cost
    15. No gradient reaches z0: the equilibrium does not depend on it. Gradients of gradients are refused for Implicit
    and OneStep, and exist for Unrolled and Phantom, of the steps they record.

    Args:
        f: maps (B, ...) to the same shape; see `solve`. Under autograd it is evaluated exactly once (again where
            a sample fails in that evaluation).
        z0: (B, ...) first state, only read.
        forward: how to search; Forward(Anderson(5), max_evals=15) if not given.
        backward: how to differentiate; Implicit(GMRES(), max_vjps=7) if not given.

    Returns:
        The value (B, ...), float32 (float64 if z0 is), and Stats. `stats.forward` describes z, so its
        residual is that before the last evaluation. `stats.backward` is filled in by the backward pass of
        Implicit. A sample of which no evaluation was finite returns its z0, with Status.NONFINITE, and takes no
        part in the gradients.

    Raises:
        ValueError, TypeError, RuntimeError: as `solve`.
    """
    forward = Forward() if forward is None else forward
    backward = Implicit() if backward is None else backward
    if not isinstance(forward, Forward):
        raise TypeError(f"fixed_point: forward must be Forward(solver, max_evals), got {forward!r}")
    check_backward("fixed_point", backward)
    graded = torch.is_grad_enabled()
    with record_function(SEARCH):
        found, value = search(
            f, z0, forward.solver, forward.max_evals, forward.rtol, forward.atol, leave=not graded, keep_f=not graded
        )
    stats = Stats(found)
    failed = torch.isinf(found.residual)
    if isinstance(backward, Implicit) and graded:
        return _implicit(f, found.value, failed, stats, backward), stats
    steps = 1 if isinstance(backward, Implicit | OneStep) else backward.steps
    tau = backward.tau if isinstance(backward, Phantom) else 1.0
    z = found.value
    if value is not None:  # the first of the steps
        z, steps = value if tau == 1 else torch.lerp(z, value, tau), steps - 1
    z, _ = repeat(f, z, steps, failed, tau=tau)
    if isinstance(backward, OneStep) and z.requires_grad:
        z = _FirstOrder.apply(z)
    return z, stats


def _implicit(f: Map, z: Tensor, failed: Tensor, stats: Stats, how: Implicit) -> Tensor:
    record = _BackwardRecord(stats)
    z = _StateInput.apply(z, torch.zeros((), requires_grad=True), record)
    y, _ = repeat(f, z, 1, failed)
    if not y.requires_grad:
        return y
    problem = _AdjointProblem(get_gradient_edge(y), get_gradient_edge(z), how, record)
    out: Tensor = _SolveAdjoint.apply(y, problem)
    return out


@dataclass
class _BackwardRecord:
    """What the backward solve leaves for the exact residual."""

    stats: Stats
    rest: Tensor | None = None  # g - u, (B, N)
    size: Tensor | None = None  # |g|, (B,)


@dataclass(frozen=True)
class _AdjointProblem:
    """All the backward solve needs. Edges, not tensors: no state is kept alive by it and no cycle arises."""

    value: GradientEdge
    state: GradientEdge
    how: Implicit
    record: _BackwardRecord

    def product(self, shape: torch.Size) -> Callable[[Tensor], Tensor]:
        def product(v: Tensor) -> Tensor:
            (out,) = torch.autograd.grad(self.value, self.state, v.reshape(shape), retain_graph=True, allow_unused=True)
            return torch.zeros_like(v) if out is None else out.reshape(v.shape)

        return product


class _StateInput(torch.autograd.Function):
    """Identity on the state. Its backward receives Jᵀu, records the exact adjoint residual and ends there.

    `anchor` is a leaf that makes autograd record; it gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, anchor: Tensor, record: _BackwardRecord) -> Tensor:
        ctx.record = record
        return z.view_as(z)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        record: _BackwardRecord = ctx.record
        if record.rest is not None and record.size is not None and record.stats.backward is not None:
            size = sample_norms(record.rest.add_(flatten(grads[0])))
            residual = torch.where(size == 0, 0.0, size / record.size)
            residual = torch.where(residual < torch.inf, residual, torch.inf)  # NaN, too
            record.stats.backward = replace(record.stats.backward, residual=residual)
            record.rest = None
        return None, None, None


class _SolveAdjoint(torch.autograd.Function):
    """Identity; its backward exchanges g for the solution u of u = g + Jᵀu."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, problem: _AdjointProblem) -> Tensor:
        ctx.problem = problem
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        _refuse_second_order()
        problem: _AdjointProblem = ctx.problem
        g = flatten(grads[0])
        product = problem.product(grads[0].shape)
        with record_function(ADJOINT):
            solution = solve_adjoint(product, g, problem.how.solver, problem.how.max_vjps, problem.how.rtol)
        u = solution.value
        problem.record.rest, problem.record.size = g - u, sample_norms(g)
        problem.record.stats.backward = replace(solution, value=u.new_empty(0))
        return u.view(grads[0].shape), None


class _FirstOrder(torch.autograd.Function):
    """Identity that can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        _refuse_second_order()
        return grads[0]


def _refuse_second_order() -> None:
    """Raise RuntimeError under create_graph, within a backward."""
    # Not `once_differentiable`: where g is a constant that lets create_graph pass, and drops ∂u silently.
    if torch.is_grad_enabled():
        raise RuntimeError(
            "fixed_point gives first derivatives only; call backward without create_graph=True, "
            "or use Unrolled(steps), which can be differentiated again"
        )

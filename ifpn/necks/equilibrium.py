"""What the two implicit necks share: P* = f(P*; B), found by a solver, differentiated by its rule."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ifpn.csc import DeformableConv
from ifpn.layers.norm import group_norm
from ifpn.layers.solve_scope import solve_scope
from ifpn.necks.neck import ExtraLevelsFrom, Neck, check_halving
from ifpn.necks.projection import NormLayer, Projection
from ifpn.necks.state import Layout
from ifpn.solvers import Equilibrium, Stats, Unroll, jacobian_penalty, spectral_radius

Levels = list[Tensor]


class Policy(Protocol):
    """How z = f(z) is solved and differentiated: ``ifpn.solvers.Equilibrium``, ``Unroll``, or one's own."""

    def __call__(self, f: Callable[[Tensor], Tensor], z0: Tensor, /, *, training: bool) -> tuple[Tensor, Stats]:
        """f maps (N, D) to (N, D); returns the state (N, D) and what happened."""
        ...


class EquilibriumNeck(Neck):
    """B from the backbone, P^0 = 0, then the solver. A subclass gives ``g`` and :meth:`iterate`.

    Args:
        in_channels_list, out_channels, extra_blocks, norm_layer, extra_levels: see :class:`ImplicitFPN`.
        g: the function inside the iteration, whatever its arguments.
        solver: None is ``Equilibrium()``.
        jacobian_weight: weight of the Jacobian penalty; 0 switches it off.
        input_norm: GroupNorm with own parameters per level on B.
        add_input: return P* + B instead of P*.
        compile: see :meth:`call_g`.

    Raises:
        ValueError: for a negative weight, or a positive one with deformable kernels in ``g``.
    """

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None,
        norm_layer: NormLayer | None,
        *,
        extra_levels: ExtraLevelsFrom,
        make_g: Callable[[int, int], nn.Module],
        solver: Policy | None,
        jacobian_weight: float,
        input_norm: bool,
        add_input: bool,
        compile: bool,
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        self.projection = Projection(in_channels_list, out_channels, self.extra_levels, norm_layer)
        num_levels = len(in_channels_list) + (0 if self.extra_levels == "none" else 2)
        self.input_norm = nn.ModuleList(group_norm(out_channels) for _ in range(num_levels)) if input_norm else None
        self.add_input = add_input
        self.g = make_g(out_channels, num_levels)
        self.solver: Policy = Equilibrium() if solver is None else solver
        if jacobian_weight < 0:
            raise ValueError(f"jacobian_penalty must not be negative, got {jacobian_weight}")
        if jacobian_weight > 0 and any(isinstance(m, DeformableConv) for m in self.g.modules()):
            raise ValueError(
                "jacobian_penalty differentiates twice and torchvision's deform_conv2d cannot: "
                "set neck.jacobian_penalty=0 or csc.deform=false"
            )
        self.jacobian_weight = jacobian_weight
        self.compile_g = compile
        self._compiled: Callable[..., Levels] | None = None

    def iterate(self, p: Levels, b: Levels) -> Levels:
        """One evaluation of the iteration's right-hand side."""
        raise TypeError(f"{type(self).__name__} defines no iterate(); use ImplicitFPN or MDEQNeck")

    def call_g(self, *arguments: Levels) -> Levels:
        """G, through ``torch.compile`` if asked to, in the evaluations that only search.

        The one evaluation under autograd stays eager. A compiled backward always computes all its gradients, the
        parameters' too, so each of the adjoint's products, which need that of the state alone, would cost
        nearly twice as much (docs/solver.md).
        """
        if not self.compile_g or torch.is_grad_enabled():
            outputs: Levels = self.g(*arguments)
            return outputs
        if self._compiled is None:
            self._compiled = torch.compile(self.g.forward)
        return self._compiled(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled G: it belongs to this object's weights."""
        return {**super().__getstate__(), "_compiled": None}

    def pyramid(self, features: Levels) -> Levels:
        """Backbone levels to P* (or P* + B), fp32, contiguous. ``Unroll(0)`` gives B: P^0 is zero for every image."""
        b = self._b(features)
        check_halving(b)
        if isinstance(self.solver, Unroll) and self.solver.steps == 0:
            self.stats = None
            return b
        layout = Layout.of(b)
        f = self._on_states(layout, b)
        with solve_scope(self.g):
            p, self.stats = self.solver(f, layout.zeros(b[0]), training=self.training)
            if self.training and self.jacobian_weight > 0 and torch.is_grad_enabled():
                z = p.detach().requires_grad_()
                self.auxiliary_losses["jacobian"] = self.jacobian_weight * jacobian_penalty(f(z), z)
        levels = layout.views(p)
        if self.add_input:
            return [p_l + b_l for p_l, b_l in zip(levels, b, strict=True)]
        return [level.contiguous() for level in levels]

    def spectral_radius(self, x: Mapping[str, Tensor], iters: int = 25) -> Tensor:
        """Spectral radius of df/dP at P*, per image: (N,) float64. Above 1 there is nothing to converge to.

        Of the network as evaluation uses it: no dropout, BatchNorm by its running statistics. Leaves nothing
        behind: no gradient, no statistics, no random numbers drawn, ``stats`` and the mode as they were.

        Args:
            x: what ``forward`` takes.
            iters: vector-Jacobian products (:func:`ifpn.solvers.spectral_radius`), on top of a solve with the
                evaluation budget and one evaluation.
        """
        with _in_evaluation(self), torch.no_grad(), solve_scope(self.g):
            b = self._b(list(x.values()))
            layout = Layout.of(b)
            f = self._on_states(layout, b)
            p, _ = self.solver(f, layout.zeros(b[0]), training=False)
            return spectral_radius(f, p, iters)

    def _b(self, features: Levels) -> Levels:
        """Backbone levels to B."""
        b: Levels = self.projection(features)
        if self.input_norm is None:
            return b
        return [norm(level) for norm, level in zip(self.input_norm, b, strict=True)]

    def _on_states(self, layout: Layout, b: Levels) -> "FlatIteration":
        """:meth:`iterate` on flat states (N, D)."""
        return FlatIteration(self, layout, b)


@dataclass(frozen=True)
class FlatIteration:
    """The neck's right-hand side for given B, on flat states (N, D) -> (N, D)."""

    neck: EquilibriumNeck
    layout: Layout
    b: Levels

    def __call__(self, p: Tensor) -> Tensor:
        return self.layout.flatten(self.neck.iterate(self.layout.views(p), self.b), p.dtype)

    @property
    def take(self) -> "Callable[[Tensor], FlatIteration] | None":
        """Restrict to the images `index`, so that a solver need not compute the finished ones.

        None in training, where dropout masks and BatchNorm belong to the whole batch, and with a compiled G, which
        would be compiled for every batch size.
        """
        if self.neck.training or self.neck.compile_g:
            return None
        return lambda index: replace(self, b=[level[index] for level in self.b])


@contextmanager
def _in_evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside the block; after it every part has its own mode back."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training

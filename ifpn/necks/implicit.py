"""The implicit feature pyramid network: P* = G(P* + B) (paper Eq. 7), found by a solver, differentiated by its rule."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ifpn.bounds import Ge, Le, Probability, Rate, Weight, Width, check
from ifpn.csc import PyramidConv
from ifpn.errors import UserError
from ifpn.layers.deform import DeformableConv
from ifpn.layers.norm import group_norm
from ifpn.layers.solve_scope import solve_scope
from ifpn.necks.auxiliary import jacobian_losses
from ifpn.necks.equilibrium_options import EquilibriumOptions, FixedPointSolver, in_evaluation
from ifpn.necks.fitted_start import FittedStart, StartFit, fitting
from ifpn.necks.folded import FoldedCopy
from ifpn.necks.neck import ExtraLevelsFrom, Levels, Neck, check_pyramid_sizes
from ifpn.necks.projection import NormLayer, Projection
from ifpn.necks.pyramid_layout import FlatStep, PyramidLayout, to_network
from ifpn.necks.transformation import Block, CrossScale, Transformation
from ifpn.necks.warm_start import warm_start
from ifpn.solvers import Equilibrium, Stats, Unroll, spectral_radius
from ifpn.solvers.equilibrium import LARGEST_RESIDUAL
from ifpn.solvers.repeat import without_samples


class EquilibriumNeck(Neck):
    """B from the backbone, P^0, then the solver. A subclass says in `step` how G is applied.

    P^0 is zero in training. In evaluation too, until a start is fitted (`fitting_start`).

    Args:
        g_factory: makes G, called `g_factory(channels, num_levels)`.
        in_channels_list: as `ImplicitFPN`.
        out_channels: as `ImplicitFPN`.
        extra_blocks: as `ImplicitFPN`.
        norm_layer: as `ImplicitFPN`.
        extra_levels: as `ImplicitFPN`.
        options: all that does not concern G.

    Attributes:
        fold_weights: in evaluation without gradients, use a copy of G into which weight norm is folded (`FoldedCopy`),
            which saves some hundredths of a detector's time; `ifpn.load` and `Stream` switch it on.
        fitted_start: gives P^0 in evaluation where it is fitted and the solver's `fit_start` is not 0.
        start_fit: what `fitting_start` has seen, inside it.
        keep_state: in evaluation, hold P* as `state` and start the next forward from it (`Stream` does so).
        state: P* of the last forward, detached, where `keep_state` or a `start` asked for it.
        restarted: (N,) bool, images of the last forward whose start was refused; None where there was none.

    Raises:
        UserError: a penalty on the Jacobian with deformable kernels in G.
    """

    def __init__(
        self,
        g_factory: Callable[[int, int], nn.Module],
        in_channels_list: list[int],
        out_channels: int,
        extra_blocks: nn.Module | None,
        norm_layer: NormLayer | None,
        extra_levels: ExtraLevelsFrom,
        options: EquilibriumOptions,
    ) -> None:
        super().__init__(in_channels_list, out_channels, extra_blocks, extra_levels)
        self.projection = Projection(in_channels_list, out_channels, self.extra_levels, norm_layer)
        levels = range(self.num_levels)
        self.input_norm = nn.ModuleList(group_norm(out_channels) for _ in levels) if options.input_norm else None
        self.add_input = options.add_input
        self.g = g_factory(out_channels, self.num_levels)
        self.solver: FixedPointSolver = Equilibrium() if options.solver is None else options.solver
        self.options = options
        if options.jacobian_penalty > 0 and any(isinstance(m, DeformableConv) for m in self.g.modules()):
            raise UserError(
                f"jacobian_penalty={options.jacobian_penalty}: must be 0 with deformable kernels, which cannot be "
                "differentiated twice. Set it to 0, or csc.deform=false."
            )
        self.compile_g = options.compile
        self._compiled: Callable[..., Levels] | None = None
        self.fitted_start = FittedStart(out_channels, self.num_levels)
        self.start_fit: StartFit | None = None
        self.fold_weights = False
        self._folded = FoldedCopy()
        self._g_in_use: Callable[..., Levels] | None = None  # a module here would be a part of this one
        self.keep_state = False
        self.state: Levels | None = None
        self.restarted: Tensor | None = None

    def forward(self, x: Mapping[str, Tensor], start: Levels | None = None) -> OrderedDict[str, Tensor]:
        """As `Neck.forward`; in evaluation the solve can start from a pyramid that is close.

        Args:
            x: see `Neck.forward`.
            start: the `state` of an earlier forward. An image starts from P^0 where that has the smaller
                residual, and all do where the sizes have changed. A start costs no evaluation unless refused.

        Returns:
            See `Neck.forward`.

        Raises:
            ValueError: a start in training; else see `Neck.forward`.
        """
        if start is not None and self.training:
            raise ValueError("start is for evaluation: dropout gives each training step another fixed point")
        if start is not None:
            self.state = start
        elif self.training or not self.keep_state:
            self.state = None
        self.restarted = None
        return super().forward(x)

    @abstractmethod
    def step(self, p: Levels, b: Levels) -> Levels:
        """Evaluate the right-hand side of the equation once."""

    def evaluate_g(self, *arguments: Levels) -> Levels:
        """Apply G, through `torch.compile` if asked to, in the evaluations that only search.

        The one evaluation under autograd stays eager. A compiled backward always computes all its gradients, the
        parameters' too, so each of the adjoint's products, which need that of the state alone, would cost
        nearly twice as much (docs/solver.md).
        """
        if not self.compile_g or torch.is_grad_enabled():
            outputs: Levels = (self._g_in_use or self.g)(*arguments)
            return outputs
        if self._compiled is None:
            self._compiled = torch.compile(self.g.forward)
        return self._compiled(*arguments)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this object's weights, and what the last forward left."""
        left_out = {"_compiled": None, "_folded": FoldedCopy(), "state": None, "restarted": None}
        return {**super().__getstate__(), **left_out}

    def pyramid(self, features: Levels) -> Levels:
        """Backbone levels to P* (or P* + B), contiguous, fp32 under autocast; to B for `Unroll(0)`, as P^0 = 0."""
        b = self.project(features)
        check_pyramid_sizes(b)
        if isinstance(self.solver, Unroll) and self.solver.steps == 0:
            self.stats = self.state = None
            return b
        f = self.flat_map(b)
        graded = self.training and torch.is_grad_enabled()
        if graded and self.fitted_start.is_fitted:  # its weights are about to change
            self.fitted_start.clear()
        with self.solving():
            first = functools.cache(functools.partial(self.first_state, f))  # noise is drawn once
            p, self.stats = self._solve(f, first)
            if (
                self.stats is not None
                and torch.is_grad_enabled()
                and bool((failed := torch.isinf(self.stats.forward.residual)).any())
            ):
                # B of these images may hold NaN, which must not reach the gradients of the weights that make it.
                with without_samples(failed):
                    b = self.project(features)
                f = self.flat_map(b)
                p, self.stats = self._solve(f, first)
            if graded:
                self.auxiliary_losses |= jacobian_losses(f, p, self.options)
        levels = to_network(f.layout.views(p), b)
        if self.state is not None or (self.keep_state and not self.training):
            self.state = f.layout.views(p.detach().clone())  # the caller may change its levels in place
        if self.add_input:
            return [p_l + b_l for p_l, b_l in zip(levels, b, strict=True)]
        # Of one image a level is a view of the state even where it is contiguous, and could not be changed in place.
        return [level.clone(memory_format=torch.contiguous_format) for level in levels]

    @contextmanager
    def solving(self) -> Iterator[None]:
        """Inside, G is one and the same function: G itself, or its folded copy where that is asked for."""
        fold = self.fold_weights and not (self.training or torch.is_grad_enabled() or self.compile_g)
        g = self._folded.of(self.g) if fold else self.g
        self._g_in_use = g.__call__
        try:
            with solve_scope(g) if g is self.g else nullcontext():  # a folded copy has nothing to hold
                yield
        finally:
            self._g_in_use = None

    def fitting_start(self) -> AbstractContextManager[StartFit]:
        """Inside, look at the images of every forward; at the end, fit `fitted_start` to their P* (`fitting`).

        Evaluation then starts there and needs fewer evaluations; the fixed point is what it was. A training step
        forgets the fit. If P* is found for no image, or the start is no better than zero, there is none.

            with torch.no_grad(), neck.fitting_start():
                for image in images:             # 32 of them, as evaluation sees them
                    detector([image])            # in evaluation mode

        Raises:
            RuntimeError: the neck is in training mode, or its solver starts from zero always.
        """
        return fitting(self)

    @property
    def starts_fitted(self) -> bool:
        """Whether evaluation starts from what was fitted."""
        return self.fitted_start.is_fitted and isinstance(self.solver, Equilibrium) and self.solver.fit_start > 0

    @property
    def one_is_enough(self) -> bool:
        """Whether one evaluation from the fitted start brings the typical image within the solver's `test_error`."""
        start, error = self.fitted_start, self.solver.test_error if isinstance(self.solver, Equilibrium) else None
        if error is None or not self.starts_fitted:
            return False
        return start.error <= error and start.known("residual") <= LARGEST_RESIDUAL

    def first_levels(self, b: Levels) -> Levels:
        """P^0 of evaluation for B, levels (N, C, H_l, W_l) both: what was fitted, else zero."""
        return self.fitted_start(b) if self.starts_fitted else [torch.zeros_like(level) for level in b]

    def first_state(self, f: FlatStep) -> Tensor:
        """P^0 (N, D): `first_levels` in evaluation; zero or noise in training."""
        if not self.training and self.starts_fitted:
            return self.fitted_start.state(f.b, f.layout)
        zeros = f.layout.zeros(f.b[0])
        if self.training and self.options.random_start > 0:
            scale = f.layout.flatten([level.detach() for level in f.b], zeros.dtype).std(dim=1, keepdim=True)
            chosen = torch.rand_like(scale) < self.options.random_start
            return torch.where(chosen, scale * torch.randn_like(zeros), zeros)
        return zeros

    def _solve(self, f: FlatStep, first: Callable[[], Tensor]) -> tuple[Tensor, Stats]:
        """P* from `state`, if it is of the size of B, else from `first()` (N, D)."""
        if self.start_fit is not None:
            return self.start_fit.look(f, first())
        if self.state is None or [p.shape for p in self.state] != [b.shape for b in f.b]:
            return self._search(f, first())
        with torch.no_grad():
            zeros = f.layout.zeros(f.b[0])
            known = f.layout.flatten(self.state, zeros.dtype).to(zeros.device)
        limit = self.fitted_start.known("residual") if self.starts_fitted else 1.0
        known_first, z0, self.restarted = warm_start(f, known, first, limit)
        # A value without a graph is of no use to a solver that unrolls.
        return self.solver(f if torch.is_grad_enabled() else known_first, z0, training=False)

    def _search(self, f: FlatStep, z0: Tensor) -> tuple[Tensor, Stats]:
        if self.training or not self.one_is_enough:
            return self.solver(f, z0, training=self.training)
        assert isinstance(self.solver, Equilibrium)
        return self.solver(f, z0, training=False, contraction=self.fitted_start.known("contraction"))

    def evals(self) -> Tensor:
        """Evaluations of G in the last forward that searched or gave the value, per image: (N,) int64.

        Raises:
            RuntimeError: nothing has been solved yet.
        """
        if self.stats is None:
            raise RuntimeError("the neck has solved nothing: call it first")
        forward = self.stats.forward
        used = torch.full_like(forward.status, forward.evals) if forward.sample_evals is None else forward.sample_evals
        return used if self.restarted is None else used + self.restarted

    def spectral_radius(self, x: Mapping[str, Tensor], iters: int = 25) -> Tensor:
        """Spectral radius of df/dP at P*, per image: (N,) float64. Above 1 there is nothing to converge to.

        Of the network as evaluation uses it: no dropout, BatchNorm by its running statistics. Leaves nothing
        behind: no gradient, no statistics, no random numbers drawn, `stats` and the mode as they were.

        Args:
            x: what `forward` takes.
            iters: vector-Jacobian products (`ifpn.solvers.spectral_radius`), on top of a solve with the
                evaluation budget and one evaluation.
        """
        with in_evaluation(self), torch.no_grad(), solve_scope(self.g):
            b = self.project(list(x.values()))
            f = self.flat_map(b)
            p, _ = self.solver(f, f.layout.zeros(b[0]), training=False)
            return spectral_radius(f, p, iters)

    def project(self, features: Levels) -> Levels:
        """Backbone levels to B."""
        b: Levels = self.projection(features)
        if self.input_norm is None:
            return b
        return [norm(level) for norm, level in zip(self.input_norm, b, strict=True)]

    def flat_map(self, b: Levels) -> FlatStep:
        """`step` for given B, on flat states (N, D)."""
        return FlatStep(self, PyramidLayout.of(b), b)


@check
class ImplicitFPN(EquilibriumNeck):
    """The pyramid P* with P* = G(P* + B), where B is the projected backbone feature and P^0 = 0.

    G is a residual block per level and a cross-scale block (`Transformation`, Eq. 8). It has the
    parameters of one block, and training stores the activations of one evaluation, however many the solver
    makes. Takes the place of `torchvision.ops.FeaturePyramidNetwork` in torchvision's detectors:

        neck = ImplicitFPN([512, 1024, 2048], 256)                                          # P3..P7
        neck = ImplicitFPN([256, 512, 1024, 2048], 256, extra_blocks=LastLevelMaxPool())    # P2..P5, pool

    Within one forward, weight norm is computed once, dropout masks are drawn once, and BatchNorm, if the csc
    has it, normalises each evaluation by its own batch and updates its running statistics once, in the last
    evaluation, which is at P* (`ifpn.layers.solve_scope.solve_scope`). The head works on P*;
    on P* + B with `add_input`.

    Args:
        in_channels_list: channels of the backbone levels, fine to coarse, each of half the size of the one
            before.
        out_channels: C of B and P.
        extra_blocks: a torchvision `ExtraFPNBlock` on P*, after the solve; the state then has no P6 and P7.
        norm_layer: called with C, follows the 1x1 convolutions that make B; None for none.
        csc: makes the cross-scale block, called `csc(channels, num_levels)`.
        solver: `Equilibrium(...)` or `Unroll(steps)`; None is `Equilibrium()`, with the paper's budget of
            15 evaluations in training and 7 in evaluation. `Unroll(T)` gives P^T of the same G; `Unroll(0)`
            gives B, as P^0 = 0 says nothing of the image (G is then unused and gets no gradient).
        extra_levels: B6 from the projected C5 (`"p5"`), from C5 (`"c5"`), or neither B6 nor B7
            (`"none"`).
        residual_block: residual blocks R_j in G (paper Table 3, RBL).
        block: `"basic"`, or `"post_norm"` with a GroupNorm behind the residual block (`ResidualBlock`).
        weight_norm: weight norm on the convolutions of G (paper Sec. 4.2).
        dropout: rate of the variational dropout in the residual blocks (paper Sec. 4.2 names no rate).
        output_norm: GroupNorm on G's output: keeps the iteration bounded when training drives it apart.
        input_norm: GroupNorm with own parameters per level on B: puts B on the scale of P where the backbone's
            features are not of the order of 1 (EfficientNet-Lite's are near 8).
        add_input: the neck returns P* + B, the argument of G, instead of P*: a short way for the gradient from
            the head to the backbone.
        jacobian_penalty: weight of the estimated ||dG/dP||_F^2 / D at P* in `auxiliary_losses["jacobian"]`.
        jacobian_every: share of the training steps, drawn at random, that compute this penalty, at full weight
            (0.08 in MDEQ's configurations).
        random_start: share of the training images that start from noise of the scale of B instead of zero, so that
            the answer does not come to depend on the start.
        compile: `torch.compile` for the evaluations that search P*; the graded one stays eager.

    Raises:
        UserError: for a G without parameters, rates or weights out of range, and a penalty on the Jacobian with
            deformable kernels (they have no second derivative).
    """

    g: Transformation

    def __init__(
        self,
        in_channels_list: list[int],
        out_channels: Width,
        extra_blocks: nn.Module | None = None,
        norm_layer: NormLayer | None = None,
        *,
        csc: CrossScale = PyramidConv,
        solver: FixedPointSolver | None = None,
        extra_levels: ExtraLevelsFrom = "p5",
        residual_block: bool = True,
        block: Block = "basic",
        weight_norm: bool = True,
        dropout: Rate = 0.05,
        output_norm: bool = False,
        input_norm: bool = False,
        add_input: bool = False,
        jacobian_penalty: Weight = 0.0,
        jacobian_every: Annotated[float, Ge(0.001), Le(1)] = 1.0,
        random_start: Probability = 0.0,
        compile: bool = False,
    ) -> None:
        g_factory = functools.partial(
            Transformation,
            csc=csc,
            residual_block=residual_block,
            block=block,
            weight_norm=weight_norm,
            dropout=dropout,
            output_norm=output_norm,
        )
        options = EquilibriumOptions(
            solver=solver,
            input_norm=input_norm,
            add_input=add_input,
            jacobian_penalty=jacobian_penalty,
            jacobian_every=jacobian_every,
            random_start=random_start,
            compile=compile,
        )
        super().__init__(g_factory, in_channels_list, out_channels, extra_blocks, norm_layer, extra_levels, options)

    def step(self, p: Levels, b: Levels) -> Levels:
        """G(P + B), Eq. 7."""
        return self.evaluate_g([p_l + b_l for p_l, b_l in zip(p, b, strict=True)])

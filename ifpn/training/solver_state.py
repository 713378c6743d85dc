"""Solvers that depend on the step of the training, or learn from it: told the step, given the spectral radius."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from ifpn.necks.implicit import EquilibriumNeck
from ifpn.solvers import Equilibrium

log = logging.getLogger(__name__)

PRODUCTS = 12  # of a measurement that chooses a budget: its borders are 0.1 wide


def equilibrium_neck(module: nn.Module) -> EquilibriumNeck | None:
    """The implicit neck inside `module`; None if there is none."""
    return next((part for part in module.modules() if isinstance(part, EquilibriumNeck)), None)


class RadiusProbe:
    """The spectral radius at the equilibrium of a batch that the network trains on."""

    def __init__(self) -> None:
        self._features: list[Mapping[str, Tensor]] = []

    def arm(self, neck: EquilibriumNeck) -> None:
        """Keep what the neck's next forward is given."""

        def keep(_: nn.Module, arguments: tuple[Mapping[str, Tensor]]) -> None:
            self._features = [{name: level.detach() for name, level in arguments[0].items()}]
            handle.remove()

        handle = neck.register_forward_pre_hook(keep)

    def read(self, trainer: pl.Trainer, neck: EquilibriumNeck, products: int) -> float | None:
        """The median over the batch that was kept, on this rank; None if none was."""
        if not self._features:
            return None
        with trainer.precision_plugin.forward_context():
            return float(neck.spectral_radius(self._features.pop(), products).median())


def radius_metrics(radius: float) -> dict[str, float]:
    """A spectral radius and the effective depth.

    What takes k applications to arrive is damped by about radius^k: their sum is that of 1 / (1 - radius).
    """
    return {"spectral_radius": radius} | ({"effective_depth": 1 / (1 - radius)} if radius < 1 else {})


def log_radius(trainer: pl.Trainer, radius: float, row: int) -> dict[str, float]:
    """Log a spectral radius and the effective depth in row `row` of the loggers, and return them."""
    measured = radius_metrics(radius)
    # Not `LightningModule.log`: that would repeat the value in every row until the epoch ends.
    for logger in trainer.loggers:
        logger.log_metrics({f"solver/{name}": value for name, value in measured.items()}, step=row)
    return measured


class SolverSchedule:
    """Tells a neck's `Equilibrium` the step, and the spectral radius in the steps in which it asks for it.

    All ranks measure in the same steps, and all use the mean of what they measure, so their choices are one.
    """

    def __init__(self, detector: nn.Module) -> None:
        self._neck = equilibrium_neck(detector)
        solver = getattr(self._neck, "solver", None)
        self.solver = solver if isinstance(solver, Equilibrium) else None
        self._probe = RadiusProbe()
        self._measured_at = -1

    def before_batch(self, step: int, max_steps: int) -> None:
        """The next batch belongs to optimiser step `step`, from 0."""
        if self.solver is None or self._neck is None:
            return
        was_unrolled = self.solver.progress.unrolled
        self.solver.at_step(step, max_steps)
        if was_unrolled and not self.solver.progress.unrolled:
            log.info("step %d: the warm-up is over, from here on the equilibrium is searched", step)
        if self.solver.progress.radius_due and step != self._measured_at:  # once, however many batches are accumulated
            self._measured_at = step
            self._probe.arm(self._neck)

    def after_batch(self, trainer: pl.Trainer) -> None:
        """Measure, if it is time to."""
        if self.solver is None or self._neck is None:
            return
        radius = self._probe.read(trainer, self._neck, PRODUCTS)
        if radius is None:
            return
        if trainer.world_size > 1:
            shared = torch.tensor(radius, device=self._neck_device())
            dist.all_reduce(shared)
            radius = float(shared) / trainer.world_size
        log_radius(trainer, radius, self._measured_at)
        before = self.solver.progress.regime
        self.solver.observe(radius)
        if (after := self.solver.progress.regime) != before:
            log.info(
                "step %d: spectral radius %.2f, the solver goes from %s to %s",
                trainer.global_step,
                radius,
                before,
                after,
            )

    def _neck_device(self) -> torch.device:
        assert self._neck is not None
        return next(self._neck.parameters()).device

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, plain values."""
        return {} if self.solver is None else self.solver.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        if self.solver is not None:
            self.solver.load_state_dict(state)

"""Is the fixed point found? Residuals, evaluations and failures of the solver, forward and backward, as metrics."""

from __future__ import annotations

import logging
from typing import Annotated, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from ifpn.bounds import Count, Ge, Gt, Le, check
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.solvers import Equilibrium, Solution, Stats, Status, Unroll
from ifpn.training.solver_state import RadiusProbe, equilibrium_neck, log_radius

log = logging.getLogger(__name__)

# Relative residual below which a fixed point counts as found: what the DEQ papers call good convergence.
CONVERGED = 0.05
MEASURED = ("spectral_radius", "effective_depth")


@check
class SolverMonitor(Callback):
    """Logs `solver/*` every `trainer.log_every_n_steps` steps, and only then waits for the device.

    Of the samples of the batch at hand, on the first rank: `forward_residual` and `backward_residual` (the median of
    ||f(z) - z|| / ||f(z)|| at the returned state), their `_max`, the evaluations used, and the shares that did not
    converge (residual above 0.05, or none) or met a non-finite value. After a validation: `solver/test_residual` of
    its last batch. `traces` keeps the last logged residual per evaluation.

    Warns once in a run when training has left the regime in which G contracts.

    Args:
        spectral_every: log `solver/spectral_radius`, the median over the batch, every so many steps; null: never. A
            measurement costs about 35 evaluations of G and changes nothing in the training.
        spectral_products: vector-Jacobian products of a measurement.
        residual_limit: the warning comes when `forward_residual` was above this ...
        patience: ... so many logged times in a row, or as soon as a spectral radius measured here is above 1, or the
            median of the last three that a solver measured to choose its budget.
    """

    def __init__(
        self,
        spectral_every: Count | None,
        spectral_products: Annotated[int, Ge(1), Le(1000)],
        residual_limit: Annotated[float, Gt(0), Le(1e6)],
        patience: Count,
    ) -> None:
        self.spectral_every = spectral_every
        self.spectral_products = spectral_products
        self.residual_limit = residual_limit
        self.patience = patience
        self.traces: dict[str, Tensor] = {}
        self.summary: dict[str, float] = {}
        self.readings_above_limit = 0  # logged residuals above the limit, the last ones in a row
        self.warned = False
        self._probe = RadiusProbe()
        self._measured_at = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "traces": self.traces,
            "summary": self.summary,
            "above": self.readings_above_limit,
            "warned": self.warned,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.traces, self.summary = dict(state_dict["traces"]), dict(state_dict["summary"])
        self.readings_above_limit, self.warned = int(state_dict.get("above", 0)), bool(state_dict.get("warned", False))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        # The step that this batch belongs to will be number global_step + 1. Every rank measures in the same steps.
        step = trainer.global_step + 1
        neck = equilibrium_neck(pl_module)
        if neck is None or not self.spectral_every or step % self.spectral_every or step == self._measured_at:
            return
        self._measured_at = step
        self._probe.arm(neck)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Also on the first step: a run too short to log would otherwise have nothing to tell.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of the Trainer
        stats = solver_stats(pl_module)
        if stats is not None and (trainer.global_step % every == 0 or not self.traces):
            self._log_solves(stats, pl_module)
            if not _unrolls(equilibrium_neck(pl_module)):
                self._check_residual(trainer)
        self._log_spectral_radius(trainer, pl_module)
        self._check_chosen_by(trainer, equilibrium_neck(pl_module))

    def _log_solves(self, stats: Stats, pl_module: pl.LightningModule) -> None:
        for side, solution in (("forward", stats.forward), ("backward", stats.backward)):
            if solution is not None:
                self.traces[side] = solution.trace.detach().float().cpu()
                self.summary |= solver_metrics(side, solution)
        found = {name: value for name, value in self.summary.items() if name not in MEASURED}
        found["unrolled"] = float(_unrolls(equilibrium_neck(pl_module)))
        pl_module.log_dict({f"solver/{name}": value for name, value in found.items()})

    def _check_residual(self, trainer: pl.Trainer) -> None:
        residual = self.summary["forward_residual"]
        self.readings_above_limit = 0 if residual <= self.residual_limit else self.readings_above_limit + 1
        if self.readings_above_limit >= self.patience:
            self._warn(
                trainer,
                f"the fixed point is not found: at the last {self.readings_above_limit} readings the residual of the "
                f"median image was above {self.residual_limit:g}, now {residual:.2g}",
            )

    def _log_spectral_radius(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        neck = equilibrium_neck(pl_module)
        radius = None if neck is None else self._probe.read(trainer, neck, self.spectral_products)
        if neck is None or radius is None:
            return
        measured = log_radius(trainer, radius, self._measured_at - 1)  # rows are numbered from 0
        self.summary = {k: v for k, v in self.summary.items() if k not in MEASURED} | measured
        if radius > 1 and not _unrolls(neck):
            self._warn(trainer, f"G does not contract: its spectral radius at the fixed point is {radius:.2f}")

    def _check_chosen_by(self, trainer: pl.Trainer, neck: EquilibriumNeck | None) -> None:
        """The readings by which `solver=fast` chooses its budget tell, too."""
        solver = getattr(neck, "solver", None)
        radius = solver.progress.radius if isinstance(solver, Equilibrium) and not solver.progress.unrolled else None
        if radius is not None and radius > 1:
            self._warn(
                trainer, f"G does not contract: its spectral radius, the median of the last readings, is {radius:.2f}"
            )

    def _warn(self, trainer: pl.Trainer, what: str) -> None:
        """Once in a run, a resumed one included; the first rank speaks for all."""
        if not self.warned and trainer.is_global_zero:
            log.warning(
                f"step {trainer.global_step}: {what}. Training has left the regime in which the equation "
                "P = G(P + B) can be solved, and the gradient is inexact. What helps, the strongest first: "
                "neck.output_norm=true, if it is off; neck.jacobian_penalty=0.5 or more; a lower "
                "schedule.optimizer.lr; if the residual still falls at the last evaluations (convergence.png), more "
                "solver.train_evals. More in docs/solver.md, 'When it does not converge'."
            )
        self.warned = True

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        stats = solver_stats(pl_module)
        if stats is not None:
            pl_module.log("solver/test_residual", stats.forward.residual.float().median())


def solver_stats(module: nn.Module) -> Stats | None:
    """The statistics of the last solve inside `module`; None if it solves nothing."""
    for part in module.modules():
        stats = getattr(part, "stats", None)
        if isinstance(stats, Stats):
            return stats
    return None


def _unrolls(neck: EquilibriumNeck | None) -> bool:
    """Whether training applies G a few times and asks for no fixed point."""
    solver = getattr(neck, "solver", None)
    return isinstance(solver, Unroll) or (isinstance(solver, Equilibrium) and solver.progress.unrolled)


def solver_metrics(side: str, solution: Solution) -> dict[str, float]:
    """Plain numbers of one solve; this is where the host waits for the device."""
    residual, status = solution.residual.detach().float().cpu(), solution.status.detach().cpu()
    return {
        f"{side}_residual": float(residual.median()),
        f"{side}_residual_max": float(residual.max()),
        f"{side}_evals": float(solution.evals),
        f"{side}_unconverged": float((~(residual <= CONVERGED)).float().mean()),
        f"{side}_nonfinite": float((status == Status.NONFINITE).float().mean()),
    }

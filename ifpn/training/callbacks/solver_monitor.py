"""Is the fixed point found? Residuals, evaluations and failures of the solver, forward and backward, as metrics."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from ifpn.solvers import Solution, Stats, Status


class SolverMonitor(Callback):
    """Logs `solver/*` every `trainer.log_every_n_steps` steps, and only then waits for the device.

    Of the samples of the batch at hand: `forward_residual` and `backward_residual` (the median of
    ||f(z) - z|| / ||f(z)|| at the returned state), their `_max`, the evaluations used, and the shares that converged or
    met a non-finite value. After a validation: `solver/test_residual` of its last batch.
    `traces` keeps the last logged residual per evaluation.
    """

    def __init__(self) -> None:
        self.traces: dict[str, Tensor] = {}
        self.summary: dict[str, float] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"traces": self.traces, "summary": self.summary}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.traces, self.summary = dict(state_dict["traces"]), dict(state_dict["summary"])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Also on the first step: a run too short to log would otherwise have nothing to tell.
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of the Trainer
        if trainer.global_step % every and self.traces:
            return
        stats = solver_stats(pl_module)
        if stats is None:
            return
        for side, solution in (("forward", stats.forward), ("backward", stats.backward)):
            if solution is not None:
                self.traces[side] = solution.trace.detach().float().cpu()
                self.summary |= describe(side, solution)
        pl_module.log_dict({f"solver/{name}": value for name, value in self.summary.items()})

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


def describe(side: str, solution: Solution) -> dict[str, float]:
    """Plain numbers of one solve; this is where the host waits for the device."""
    residual, status = solution.residual.detach().float().cpu(), solution.status.detach().cpu()
    return {
        f"{side}_residual": float(residual.median()),
        f"{side}_residual_max": float(residual.max()),
        f"{side}_evals": float(solution.evals),
        f"{side}_converged": float((status == Status.CONVERGED).float().mean()),
        f"{side}_nonfinite": float((status == Status.NONFINITE).float().mean()),
    }

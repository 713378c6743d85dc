"""The run folder tells its own story: result.json, curves.png, convergence.png."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from ifpn.data import DetectionData
from ifpn.plots.convergence import draw_convergence
from ifpn.plots.curves import draw_curves
from ifpn.runs.folder import CONVERGENCE, CURVES, METRICS, RESULT
from ifpn.runs.result import RunResult, peak_memory_mib
from ifpn.training.callbacks.checkpoints import BestCheckpoint
from ifpn.training.callbacks.solver_monitor import SolverMonitor
from ifpn.training.cost import multiply_adds
from ifpn.training.loggers import log_costs, log_pictures, log_tables
from ifpn.training.module import DetectionModule
from ifpn.training.solver_state import PRODUCTS, RadiusProbe, equilibrium_neck, radius_metrics


class RunReport(Callback):
    """Written by the first rank when training ends."""

    def __init__(self) -> None:
        self.step_seconds: list[float] = []
        self._last_end: float | None = None
        self._told_at = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and isinstance(pl_module, DetectionModule):
                logger.log_hyperparams(pl_module.metadata["config"])

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_end = None

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last_end = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # From the end of one step to the end of the next: waiting for data counts, validation does not.
        now = time.monotonic()
        if self._last_end is not None:
            self.step_seconds.append(now - self._last_end)
        self._last_end = now
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]  # set by a connector of the Trainer
        if self.step_seconds and trainer.global_step % every == 0 and trainer.global_step != self._told_at:
            self._told_at = trainer.global_step
            seconds = statistics.median(self.step_seconds[-every:])
            log_costs(trainer.loggers, seconds, peak_memory_mib(pl_module.device), trainer.global_step)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, DetectionModule):
            return
        folder = Path(trainer.default_root_dir)
        monitor = next((c for c in trainer.callbacks if isinstance(c, SolverMonitor)), None)  # type: ignore[attr-defined]
        result = self._result(trainer, pl_module, monitor.summary if monitor else {})
        result.write(folder / RESULT, pl_module.device)
        pictures = []
        for logger in trainer.loggers:
            logger.save()
        if (folder / METRICS).is_file():
            draw_curves(folder / METRICS, folder / CURVES)
            pictures.append(folder / CURVES)
        if monitor is not None and "forward" in monitor.traces:
            draw_convergence(monitor.traces["forward"], monitor.traces.get("backward"), folder / CONVERGENCE)
            pictures.append(folder / CONVERGENCE)
        log_pictures(trainer.loggers, pictures, step=trainer.global_step)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_tables(logger, pl_module.scores or {})

    def _result(self, trainer: pl.Trainer, module: DetectionModule, solver: Mapping[str, float]) -> RunResult:
        scores = module.scores or {"summary": None, "per_class": None}
        costs = _costs(trainer, module)
        best = next((c.best_score for c in trainer.callbacks if isinstance(c, BestCheckpoint)), None)  # type: ignore[attr-defined]
        return RunResult(
            complete=module.complete,
            stopped=module.stopped_early,
            seed=module.seed,
            steps=trainer.global_step,
            batch=module.plan.batch,
            world_size=trainer.world_size,
            summary=scores["summary"],
            per_class=scores["per_class"],
            best_AP=best,
            solver={**solver, **costs.pop("solver")},
            **costs,
            parameters=sum(p.numel() for p in module.detector.parameters()),
            seconds_per_step=statistics.median(self.step_seconds) if self.step_seconds else None,
            choices=module.metadata["choices"],
            config=module.metadata["config"],
        )


def _costs(trainer: pl.Trainer, module: DetectionModule) -> dict[str, Any]:
    """What the final weights compute for one image, and how deep their equilibrium is there."""
    neck, probe = equilibrium_neck(module), RadiusProbe()
    if neck is not None:
        probe.arm(neck)
    image = _image(trainer.datamodule).to(module.device)  # type: ignore[attr-defined]
    counted = multiply_adds(module.detector, image)
    radius = None if neck is None else probe.read(trainer, neck, PRODUCTS)
    return {"multiply_adds": counted, "solver": {} if radius is None else radius_metrics(radius)}


def _image(data: DetectionData) -> Tensor:
    """A typical image: of the validation set, or of the training set where there is none."""
    image, _ = (data.val_dataset if data.has_validation else data.train_dataset)[0]
    return image

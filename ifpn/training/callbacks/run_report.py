"""The run folder tells its own story: result.json, samples.png, curves.png, convergence.png."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from ifpn.plots.convergence import draw_convergence
from ifpn.plots.curves import draw_curves
from ifpn.plots.samples import draw_samples
from ifpn.runs.folder import CONVERGENCE, CURVES, METRICS, RESULT, SAMPLES
from ifpn.runs.result import RunResult
from ifpn.training.callbacks.checkpoints import BestCheckpoint
from ifpn.training.callbacks.solver_monitor import SolverMonitor
from ifpn.training.loggers import log_media
from ifpn.training.module import DetectionModule


class RunReport(Callback):
    """Written by the first rank when training ends.

    samples: how many validation images are drawn, spread evenly over the set. score_threshold: of the boxes drawn.
    """

    def __init__(self, samples: int, score_threshold: float) -> None:
        self.samples = samples
        self.score_threshold = score_threshold
        self.step_seconds: list[float] = []
        self._last_end: float | None = None

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

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(pl_module, DetectionModule):
            return
        folder = Path(trainer.default_root_dir)
        monitor = next((c for c in trainer.callbacks if isinstance(c, SolverMonitor)), None)  # type: ignore[attr-defined]
        result = self._result(trainer, pl_module, monitor.summary if monitor else {})
        result.write(folder / RESULT, pl_module.device)
        pictures = [self._draw_samples(trainer, pl_module, folder / SAMPLES)]
        for logger in trainer.loggers:
            logger.save()
        if (folder / METRICS).is_file():
            draw_curves(folder / METRICS, folder / CURVES)
            pictures.append(folder / CURVES)
        if monitor is not None and "forward" in monitor.traces:
            draw_convergence(monitor.traces["forward"], monitor.traces.get("backward"), folder / CONVERGENCE)
            pictures.append(folder / CONVERGENCE)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, pictures, pl_module.scores or {})

    def _result(self, trainer: pl.Trainer, module: DetectionModule, solver: Mapping[str, float]) -> RunResult:
        scores = module.scores or {"summary": None, "per_class": None}
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
            solver=dict(solver),
            parameters=sum(p.numel() for p in module.detector.parameters()),
            seconds_per_step=statistics.median(self.step_seconds) if self.step_seconds else None,
            choices=module.metadata["choices"],
            config=module.metadata["config"],
        )

    def _draw_samples(self, trainer: pl.Trainer, module: DetectionModule, path: Path) -> Path:
        dataset = trainer.datamodule.val_dataset  # type: ignore[attr-defined]
        count = min(self.samples, len(dataset))
        items = [dataset[i * len(dataset) // count] for i in range(count)]
        images = [image for image, _ in items]
        was_training = module.detector.training
        module.detector.eval()
        with torch.no_grad():
            detections = [
                {k: v.cpu() for k, v in module.detector([image.to(module.device).float() / 255])[0].items()}
                for image in images
            ]
        module.detector.train(was_training)
        truths = [target for _, target in items]
        draw_samples(
            images, truths, detections, module.metadata["class_names"], path, score_threshold=self.score_threshold
        )
        return path

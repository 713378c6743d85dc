"""Ends a run whose validation has stopped getting better."""

from __future__ import annotations

from typing import Annotated, Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ifpn.bounds import Count, OneOf, Rate, check
from ifpn.evaluation.result import NOT_MEASURABLE, SUMMARY_NAMES
from ifpn.training.module import DetectionModule

Monitor = Annotated[str, OneOf(*(f"val/{name}" for name in SUMMARY_NAMES))]


@check
class EarlyStopping(Callback):
    """Stops after `patience` validations in a row without a gain; the run counts as complete.

    Unlike Lightning's it knows, when a run is resumed, that it had stopped already, and that COCO's -1 is no score.

    Args:
        monitor: `val/` and the name of a COCO number.
        patience: validations without a gain until the end.
        min_gain: smallest increase over the best value so far that counts, in units of the score (0..1).
    """

    def __init__(self, monitor: Monitor, patience: Count, min_gain: Rate) -> None:
        self.monitor, self.patience, self.min_gain = monitor, patience, min_gain
        self.best: float | None = None
        self.waited = 0

    def state_dict(self) -> dict[str, Any]:
        """The best score, and how many validations have passed since."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.best, self.waited = state_dict["best"], int(state_dict["waited"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Killed after the last validation, before the report: there is nothing to train."""
        self._stop_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare with the best. Every rank has the same number, computed from the same detections."""
        score = float(trainer.callback_metrics[self.monitor])
        if score == NOT_MEASURABLE:
            return
        better = self.best is None or score > self.best + self.min_gain
        self.best, self.waited = (score, 0) if better else (self.best, self.waited + 1)
        self._stop_if_due(trainer, pl_module)

    def _stop_if_due(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.waited < self.patience:
            return
        trainer.should_stop = True
        cast(
            DetectionModule, module
        ).stopped_early = f"early stopping: {self.monitor} has not risen above {self.best} in {self.waited} validations"

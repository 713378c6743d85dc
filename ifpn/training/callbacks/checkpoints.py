"""The files that a run keeps current: last.ckpt, best.ckpt by a validation number, and one every n steps if asked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from ifpn.bounds import Count, check
from ifpn.errors import UserError
from ifpn.evaluation.result import NOT_MEASURABLE, SUMMARY_NAMES
from ifpn.runs.folder import BEST, LAST
from ifpn.training.loops import StepCheckpoint


@check
class LastCheckpoint(StepCheckpoint):
    """`<dirpath>/last.ckpt`: what a killed run resumes from.

    Written every `every_n_steps` optimiser steps, before and after each validation, and at the end.
    """

    def __init__(self, dirpath: str, every_n_steps: Count) -> None:
        self.path = Path(dirpath) / LAST
        self.every_n_steps = every_n_steps
        self._validated = False
        self._saved_at = -1

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validated = True

    def before_validation(self, trainer: pl.Trainer) -> None:
        """A long validation does not stand between the last step and the disk."""
        self._save(trainer)

    def on_step_boundary(self, trainer: pl.Trainer) -> None:
        if self._validated or trainer.global_step % self.every_n_steps == 0:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0 and trainer.global_step != self._saved_at:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._validated = False
        self._saved_at = trainer.global_step
        trainer.save_checkpoint(self.path)
        if trainer.is_global_zero:
            # Written by Lightning before SLURM's requeue; this file is newer.
            for old in self.path.parent.glob("hpc_ckpt_*.ckpt"):
                old.unlink(missing_ok=True)


class BestCheckpoint(StepCheckpoint):
    """`<dirpath>/best.ckpt`: the weights with the highest `monitor` so far, the earliest of equals.

    Where nothing can be measured, because there is no validation set or it has no boxes, the newest weights.
    """

    def __init__(self, dirpath: str, monitor: str) -> None:
        known = [f"val/{name}" for name in SUMMARY_NAMES]
        if monitor not in known:
            raise UserError(f"monitor={monitor}: must be one of {', '.join(known)}.")
        self.path = Path(dirpath) / BEST
        self.monitor = monitor
        self.best_score: float | None = None
        self._new_score: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score = state_dict["best_score"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.strategy.broadcast(self.path.is_file()):
            # Started from a checkpoint of another run, whose best.ckpt stayed where it was.
            self.best_score = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Every rank has the same number, computed from the same detections.
        self._new_score = float(trainer.callback_metrics[self.monitor])

    def on_step_boundary(self, trainer: pl.Trainer) -> None:
        score, self._new_score = self._new_score, None
        if score is None or math.isnan(score):
            return
        if score == NOT_MEASURABLE:  # no boxes to find: the newest weights are the best there are
            trainer.save_checkpoint(self.path)
        elif self.best_score is None or score > self.best_score:
            self.best_score = score
            trainer.save_checkpoint(self.path)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0 and not sum(trainer.num_val_batches):
            trainer.save_checkpoint(self.path)


@check
class PeriodicCheckpoint(StepCheckpoint):
    """`<dirpath>/step_<step>.ckpt` every `every_n_steps` optimiser steps, all of them kept; None: never."""

    def __init__(self, dirpath: str, every_n_steps: Count | None) -> None:
        self.folder = Path(dirpath)
        self.every_n_steps = every_n_steps

    @property
    def state_key(self) -> str:
        return type(self).__qualname__

    def on_step_boundary(self, trainer: pl.Trainer) -> None:
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            trainer.save_checkpoint(self.folder / f"step_{trainer.global_step:08d}.ckpt")

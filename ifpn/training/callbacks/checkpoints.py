"""Two files that a run keeps current: best.ckpt by a validation number, last.ckpt every so many steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """`<dirpath>/best.ckpt`: the weights with the highest `monitor` so far."""

    def __init__(self, dirpath: str, monitor: str) -> None:
        super().__init__(
            dirpath=dirpath, filename="best", monitor=monitor, mode="max", save_top_k=1, enable_version_counter=False
        )


class LastCheckpoint(Callback):
    """`<dirpath>/last.ckpt`, every `every_n_steps` optimiser steps and at the end: what a killed run resumes from."""

    def __init__(self, dirpath: str, every_n_steps: int) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_steps = every_n_steps
        self._saved_at = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        # global_step stands still while gradients accumulate; saving there would split an optimiser step in two.
        if step > 0 and step % self.every_n_steps == 0 and step != self._saved_at:
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step > 0:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self._saved_at = trainer.global_step
        trainer.save_checkpoint(self.path)

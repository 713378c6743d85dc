"""Progress of the whole run on the terminal: a live bar, or a line now and then where the output is a file."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Annotated, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from ifpn.bounds import Gt, Le, check
from ifpn.evaluation.result import NOT_MEASURABLE


@check
class Progress(ProgressBar):
    """Loss, AP, the solver's residual, seconds per step and time left, over all steps of the run.

    refresh_seconds: between two lines where the output is not a terminal.
    """

    def __init__(self, refresh_seconds: Annotated[float, Gt(0), Le(1e6)]) -> None:
        super().__init__()
        self.refresh_seconds = refresh_seconds
        self.console = Console(highlight=False)
        self._bar: RichProgress | None = None
        self._task = TaskID(0)
        self._validation: TaskID | None = None
        self._started = self._said = 0.0
        self._first_step = 0
        self._enabled = True

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self._enabled = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started = self._said = time.monotonic()
        self._first_step = trainer.global_step
        if self._enabled and self.console.is_terminal:
            self._bar = RichProgress(
                TextColumn("{task.fields[unit]} {task.completed}/{task.total}"),
                BarColumn(bar_width=30),
                TextColumn("{task.description}"),
                TimeRemainingColumn(compact=True),
                TextColumn("left"),
                console=self.console,
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=_total_steps(trainer), completed=trainer.global_step, unit="step")

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.update(self._task, completed=trainer.global_step, description=self._numbers(trainer))
        elif time.monotonic() - self._said >= self.refresh_seconds:
            self._said = time.monotonic()
            self._line(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not self._enabled or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        total = int(sum(trainer.num_val_batches))
        if self._bar is not None:
            if self._validation is None:
                self._validation = self._bar.add_task("", total=total, unit="validating batch")
            self._bar.update(self._validation, completed=batch_idx + 1)
        elif time.monotonic() - self._said >= self.refresh_seconds:
            self._said = time.monotonic()
            self.console.print(f"validating batch {batch_idx + 1}/{total}")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._bar is not None and self._validation is not None:
            self._bar.remove_task(self._validation)
            self._validation = None
        if self._enabled and not trainer.sanity_checking and trainer.state.fn == "fit":
            self._line(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, trainer: pl.Trainer) -> None:
        steps = trainer.global_step - self._first_step
        left = (time.monotonic() - self._started) / max(steps, 1) * (_total_steps(trainer) - trainer.global_step)
        clock = str(timedelta(seconds=round(max(left, 0.0))))
        self.console.print(
            f"step {trainer.global_step}/{_total_steps(trainer)}  {self._numbers(trainer)}  {clock} left",
            soft_wrap=True,
        )

    def _numbers(self, trainer: pl.Trainer) -> str:
        """Read from what is already on the host side; the loss is the only number fetched from the device."""
        metrics = trainer.callback_metrics
        parts = []
        if "train/loss" in metrics:
            parts.append(f"loss {float(metrics['train/loss']):.3f}")
        if float(metrics.get("val/AP", 0)) == NOT_MEASURABLE:
            parts.append("AP not measurable (no boxes)")
        elif "val/AP" in metrics:
            parts.append(f"AP {float(metrics['val/AP']):.3f}  AP50 {float(metrics['val/AP50']):.3f}")
        if "solver/forward_residual" in metrics:
            parts.append(f"residual {float(metrics['solver/forward_residual']):.1e}")
        steps = trainer.global_step - self._first_step
        if steps > 0:
            parts.append(f"{(time.monotonic() - self._started) / steps:.2f} s/step")
        return "  ".join(parts)


def _total_steps(trainer: pl.Trainer) -> int:
    return int(trainer.estimated_stepping_batches)

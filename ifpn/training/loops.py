"""Lightning's two training loops with one addition: a well-defined moment between two optimiser steps.

Lightning writes checkpoints inside hooks, with its counters half advanced, and guesses on resume what had still to
be done; a validation that was due may be lost or repeated. Here every checkpoint is written between two steps, when
the validation of the last one is over, and the counters are derived on resume from the number of batches done.
"""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.progress import _ProcessedTracker
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop

from ifpn.training.module import DetectionModule


class StepCheckpoint(Checkpoint):
    """A callback that is asked between any two optimiser steps whether it has something to save."""

    def before_validation(self, trainer: pl.Trainer) -> None:
        """Step `trainer.global_step - 1` is over on every rank, and its validation is about to begin."""

    def on_step_boundary(self, trainer: pl.Trainer) -> None:
        """Step `trainer.global_step - 1` and its validation, if one was due, are over on every rank."""


class EpochLoop(_TrainingEpochLoop):
    """One epoch, with the moment between two steps."""

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        # `FitLoop.reset` has put the counters where they belong: nothing is left over from before the interruption.
        self.restarting = False
        self._batches_that_stepped = self.global_step

    def on_advance_end(self, data_fetcher: Any) -> None:
        between_steps = not self._should_accumulate()
        if between_steps and self._should_check_val_fx(data_fetcher):
            cast(DetectionModule, self.trainer.lightning_module).validation_due = True
            for callback in _step_checkpoints(self.trainer):
                callback.before_validation(self.trainer)
        super().on_advance_end(data_fetcher)
        if between_steps:
            self.on_step_boundary()

    def on_step_boundary(self) -> None:
        """Checkpoints are written, and requests to stop obeyed, here and nowhere else but before a validation."""
        module = cast(DetectionModule, self.trainer.lightning_module)
        module.validation_due = False
        for callback in _step_checkpoints(self.trainer):
            callback.on_step_boundary(self.trainer)
        if self.global_step < self.max_steps:  # a run that is over ends by itself
            module.stop.act(self.trainer)

    def _broadcast_sigterm_tensor(self) -> None:
        """Not needed: the ranks agree on a stop together with the loss (`DetectionModule.training_step`)."""


class FitLoop(_FitLoop):
    """All epochs."""

    _last_epoch = 0  # of the last batch before the run was killed

    def reset(self) -> None:
        if self.restarting:
            self._settle()
        super().reset()

    @property
    def skip(self) -> bool:
        """False also for a run that had only its report left to write: Lightning would end without a word."""
        return bool(self.max_batches == 0 or self.trainer.limit_train_batches == 0)

    def on_run_start(self) -> None:
        """Run the validation first in which the run was killed."""
        super().on_run_start()
        if cast(DetectionModule, self.trainer.lightning_module).validation_due:
            self._validate_last_step()

    def _validate_last_step(self) -> None:
        """As `_TrainingEpochLoop.on_advance_end` does, with the numbers of epoch and step of then in the metrics."""
        trainer, loop = self.trainer, self.epoch_loop
        epochs = cast(_ProcessedTracker, self.epoch_progress.current)
        completed, epochs.completed = epochs.completed, self._last_epoch  # what metrics are logged with
        loop._batches_that_stepped = loop.global_step - 1
        loop.val_loop.restarting = False
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = None
        epochs.completed = completed
        loop._batches_that_stepped = loop.global_step
        cast(EpochLoop, loop).on_step_boundary()

    def _settle(self) -> None:
        """Counters as they are before the first batch that has not been done, whenever the checkpoint was written."""
        module = cast(DetectionModule, self.trainer.lightning_module)
        batches = module.batches_seen
        epoch, done = divmod(batches, int(self.max_batches))
        self._last_epoch = (batches - 1) // int(self.max_batches)
        for epochs in (self.epoch_progress.total, self.epoch_progress.current):
            _set(epochs, started=epoch + 1, finished=epoch)
        progress = self.epoch_loop.batch_progress
        _set(progress.total, started=batches, finished=batches)
        _set(progress.current, started=done, finished=done)
        progress.is_last_batch = False
        self.epoch_loop.val_loop.batch_progress.reset()


def _step_checkpoints(trainer: pl.Trainer) -> list[StepCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, StepCheckpoint)]  # type: ignore[attr-defined]


def _set(tracker: Any, *, started: int, finished: int) -> None:
    tracker = cast(_ProcessedTracker, tracker)
    tracker.ready = tracker.started = started
    tracker.processed = tracker.completed = finished


def install_loops(trainer: pl.Trainer, max_steps: int) -> None:
    """Give `trainer` the loops above, for `max_steps` optimiser steps."""
    old = trainer.fit_loop
    loop = FitLoop(trainer, min_epochs=old.min_epochs, max_epochs=old.max_epochs)
    loop.epoch_loop = EpochLoop(trainer, max_steps=max_steps)
    trainer.fit_loop = loop

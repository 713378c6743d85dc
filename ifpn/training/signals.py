"""SIGTERM, Ctrl-C and SLURM's requeue signal: noted at once, obeyed by all ranks together between two steps."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.utilities.exceptions import SIGTERMException

from ifpn.runs.folder import LAST

NOTHING, STOP, REQUEUE = 0, 1, 2


class StopRequest:
    """Whether this process was told to stop, and what all ranks agreed on.

    Lightning acts inside the signal handler: it starts a collective there, and for SLURM saves a checkpoint there,
    in the middle of whatever the step was doing. Here the handler takes a note only. `requested` goes into the number
    that the ranks exchange in each step anyway, `agreed` is what came back, and `act` obeys it between two steps.
    """

    def __init__(self) -> None:
        self.requested = NOTHING
        self.agreed = NOTHING
        self._requeue_signal: signal.Signals | None = None
        # What a shell reports for a process ended by a signal: the run is not finished.
        self._exit_status = 128 + signal.SIGTERM
        self._process = os.getpid()

    def install(self, trainer: pl.Trainer) -> None:
        """Replace Lightning's handlers for the time of the fit; Lightning restores the original ones after it."""
        if threading.current_thread() is not threading.main_thread():
            return
        if trainer.received_sigterm:  # came between Lightning's handler and ours
            self.requested = STOP
            trainer._signal_connector.received_sigterm = False
        self._process = os.getpid()
        signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)
        environment = trainer._accelerator_connector.cluster_environment
        if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
            self._requeue_signal = environment.requeue_signal or signal.SIGUSR1
            signal.signal(self._requeue_signal, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker, forked from us: it goes when we go
            return
        self.requested = max(self.requested, REQUEUE if number == self._requeue_signal else STOP)
        if number == signal.SIGINT:
            self._exit_status = 128 + signal.SIGINT
            print("stopping after this step (Ctrl-C again: at once, without a checkpoint)", file=sys.stderr)
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def act(self, trainer: pl.Trainer) -> None:
        """If a stop was agreed: write last.ckpt, requeue where SLURM asked for it, and leave.

        Raises:
            SIGTERMException: Lightning's way out; exit status 143 (130 after Ctrl-C) on the first rank. The others
                leave with 0, or Lightning's observer of its child processes would kill the first one before it has
                cleaned up.
        """
        if self.agreed == NOTHING:
            return
        path = Path(trainer.default_root_dir) / LAST
        trainer.save_checkpoint(path)
        if self.agreed == REQUEUE and self._requeue_signal is not None:
            trainer._signal_connector._slurm_sigusr_handler_fn(self._requeue_signal, None)  # type: ignore[arg-type]
        if trainer.is_global_zero:
            print(
                f"stopped by a signal after step {trainer.global_step}; continue with ckpt=last run_dir={path.parent}",
                file=sys.stderr,
            )
        raise SIGTERMException(self._exit_status if trainer.is_global_zero else 0)

"""Several processes: DistributedDataParallel with a deadline, and SLURM."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from typing import Annotated

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies import DDPStrategy

from ifpn.bounds import Gt, Le, check
from ifpn.errors import UserError


@check
def ddp(
    timeout_seconds: Annotated[float, Gt(0), Le(1e6)], gradient_as_bucket_view: bool, static_graph: bool
) -> DDPStrategy:
    """Lightning's strategy of one process per device, each with a part of the batch.

    Every parameter of our detectors has a gradient in every step, whatever the images hold, so unused parameters are
    not searched for. timeout_seconds: how long a rank waits for the others before it ends the job with an error.
    """
    return DDPStrategy(
        timeout=timedelta(seconds=timeout_seconds),
        find_unused_parameters=False,
        gradient_as_bucket_view=gradient_as_bucket_view,
        static_graph=static_graph,
    )


def slurm(auto_requeue: bool, requeue_signal: str) -> SLURMEnvironment:
    """Lightning's plugin for SLURM. requeue_signal: e.g. SIGUSR1, which `sbatch --signal` sends before the limit."""
    allowed = [s.name for s in signal.Signals]
    if "SLURM_PROCID" not in os.environ:
        raise UserError(
            "trainer=slurm is for processes that srun has started, and SLURM_PROCID is not set: "
            "submit scripts/slurm.sh with sbatch, or use trainer=ddp or trainer=auto here."
        )
    if requeue_signal not in allowed:
        raise UserError(f"requeue_signal={requeue_signal}: must be one of {', '.join(allowed)}.")
    return SLURMEnvironment(auto_requeue=auto_requeue, requeue_signal=signal.Signals[requeue_signal])

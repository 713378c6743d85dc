"""Evaluation's first state, fitted to training images before every validation and at the end."""

from __future__ import annotations

import logging
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn

from ifpn.data import DetectionData
from ifpn.training.module import DetectionModule
from ifpn.training.solver_state import equilibrium_neck

log = logging.getLogger(__name__)


class FitStart(Callback):
    """Fits `EquilibriumNeck.fitted_start` on `solver.fit_start` training images, where that is not 0.

    Before every validation, so that what is validated and saved is what will be used; without validation, after the
    last step. Every rank does the same. It changes nothing in the training, which forgets it with its next step.
    """

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Not earlier: by now the weights are those that are validated (`WeightAverage`).
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._fit(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if cast(DetectionModule, pl_module).complete and not sum(trainer.num_val_batches):
            self._fit(trainer, pl_module)

    @torch.no_grad()
    def _fit(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        neck, data = equilibrium_neck(pl_module), trainer.datamodule  # type: ignore[attr-defined]
        count = getattr(getattr(neck, "solver", None), "fit_start", 0)
        if neck is None or count == 0 or not isinstance(data, DetectionData):
            return
        detector = cast(DetectionModule, pl_module).detector
        training = detector.training
        detector.eval()
        with trainer.precision_plugin.forward_context(), neck.fitting_start() as fit:
            for image in data.plain_training_images(count):
                detector([image.to(pl_module.device).float().div_(255)])
        detector.train(training)
        log.log(logging.INFO if neck.fitted_start.is_fitted else logging.WARNING, "%s", neck.fitted_start.told(fit))
        if neck.fitted_start.residual is not None:
            pl_module.log("solver/start_residual", neck.fitted_start.residual.float(), rank_zero_only=True)

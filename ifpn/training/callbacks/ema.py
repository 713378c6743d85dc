"""A moving average of the weights, which is what gets evaluated and saved."""

from __future__ import annotations

from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from ifpn.bounds import Rate, check
from ifpn.training.module import DetectionModule


@check
class WeightAverage(Callback):
    """average = decay * average + (1 - decay) * weights, after every optimiser step that was not skipped.

    Validation runs with the average. Checkpoints hold it as their weights, so that evaluation, prediction and export
    use it, and the weights of the training beside it (`training_weights`), so that a resume is exact. Buffers are
    not averaged: the running statistics of the training go with it.

    decay: from 0 (no memory) up to, not including, 1. Early in the run it is at most (1 + steps) / (10 + steps), so
        that the random start is forgotten.
    """

    def __init__(self, decay: Rate) -> None:
        self.decay = decay
        self._average: dict[str, Tensor] = {}
        self._swapped = False
        self._updated_at = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._average:
            self._average = {name: p.detach().clone() for name, p in _trained(pl_module)}
        # Loaded on the CPU, before the weights went to their device.
        self._average = {name: value.to(pl_module.device) for name, value in self._average.items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Not earlier: the number of steps is restored after `on_fit_start`."""
        self._updated_at = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        guard = cast(DetectionModule, pl_module).guard
        if step == self._updated_at:
            return
        self._updated_at = step  # a skipped step is over, too: the next batch may not step, and must not count for it
        if guard is not None and guard.skipping:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(_trained(pl_module))
        torch._foreach_lerp_(
            list(self._average.values()), [parameters[name].detach() for name in self._average], 1 - decay
        )

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module, to_average=True)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._swap(pl_module, to_average=False)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._swap(pl_module, to_average=False)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What is drawn at the end is the average, too; a checkpoint that is still to be written swaps back."""
        self._swap(pl_module, to_average=True)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._swap(pl_module, to_average=False)
        state = checkpoint["state_dict"]
        checkpoint["training_weights"] = {name: state[name].clone() for name in self._average}
        checkpoint["state_dict"] = {**state, **{name: value.clone() for name, value in self._average.items()}}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        weights = checkpoint.get("training_weights")
        if weights is None:  # a run without an average goes on with one, which begins here
            return
        self._average = {name: checkpoint["state_dict"][name].clone() for name in weights}
        pl_module.load_state_dict(weights, strict=False)

    @torch.no_grad()
    def _swap(self, module: pl.LightningModule, *, to_average: bool) -> None:
        if self._swapped == to_average or not self._average:
            return
        self._swapped = to_average
        for name, parameter in _trained(module):
            held = parameter.detach().clone()
            parameter.copy_(self._average[name])
            self._average[name].copy_(held)


def _trained(module: pl.LightningModule) -> list[tuple[str, torch.nn.Parameter]]:
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]

"""The LightningModule: a detector, its losses, its optimiser, and the 12 COCO numbers after each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn

from ifpn.evaluation import CocoEvaluator, CocoResult
from ifpn.training.loggers import rows_on_disk
from ifpn.training.randomness import seed_step
from ifpn.training.recipe import Plan, Recipe
from ifpn.training.signals import StopRequest
from ifpn.training.solver_state import SolverSchedule

if TYPE_CHECKING:
    from ifpn.training.callbacks.nonfinite import NonFinite

Target = dict[str, Any]
Batch = tuple[Sequence[Tensor], Sequence[Target]]


class DetectionModule(pl.LightningModule):
    """Trains any detector that keeps torchvision's contract.

    detector: images (3, H, W) in 0..1 and targets in, a dict of losses (training) or a list of detections out.
    recipe, plan: optimiser and learning rate. evaluator: scores the detections on the validation set.
    metadata: plain values (configuration, class names, category ids) stored in every checkpoint, enough to rebuild it.

    `batches_seen`: batches this rank has trained on. `scores`: `summary` and `per_class` of the last validation.
    `guard`: the callback that looks for losses that are not finite, if there is one. `stopped_early`: why the run
    ended before its last step. `validation_due`: step `global_step` is done, and its validation is not.
    """

    def __init__(
        self,
        detector: nn.Module,
        recipe: Recipe,
        plan: Plan,
        evaluator: CocoEvaluator,
        metadata: dict[str, Any],
        seed: int,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.recipe = recipe
        self.plan = plan
        self.evaluator = evaluator
        self.metadata = metadata
        self.seed = seed
        self.guard: NonFinite | None = None
        self.stop = StopRequest()
        self.solver_schedule = SolverSchedule(detector)
        self.batches_seen = 0
        self.validation_due = False
        self._common_val_batches = 0
        self.stopped_early: str | None = None
        self.result: CocoResult | None = None
        self.scores: dict[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether the training has reached its end."""
        return self.global_step >= self.plan.max_steps or self.stopped_early is not None

    def on_train_start(self) -> None:
        self.stop.install(self.trainer)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Images travel as uint8, a quarter of the bytes, and become numbers in 0..1 on the device."""
        images, targets = batch
        return [image.float().div_(255) for image in images], targets

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_step(self.seed, self.batches_seen, self.global_rank)
        self.batches_seen += 1
        self.solver_schedule.before_batch(self.global_step, self.plan.max_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        losses: dict[str, Tensor] = self.detector(images, targets)
        loss = torch.stack(list(losses.values())).sum()
        self.log("train/loss", loss, prog_bar=True, batch_size=len(images))
        self.log_dict({f"train/{name}": value for name, value in losses.items()}, batch_size=len(images))
        bad = self._reduce_flags(not bool(torch.isfinite(loss)))
        if self.guard is not None and self.guard.check(self, bad, losses, [int(t["image_id"]) for t in targets]):
            # A gradient of zero for every parameter: the ranks' exchange of gradients goes its usual way.
            loss = torch.stack([p.sum() for p in self.parameters() if p.requires_grad]).sum() * 0.0
        return loss

    def _reduce_flags(self, bad: bool) -> bool:
        """One exchange per step for two questions: is some rank's loss not finite, was some rank told to stop?"""
        answers = [int(bad), self.stop.requested]
        if self.trainer.world_size > 1:
            shared = torch.tensor(answers, device=self.device)
            dist.all_reduce(shared, op=dist.ReduceOp.MAX)
            answers = shared.tolist()
        self.stop.agreed = answers[1]
        return bool(answers[0])

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.solver_schedule.after_batch(self.trainer)
        # However many steps were asked for, the weights at the end are evaluated: a requested stop validates first.
        if self.global_step >= self.plan.max_steps:
            self.trainer.should_stop = True

    def on_validation_batch_start(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """A requested stop need not wait for the end of a validation whose step is on disk already."""
        if self.validation_due and batch_idx < self._common_val_batches:
            self._reduce_flags(False)
            self.stop.act(self.trainer)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        self.evaluator.update([int(t["image_id"]) for t in targets], self.detector(images))

    def on_validation_epoch_end(self) -> None:
        self.evaluator.gather()
        self.result = self.evaluator.compute()
        self.scores = {"summary": dict(self.result.summary), "per_class": dict(self.result.per_class)}
        # Every rank computed the same numbers from the same detections.
        self.log_dict(
            {f"val/{name}": float(value) for name, value in self.result.summary.items()}, rank_zero_only=False
        )

    def on_validation_epoch_start(self) -> None:
        """Forget the last detections; agree on the number of batches that every rank has."""
        self.evaluator.reset()
        batches = torch.tensor(int(sum(self.trainer.num_val_batches)), device=self.device)
        if self.trainer.world_size > 1:
            dist.all_reduce(batches, op=dist.ReduceOp.MIN)
        self._common_val_batches = int(batches)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer, schedule = self.recipe.build(self.detector, self.plan)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ifpn"] = {
            **self.metadata,
            "batches_seen": self.batches_seen,
            "world_size": self.trainer.world_size,
            "metrics_rows": rows_on_disk(self.trainer.loggers),
            "scores": self.scores,
            "validation_due": self.validation_due,
            "solver": self.solver_schedule.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        metadata = checkpoint["ifpn"]
        self.scores = metadata.get("scores")
        self.validation_due = bool(metadata.get("validation_due", False))
        self.solver_schedule.load_state_dict(metadata.get("solver") or {})
        # With another number of processes the same images have been seen in another number of batches.
        world_size = int(metadata.get("world_size", self.trainer.world_size))
        self.batches_seen = int(metadata["batches_seen"]) * world_size // self.trainer.world_size

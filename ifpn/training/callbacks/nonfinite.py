"""A loss or a gradient that is not finite: all ranks stop, or all skip the step, and leave evidence."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from ifpn.bounds import Ge, Le, check
from ifpn.errors import UserError
from ifpn.runs.files import WriteError, write_json
from ifpn.runs.folder import EVIDENCE
from ifpn.training.callbacks.solver_monitor import solver_metrics, solver_stats
from ifpn.training.module import DetectionModule

log = logging.getLogger(__name__)


class NonFiniteError(UserError):
    """Training met a loss or a gradient that is not finite and was told not to go on."""


@check
class NonFinite(Callback):
    """Checks the loss before the backward pass and the gradient after it.

    policy: `raise` ends the run. `skip` leaves out the optimiser step: weights, the optimiser's state and buffers
        (running statistics) stay as they were; the learning rate moves on, and the batch is not repeated.
    max_skipped: so many steps of a run may be skipped; the next one ends it.
    dirpath: where the evidence is written, `step_<step>_rank_<rank>.json`: image ids, losses, the solver's state.

    In fp16 a gradient that overflows is the loss scaler's business and is not looked at here.
    """

    def __init__(
        self, policy: Literal["raise", "skip"], max_skipped: Annotated[int, Ge(0), Le(10**9)], dirpath: str
    ) -> None:
        self.policy = policy
        self.max_skipped = max_skipped
        self.folder = Path(dirpath) / EVIDENCE
        self.skipped = 0
        self.skipping = False  # this optimiser step is left out
        self._buffers: list[tuple[Tensor, Tensor]] = []
        self._evidence: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = int(state_dict["skipped"])

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The module asks before each backward pass (`check`)."""
        cast(DetectionModule, pl_module).guard = self

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self.skipping = False
            if self.policy == "skip":
                self._buffers = [(b, b.clone()) for b in changing_buffers(pl_module)]

    def check(self, module: pl.LightningModule, bad: bool, losses: Mapping[str, Tensor], image_ids: list[int]) -> bool:
        """Called by every rank in every step, before the backward pass.

        bad: what the ranks agreed on: some rank's loss is not finite. losses, image_ids: of this rank.

        Returns:
            Whether this step is to be skipped.

        Raises:
            NonFiniteError: on every rank, if the policy is `raise` or enough was skipped.
        """
        self._evidence = {"image_ids": image_ids, "losses": losses}
        if bad:
            self._act(module, "loss")
        return self.skipping

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        # The gradients are the ranks' average: every rank sees the same and decides the same.
        if not self.skipping and gradients and not scaled:
            norm = torch.nn.utils.get_total_norm(gradients)
            if not math.isfinite(float(norm)):
                self._act(pl_module, "gradient")
        if self.skipping:
            # An optimiser passes over parameters without a gradient: no decay, no momentum, no step count.
            for parameter in pl_module.parameters():
                parameter.grad = None
            for buffer, before in self._buffers:
                buffer.copy_(before)

    def _act(self, module: pl.LightningModule, what: str) -> None:
        if self.skipping:  # an earlier batch of the same optimiser step has decided it
            return
        evidence = self._write(module, what)
        # Whoever raises first ends the others: not before they have written theirs.
        module.trainer.strategy.barrier("evidence of a number that is not finite")
        step = module.global_step
        if self.policy == "raise":
            raise NonFiniteError(
                f"the {what} is not finite in step {step}: see {evidence}. Lower schedule.optimizer.lr, set "
                "schedule.gradient_clip, or skip a few such steps with callbacks.nonfinite.policy=skip; then "
                f"continue with ckpt=last run_dir={module.trainer.default_root_dir}."
            )
        if self.skipped >= self.max_skipped:
            raise NonFiniteError(
                f"the {what} is not finite in step {step}, and callbacks.nonfinite.max_skipped={self.max_skipped} "
                f"steps were skipped already: see {evidence}."
            )
        self.skipped += 1
        self.skipping = True

    def _write(self, module: pl.LightningModule, what: str) -> Path:
        stats = solver_stats(module)
        solver: dict[str, float] = {}
        if stats is not None:
            solver = solver_metrics("forward", stats.forward)
            if what == "gradient" and stats.backward is not None:
                solver |= solver_metrics("backward", stats.backward)
        losses = {name: float(value.detach()) for name, value in self._evidence["losses"].items()}
        content = {
            "what": what,
            "step": module.global_step,
            "rank": module.global_rank,
            "this_rank_finite": what == "loss" and all(map(math.isfinite, losses.values())),
            "image_ids": self._evidence["image_ids"],
            "losses": _as_json(losses),
            "solver": _as_json(solver),
            "learning_rate": [group["lr"] for group in module.trainer.optimizers[0].param_groups],
            "policy": self.policy,
            "skipped_before": self.skipped,
        }
        path = self.folder / f"step_{module.global_step:08d}_rank_{module.global_rank}.json"
        try:
            write_json(path, content)
        except WriteError as error:
            # Not a reason for this rank to do something else than the others.
            log.warning("%s It says: %s", error, json.dumps(content))
        return path


def changing_buffers(module: nn.Module) -> list[Tensor]:
    """Buffers that a forward pass may change: all but those of frozen batch norms."""
    return [
        buffer
        for part in module.modules()
        if not isinstance(part, FrozenBatchNorm2d)
        for buffer in part.buffers(recurse=False)
    ]


def _as_json(numbers: Mapping[str, float]) -> dict[str, float | str]:
    """JSON knows no NaN: such values become the words nan, inf, -inf."""
    return {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}

"""How long, how fast, and on how many images at a time: the paper's schedules (Sec. 4.2, 4.5) and a quick one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal, Protocol

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from ifpn.bounds import Count, Ge, Gt, Le, Length, Probability, check


class LearningRateCurve(Protocol):
    """Learning rate as a factor of the base rate, at a step (0-based) of a run of `max_steps` steps."""

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor, in 0..1."""
        ...

    def stretched(self, ratio: float) -> LearningRateCurve:
        """Return the curve over `ratio` times as many steps; a warm-up keeps its length in steps."""
        ...


def _warmup(step: int, steps: int, factor: float) -> float:
    """Linear from `factor` at step 0 to 1 at step `steps`."""
    if step >= steps:
        return 1.0
    done = step / steps
    return factor * (1.0 - done) + done


@check
@dataclass(frozen=True)
class MultiStep:
    """The paper's curve: linear warm-up, then times `gamma` at each milestone (Sec. 4.2)."""

    milestones: Annotated[Sequence[Count], Length(1)]
    gamma: Annotated[float, Gt(0), Le(1)]
    warmup_steps: Annotated[int, Ge(0), Le(10**9)]
    warmup_factor: Probability

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor, in 0..1."""
        passed = sum(step >= m for m in self.milestones)
        return float(_warmup(step, self.warmup_steps, self.warmup_factor) * self.gamma**passed)

    def stretched(self, ratio: float) -> MultiStep:
        """Move the milestones."""
        return replace(self, milestones=[max(1, round(m * ratio)) for m in self.milestones])


@check
@dataclass(frozen=True)
class Cosine:
    """Linear warm-up, then half a cosine from 1 down to `final_factor` at the last step."""

    warmup_steps: Annotated[int, Ge(0), Le(10**9)]
    warmup_factor: Probability
    final_factor: Probability

    def factor(self, step: int, max_steps: int) -> float:
        """Return the factor, in 0..1."""
        # A run shorter than the warm-up would never reach its rate: at most a fifth of it warms up.
        warmup = min(self.warmup_steps, max_steps // 5)
        if step < warmup:
            return _warmup(step, warmup, self.warmup_factor)
        done = min((step - warmup) / max(max_steps - warmup, 1), 1.0)
        return self.final_factor + (1.0 - self.final_factor) * 0.5 * (1.0 + math.cos(math.pi * done))

    def stretched(self, ratio: float) -> Cosine:
        """Return the curve itself, which knows only shares of the run."""
        return self


@dataclass(frozen=True)
class Plan:
    """A recipe applied to the machine at hand.

    lr: base learning rate. max_steps: optimiser steps in all. curve: learning-rate factors over those steps.
    batch: images per optimiser step, all devices together. summary: what was decided and why, for the terminal.
    """

    lr: float
    max_steps: int
    curve: LearningRateCurve
    batch: int
    summary: str


@check
@dataclass(frozen=True)
class Recipe:
    """Optimiser and schedule, written for `base_batch_size` images per step; `plan` adapts it to another batch.

    backbone_lr: the backbone's learning rate as a factor of all others'. Below 1 it keeps what pretrained weights know.
    """

    optimizer: partial[Optimizer]
    norm_weight_decay: Annotated[float, Ge(0), Le(1)]
    curve: LearningRateCurve
    max_steps: Count | None
    max_epochs: Annotated[int | None, Ge(1), Le(10**6)]
    base_batch_size: Annotated[int, Ge(1), Le(10**6)]
    scaling: Literal["linear", "none"]
    gradient_clip: Annotated[float | None, Gt(0), Le(1e9)]
    val_every: Count | None
    backbone_lr: Annotated[float, Gt(0), Le(1)]

    def plan(self, batch_size: int, world_size: int, accumulate: int, batches_per_epoch: int) -> Plan:
        """Apply the rule for other batch sizes.

        Args:
            batch_size: images per process and batch.
            world_size: processes.
            accumulate: batches per optimiser step.
            batches_per_epoch: per process.
        """
        batch = batch_size * world_size * accumulate
        ratio = batch / self.base_batch_size if self.scaling == "linear" else 1.0
        lr = float(self.optimizer.keywords["lr"])
        if self.max_steps is not None:
            steps, curve = max(1, round(self.max_steps / ratio)), self.curve.stretched(1.0 / ratio)
        else:
            assert self.max_epochs is not None
            steps, curve = math.ceil(batches_per_epoch / accumulate) * self.max_epochs, self.curve
        summary = (
            f"{batch} images per step "
            f"({batch_size} per device x {world_size} device(s) x {accumulate} accumulated), "
            f"{steps} steps, lr {lr * ratio:g}"
            + (f" (the backbone's times {self.backbone_lr:g})" if self.backbone_lr != 1.0 else "")
        )
        if ratio != 1.0:
            summary += (
                f"; linear rule: the schedule is written for {self.base_batch_size} images, "
                f"so lr {lr:g} -> {lr * ratio:g}"
                + (f" and {self.max_steps} -> {steps} steps" if self.max_steps is not None else "")
                + " (schedule.scaling=none keeps it as written)"
            )
        return Plan(lr * ratio, steps, curve, batch, summary)

    def build(self, model: nn.Module, plan: Plan) -> tuple[Optimizer, LambdaLR]:
        """The optimiser (no weight decay on normalisation layers, as the baselines) and its per-step schedule."""
        decayed, norms = split_parameters(model)
        slow = backbone_parameters(model) if self.backbone_lr != 1.0 else set()
        rate = plan.lr * self.backbone_lr
        no_decay = {"weight_decay": self.norm_weight_decay}
        groups: list[dict[str, object]] = [
            {"params": [p for p in decayed if p not in slow]},
            {"params": [p for p in norms if p not in slow], **no_decay},
            {"params": [p for p in decayed if p in slow], "lr": rate, "name": "backbone"},
            {"params": [p for p in norms if p in slow], "lr": rate, "name": "backbone norms", **no_decay},
        ]
        groups = [group for group in groups if group["params"]]
        optimizer = self.optimizer(groups, lr=plan.lr)
        factor: Callable[[int], float] = partial(plan.curve.factor, max_steps=plan.max_steps)
        return optimizer, LambdaLR(optimizer, factor)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable parameters, each once: (those with weight decay, those of normalisation layers)."""
    norm_ids = {
        id(p)
        for module in model.modules()
        if isinstance(module, _BatchNorm | nn.GroupNorm | nn.LayerNorm)
        for p in module.parameters(recurse=False)
    }
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trainable if id(p) not in norm_ids], [p for p in trainable if id(p) in norm_ids]


def backbone_parameters(model: nn.Module) -> set[nn.Parameter]:
    """The parameters of the backbones in `model`: modules with `levels` and `image_mean` (see `ifpn.backbones`)."""
    backbones = [m for m in model.modules() if hasattr(m, "levels") and hasattr(m, "image_mean")]
    return {p for backbone in backbones for p in backbone.parameters()}

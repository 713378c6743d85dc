"""Trainings of seconds: a tiny detector with all that makes a resume hard, in processes that can be killed.

The detector has dropout (random numbers), batch norm (buffers), a fixed point with an implicit gradient (a solver that
can go wrong), and losses that are nan on demand.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks import lives
from ifpn.necks import ImplicitFPN
from ifpn.solvers import Equilibrium, fixed_point
from tests.processes import PATIENCE

BATCHES = 5  # of an epoch
STEPS = 2 * BATCHES
TWO_RANKS = (
    "trainer=ddp",
    "trainer.devices=2",
    "trainer.accelerator=cpu",
    "data.batch_size=1",
    f"trainer.strategy.timeout_seconds={55 * PATIENCE}",
)
BASE = (
    "data.generate.num_train=10",
    "data.generate.num_val=4",
    "data.workers=0",
    "data.batch_size=2",
    "schedule.max_epochs=2",
    "callbacks.last.every_n_steps=2",
    "~callbacks.run_report",
    "~callbacks.pictures",
    "~callbacks.progress",
    "~callbacks.export",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
)


class Tiny(nn.Module):
    """torchvision's contract on 16 x 16 thumbnails; one box per image."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.mix = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, num_classes + 4)
        self.stats: Any = None

    def equilibrium(self, b: Tensor) -> Tensor:
        """(N, 8, H, W) of the same shape."""
        z, self.stats = fixed_point(lambda z: torch.tanh(self.mix(z) * 0.3 + b), torch.zeros_like(b))
        return z

    def forward(self, images: Sequence[Tensor], targets: Any = None) -> Any:
        x = torch.stack([F.interpolate(i[None], size=(16, 16), mode="bilinear")[0] for i in images])
        b = self.norm(self.conv(x))
        z = self.equilibrium(b)
        out = self.head(F.dropout(z.mean((2, 3)), 0.3, self.training))
        if self.training:
            first = torch.stack([t["labels"][0] for t in targets])
            return {"cls": F.cross_entropy(out[:, 4:], first), "box": out[:, :4].square().mean()}
        boxes = torch.tensor([[4.0, 4.0, 60.0, 60.0]])
        return [
            {"boxes": boxes + o[:4].sigmoid(), "scores": o[4:].softmax(0).max()[None], "labels": o[4:].argmax()[None]}
            for o in out
        ]


class TinyImplicit(Tiny):
    """The same with an implicit neck, whose solver is the configuration's."""

    def __init__(self, num_classes: int, solver: Equilibrium) -> None:
        super().__init__(num_classes)
        del self.mix  # a parameter without a gradient is an error with two ranks
        self.neck = ImplicitFPN([8, 8], 8, extra_levels="none", solver=solver, random_start=0.3)

    def equilibrium(self, b: Tensor) -> Tensor:
        """The finest level of the pyramid."""
        return self.neck({"c3": b, "c4": b[..., ::2, ::2]})["c3"]


def build_tiny(cfg: DictConfig, num_classes: int) -> Tiny:
    """`Tiny`, or `TinyImplicit` where a solver that changes while training is asked for."""
    solver = instantiate(cfg.solver)
    changes = isinstance(solver, Equilibrium) and (solver.warmup > 0 or solver.random_evals is not None)
    return TinyImplicit(num_classes, solver) if changes else Tiny(num_classes)


def configuration(data: Path, run_dir: Path, *overrides: str) -> DictConfig:
    return lives.compose_train([*BASE, f"data.root={data}", f"run_dir={run_dir}", *overrides])


class Call(Callback):
    """Calls `what(trainer, module)` at the start of the batch after `step` steps."""

    def __init__(self, step: int, what: Any, rank: int | None = None) -> None:
        self.step, self.what, self.rank = step, what, rank

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.what(trainer, pl_module)


def train_here(cfg: DictConfig, *extra: Callback) -> dict[str, float]:
    """`train` with the tiny detector and more callbacks, in this process."""
    return lives.train_here(cfg, *extra, build=build_tiny)


def train_in_processes(cfg: DictConfig, *extra: Callback, ranks: int = 1, timeout: float = 120) -> list[int]:
    """The same in `ranks` processes of their own; their exit codes, -9 for one that was killed."""
    return lives.train_in_processes(cfg, *extra, build=build_tiny, ranks=ranks, timeout=timeout * PATIENCE)


def break_loss(trainer: Any, module: Any) -> None:
    """The next forward pass meets a nan before the batch norm, whose running statistics take it in, and at its end."""
    for layer in (module.detector.conv, module.detector.head):
        _break(layer)


def _break(layer: nn.Module) -> None:
    def hook(_: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        handle.remove()
        return output * float("nan")

    handle = layer.register_forward_hook(hook)

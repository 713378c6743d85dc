"""Trainings of seconds: a tiny detector with all that makes a resume hard, in processes that can be killed.

The detector has dropout (random numbers), batch norm (buffers), a fixed point with an implicit gradient (a solver that
can go wrong), and losses that are nan on demand.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F

from ifpn.cli import train as run_module
from ifpn.config.build import build_list
from ifpn.config.paths import CONF
from ifpn.necks import ImplicitFPN
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.solvers import Equilibrium, fixed_point
from tests.processes import PATIENCE, in_processes, write_to

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
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*BASE, f"data.root={data}", f"run_dir={run_dir}", *overrides])
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(resolved, DictConfig)
    return resolved


class Kill(Callback):
    """SIGKILL to this process: `point` is a hook or "write" (in the middle of writing a checkpoint), at `step`."""

    def __init__(self, point: str, step: int) -> None:
        self.point, self.step = point, step

    def _here(self, point: str, trainer: pl.Trainer) -> None:
        if point == self.point and trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._here("start", trainer)

    def on_before_optimizer_step(self, trainer: pl.Trainer, *_: Any) -> None:
        self._here("gradient", trainer)

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._here("validation", trainer)

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._here("end", trainer)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.point != "write":
            return
        replace = os.replace

        def dying_replace(source: Any, target: Any) -> None:
            if str(target).endswith(".ckpt"):
                self._here("write", trainer)
            replace(source, target)

        os.replace = dying_replace


class Call(Callback):
    """Calls `what(trainer, module)` at the start of the batch after `step` steps."""

    def __init__(self, step: int, what: Any, rank: int | None = None) -> None:
        self.step, self.what, self.rank = step, what, rank

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.step and self.rank in (None, trainer.global_rank):
            self.what(trainer, pl_module)


def train_here(cfg: DictConfig, *extra: Callback) -> dict[str, float]:
    """`train` with the tiny detector and more callbacks, in this process."""

    def with_extra(group: Any, path: str) -> list[Any]:
        built = build_list(group, path)
        return [*extra, *built] if any(isinstance(b, Callback) for b in built) else built

    with mock.patch.object(run_module, "build_list", with_extra):
        return run_module.train(cfg, build=build_tiny)


def train_in_processes(cfg: DictConfig, *extra: Callback, ranks: int = 1, timeout: float = 120) -> list[int]:
    """The same in `ranks` processes of their own; their exit codes, -9 for one that was killed."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return in_processes(_child, ranks, cfg, extra, ranks, port, timeout=timeout)


def _child(rank: int, cfg: DictConfig, extra: Sequence[Callback], ranks: int, port: int) -> None:
    if ranks > 1:
        # What Lightning sets for the processes it starts.
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    log = Path(f"{cfg.run_dir}.rank{rank}.log")
    write_to(log, log)
    train_here(cfg, *extra)


def tensors_hash(path: Path) -> str:
    """SHA-256 over weights, buffers and optimiser state of a checkpoint."""
    content = read_checkpoint(path)
    digest = hashlib.sha256()
    for part in ("state_dict", "training_weights", "optimizer_states", "lr_schedulers"):
        _update(digest, content.get(part))
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(value.contiguous().numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _update(digest, value[key])
    elif isinstance(value, list | tuple):
        for item in value:
            _update(digest, item)
    else:
        digest.update(repr(value).encode())

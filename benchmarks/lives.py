"""Trainings in processes that can be killed at a chosen point, and what they leave behind. For trials and tests."""

# ruff: noqa: D102  # Lightning's hooks

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from ifpn.cli import train as run_module
from ifpn.config.build import build_detector, build_list
from ifpn.config.paths import CONF
from ifpn.runs.checkpoint import read_checkpoint

Build = Callable[[DictConfig, int], nn.Module]
FORK = multiprocessing.get_context("fork")  # a fresh interpreter would spend nine tenths of a life importing torch


def compose_train(overrides: Sequence[str]) -> DictConfig:
    """The resolved configuration of `train.py` with these overrides."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
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

        setattr(os, "replace", dying_replace)  # noqa: B010  # mypy knows the keywords of the original


class Spoil(Callback):
    """The losses of batch number `batch` of the run, from 1, are not finite."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_fit_start(self, _: pl.Trainer, module: Any) -> None:
        def spoil(detector: nn.Module, _: Any, losses: Any) -> Any:
            if detector.training and module.batches_seen == self.batch:
                return {name: value * torch.nan for name, value in losses.items()}
            return losses

        module.detector.register_forward_hook(spoil)


def train_here(cfg: DictConfig, *extra: Callback, build: Build = build_detector) -> dict[str, float]:
    """`ifpn.cli.train.train` with more callbacks, in this process."""

    def with_extra(group: Any, path: str) -> list[Any]:
        built = build_list(group, path)
        return [*extra, *built] if any(isinstance(b, Callback) for b in built) else built

    with mock.patch.object(run_module, "build_list", with_extra):
        return run_module.train(cfg, build=build)


def train_in_processes(
    cfg: DictConfig,
    *extra: Callback,
    build: Build = build_detector,
    ranks: int = 1,
    timeout: float = 120,
    command: Sequence[str] | None = None,
    cut_after: float | None = None,
) -> list[int]:
    """The same in processes of their own; their exit codes, -9 for one that was killed.

    Args:
        cfg: as `train_here`.
        *extra: as `train_here`.
        build: as `train_here`.
        ranks: so many processes.
        timeout: seconds after which the run counts as hanging.
        command: `sys.argv` with which Lightning starts the other ranks itself, `python -m` before it.
        cut_after: seconds after which all processes are killed; with a number also all as soon as one is.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes: list[multiprocessing.context.ForkProcess] = []
    for rank in range(1 if command else ranks):
        group = processes[0].pid if processes else 0
        process = FORK.Process(target=_child, args=(cfg, extra, build, rank, ranks, port, group, command))
        process.start()
        processes.append(process)
    if cut_after is not None:
        wait([p.sentinel for p in processes], cut_after)
        if any(p.exitcode in (None, -signal.SIGKILL) for p in processes):
            _kill_group(int(processes[0].pid or 0))
    for process in processes:
        process.join(timeout)
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"still running after {timeout} s"
    return [int(p.exitcode or 0) for p in processes]


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:  # all are gone
        return


def _child(
    cfg: DictConfig,
    extra: Sequence[Callback],
    build: Build,
    rank: int,
    ranks: int,
    port: int,
    group: int,
    command: Sequence[str] | None,
) -> None:
    os.setpgid(0, group)
    torch.set_num_threads(1)  # as in loader workers: the thread pool does not survive a fork
    if command:
        sys.argv = list(command)
    elif ranks > 1:
        # What Lightning sets for the processes it starts.
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    output = os.open(f"{cfg.run_dir}.rank{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    # pytest has put its own in their place.
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    train_here(cfg, *extra, build=build)


def tensors_hash(path: Path) -> str:
    """SHA-256 over weights, buffers, optimiser and schedule of a checkpoint."""
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

"""Where the time of a training step goes, part by part, and how much of it is the solver's."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from ifpn.bounds import Count, check
from ifpn.runs.files import write_text
from ifpn.solvers.fixed_point import ADJOINT, SEARCH

BACKWARD, OPTIMISER, DATA = "backward pass", "optimiser", "waiting for data"


@check
class Profile(Callback):
    """Prints a table of seconds per step when training ends, and writes it to a file, without changing the training.

    Args:
        path: the file.
        warmup: steps that are not counted: memory is allocated in them, kernels are chosen.
    """

    def __init__(self, path: str, warmup: Count) -> None:
        self.path, self.warmup = Path(path), warmup
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # torch's profiler tells the terminal when it starts and stops
        self.profiler: profile | None = None
        self.steps: list[float] = []
        self.waits: list[float] = []
        self._open: dict[str, list[record_function]] = {}
        self._parts: list[str] = []
        self._undo: list[Callable[[], None]] = []
        self._ended: float | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Name the parts of the detector and the optimiser's step."""
        for name, part in _parts(pl_module.get_submodule("detector")):
            self._parts.append(name)
            before = part.register_forward_pre_hook(lambda *_, name=name: self._enter(name))
            after = part.register_forward_hook(lambda *_, name=name: self._exit(name))
            self._undo += [before.remove, after.remove]
        for optimizer in trainer.optimizers:
            self._undo.append(optimizer.register_step_post_hook(lambda *_: self._exit(OPTIMISER)).remove)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Start to count after the warm-up."""
        if self._ended is not None:
            self.waits.append(time.monotonic() - self._ended)
            if self.profiler is None and len(self.waits) >= self.warmup:
                self.waits.clear()
                kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if pl_module.device.type == "cuda" else [])]
                self.profiler = profile(activities=kinds)
                self.profiler.start()
        self._started = time.monotonic()

    def on_before_backward(self, *_: Any) -> None:
        """Open the backward pass."""
        self._enter(BACKWARD)

    def on_after_backward(self, *_: Any) -> None:
        """Close it."""
        self._exit(BACKWARD)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Open the optimiser's step, which a hook of its own closes."""
        self._enter(OPTIMISER)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Note the length of the step."""
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize()
        self._ended = time.monotonic()
        if self.profiler is not None:
            self.steps.append(self._ended - self._started)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A validation is no wait for data."""
        self._ended = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop, print, write."""
        for undo in self._undo:
            undo()
        if self.profiler is None:
            if trainer.is_global_zero:
                Console().print(f"profile: needs more than {self.warmup} steps; nothing was measured.")
            return
        self.profiler.stop()
        if trainer.is_global_zero:
            rows = self._rows(pl_module.device.type == "cuda")
            file = Console(record=True, width=100, highlight=False)
            file.print(self._table(rows), "", sep="\n")
            write_text(self.path, file.export_text())
            Console(highlight=False).print(f"In {self.path}", soft_wrap=True)

    def on_exception(self, *_: Any) -> None:
        """Leave the process without a profiler running."""
        if self.profiler is not None:
            self.profiler.stop()

    def _enter(self, name: str) -> None:
        if self.profiler is not None:
            span = record_function(f"part: {name}")
            span.__enter__()  # type: ignore[no-untyped-call]
            self._open.setdefault(name, []).append(span)

    def _exit(self, name: str) -> None:
        if self._open.get(name):
            self._open[name].pop().__exit__(None, None, None)

    def _rows(self, on_gpu: bool) -> list[tuple[str, float]]:
        """(what, seconds per step); they add up to the step, which comes last."""
        assert self.profiler is not None
        found = {
            event.key: (event.device_time_total if on_gpu else event.cpu_time_total) / 1e6 / len(self.steps)
            for event in self.profiler.key_averages()
        }
        rows = [(DATA, sum(self.waits) / len(self.steps))]
        for name in [*self._parts, BACKWARD, OPTIMISER]:
            seconds = found.get(f"part: {name}", 0.0)
            inner = {"neck": SEARCH, BACKWARD: ADJOINT}.get(name)
            if inner is not None and inner in found:
                rows += [(inner, found[inner]), (f"{name} without it", seconds - found[inner])]
            else:
                rows.append((name, seconds))
        if SEARCH in found and SEARCH not in dict(rows):
            rows.append((SEARCH, found[SEARCH]))
        whole = (sum(self.steps) + sum(self.waits)) / len(self.steps)
        return [*rows, ("everything else", whole - sum(seconds for _, seconds in rows)), ("step", whole)]

    def _table(self, rows: list[tuple[str, float]]) -> Table:
        whole = rows[-1][1]
        solver = sum(seconds for name, seconds in rows if name in (SEARCH, ADJOINT))
        kind = f"the solver has {solver / whole:.0%} of it" if solver else "no fixed point is solved"
        table = Table(title=f"Where a step goes: {kind}", title_justify="left")
        table.add_column(f"mean of {len(self.steps)} steps after {self.warmup} to warm up")
        table.add_column("s/step", justify="right")
        table.add_column("share", justify="right")
        for name, seconds in rows[:-1]:
            table.add_row(name, f"{seconds:.4f}", f"{seconds / whole:.1%}")
        table.add_section()
        table.add_row("whole step, with the profiler on", f"{whole:.4f}", "100 %")
        return table


def _parts(detector: nn.Module) -> list[tuple[str, nn.Module]]:
    """The detector's parts in the order of the forward pass; not those that torch.compile has taken in."""
    children: list[tuple[str, nn.Module]] = []
    for name, child in detector.named_children():
        children += list(child.named_children()) if name == "body" else [(name, child)]
    order = {"transform": -1, "criterion": 1}
    children.sort(key=lambda item: order.get(item[0], 0))
    return [(name, child) for name, child in children if child._compiled_call_impl is None]

"""Commands and ranks as forks of the process that runs the tests, which has imported torch already."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import ifpn.cli.train  # noqa: F401  here once, instead of in every child
from tests.conftest import ROOT

# Deadlines are for a quiet machine; a busy one multiplies them.
PATIENCE = float(os.environ.get("IFPN_TEST_PATIENCE", "1"))


def in_processes(target: Callable[..., object], count: int, *arguments: Any, timeout: float = 280) -> list[int]:
    """Run `target(rank, *arguments)` in `count` processes; their exit codes, -9 for one that was killed."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_alone, args=(target, rank, *arguments)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout * PATIENCE)
    late = [process for process in processes if process.exitcode is None]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"still running after {timeout} s"
    return [int(process.exitcode or 0) for process in processes]


def _alone(target: Callable[..., object], *arguments: Any) -> None:
    torch.set_num_threads(1)  # as in loader workers: the thread pool does not survive a fork
    target(*arguments)


def command(script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python SCRIPT ARGUMENTS` in `cwd`, as a user would type it: its exit status and what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        (code,) = in_processes(_command, 1, str(ROOT / script), arguments, cwd, out, err)
        return subprocess.CompletedProcess([script, *arguments], code, out.read_text(), err.read_text())


def _command(_: int, script: str, arguments: tuple[str, ...], cwd: Path, out: Path, err: Path) -> None:
    write_to(out, err)
    _warn_as_usual()
    os.chdir(cwd)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")


def _warn_as_usual() -> None:
    """Warnings are errors in a test, and pytest keeps them; a user reads them."""
    warnings.filters = [entry for entry in warnings.filters if entry[0] not in ("error", "always")]
    warnings.simplefilter("ignore", ResourceWarning)  # Python's default; it takes note of the new list, too
    warnings.showwarning = _show


def _show(
    message: Warning | str, category: type[Warning], filename: str, line: int, file: Any = None, text: str | None = None
) -> None:
    print(warnings.formatwarning(message, category, filename, line, text), file=sys.stderr)


def write_to(out: Path, err: Path) -> None:
    """Let this process and its children append to files what they print."""
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    # pytest has put its own in their place.
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)

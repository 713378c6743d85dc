"""Kill trainings at random moments, resume them, compare what is left with an uninterrupted run.

python -m benchmarks.resume_trial                                   # 20 kills x {0, 2} workers x {1, 2} processes
python -m benchmarks.resume_trial --kills 5 --workers 0 --ranks 1   # a part of it
python -m benchmarks.resume_trial --folder runs/trial -- detector=retina neck.out_channels=64

Every life is `python train.py …`, killed with SIGKILL (all its processes at one stroke) between the start of the
training and its end, then the same command with `ckpt=last`. Compared are the SHA-256 of the final weights, optimiser
and schedule, and metrics.csv byte by byte. The lives are forked from this process, which has imported everything:
hundreds of fresh interpreters would spend nine tenths of the time importing torch. Writes a table to FOLDER/trial.md
and ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ifpn.runs.checkpoint import latest_readable, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")
SETTINGS = (
    "data.generate.num_train=8",
    "data.generate.num_val=2",
    "backbone.weights=none",
    "backbone.frozen_stages=5",
    "neck.out_channels=16",
    "neck.dropout=0.1",
    "detector.head.num_convs=1",
    "solver.train_evals=4",
    "solver.backward.max_vjps=3",
    "image.min_size=[32,64]",
    "image.max_size=96",
    "schedule.max_epochs=2",
    "callbacks.last.every_n_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "~callbacks.run_report",
    "~callbacks.export",
)
PATIENCE = 600.0  # seconds that a life may take; it takes three


@dataclass(frozen=True)
class Setting:
    """Loader workers and processes of a run."""

    workers: int
    ranks: int

    def overrides(self) -> list[str]:
        """The setting on the command line; the total batch is 2."""
        devices = ["trainer=ddp", f"trainer.devices={self.ranks}"] if self.ranks > 1 else []
        return [f"data.workers={self.workers}", *devices, f"data.batch_size={2 // self.ranks}"]


class Life:
    """One training, `ranks` processes in a process group of their own. Output goes to `<folder>.log`."""

    def __init__(self, folder: Path, overrides: list[str], ranks: int) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.processes: list[BaseProcess] = []
        for rank in range(ranks):
            group = self.processes[0].pid if self.processes else 0
            arguments = [*overrides, f"run_dir={folder}"]
            process = FORK.Process(target=_live, args=(arguments, f"{folder}.log", group, rank, ranks, port))
            process.start()
            self.processes.append(process)

    def over(self) -> bool:
        """Whether a process of the run has ended."""
        return any(p.exitcode is not None for p in self.processes)

    def wait_for_training(self) -> float:
        """Until the run folder is prepared and training begins (or the run has failed); the time of the clock then."""
        deadline = time.monotonic() + PATIENCE
        mark = self.folder / "config.yaml"
        before = mark.stat().st_mtime_ns if mark.exists() else 0
        while not self.over() and time.monotonic() < deadline:
            if mark.exists() and mark.stat().st_mtime_ns != before:
                break
            time.sleep(0.01)
        return time.monotonic()

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        os.killpg(int(self.processes[0].pid or 0), signal.SIGKILL)
        for process in self.processes:
            process.join()

    def finish(self) -> None:
        """Wait for the end of a run that nobody kills."""
        for process in self.processes:
            process.join(PATIENCE)
        if any(p.exitcode != 0 for p in self.processes):
            raise SystemExit(f"a run that nobody killed failed: see {self.folder}.log")


def _live(arguments: list[str], log: str, group: int, rank: int, ranks: int, port: int) -> None:
    os.setpgid(0, group)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if ranks > 1:
        # What Lightning sets for the processes it starts.
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.chdir(ROOT)
    sys.argv = ["train.py", *arguments]
    runpy.run_path("train.py", run_name="__main__")


def left_by(folder: Path) -> tuple[str, str]:
    """(SHA-256 of weights, optimiser and schedule, metrics.csv)."""
    checkpoint = read_checkpoint(folder / "last.ckpt")
    digest = hashlib.sha256()
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        digest.update(repr(_plain(checkpoint[part])).encode())
    return digest.hexdigest(), (folder / "metrics.csv").read_text()


def _plain(value: Any) -> Any:
    """Tensors as hashes of their bytes, so that the whole can be written as text."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return [(str(k), _plain(value[k])) for k in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def kill_once(folder: Path, overrides: list[str], ranks: int, seconds: float, draw: random.Random) -> int:
    """Start a run and kill it at a random moment of its training; the step of its newest checkpoint (0: none)."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        life = Life(folder, overrides, ranks)
        life.wait_for_training()
        time.sleep(draw.uniform(0, seconds))
        if not life.over():
            break
        life.finish()  # too late: another moment is drawn
    life.kill()
    checkpoints = list(folder.glob("*.ckpt"))
    return int(read_checkpoint(latest_readable(folder))["global_step"]) if checkpoints else 0


def trial(setting: Setting, kills: int, folder: Path, more: list[str], draw: random.Random) -> tuple[str, bool]:
    """A row of the table, and whether everything was equal."""
    overrides = [*SETTINGS, f"data.root={folder}/data", *setting.overrides(), *more]
    name = f"workers{setting.workers}_ranks{setting.ranks}"
    whole = Life(folder / f"{name}_whole", overrides, setting.ranks)
    began = whole.wait_for_training()
    whole.finish()
    seconds = time.monotonic() - began
    expected = left_by(whole.folder)
    same_weights = same_metrics = 0
    steps = []
    for number in range(kills):
        run = folder / f"{name}_kill{number}"
        steps.append(kill_once(run, overrides, setting.ranks, seconds, draw))
        Life(run, [*overrides, "ckpt=last"], setting.ranks).finish()
        found = left_by(run)
        same_weights += found[0] == expected[0]
        same_metrics += found[1] == expected[1]
        verdict = "equal" if found == expected else "DIFFERENT"
        print(f"{name}: kill {number + 1}/{kills}, newest checkpoint at step {steps[-1]}: {verdict}", flush=True)
        if found == expected:
            shutil.rmtree(run)
    cells = (setting.workers, setting.ranks, kills, f"{min(steps)} to {max(steps)}", same_weights, same_metrics)
    row = f"| {' | '.join(map(str, cells))} |"
    return row, same_weights == same_metrics == kills


def main() -> None:
    """Read the command line, kill and resume, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="per setting")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder if not given")
    parser.add_argument("overrides", nargs="*", help="more settings for train.py, after --")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute() if arguments.folder else Path(tempfile.mkdtemp(prefix="resume_trial_"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    settings = [Setting(w, r) for w in arguments.workers for r in arguments.ranks]
    draw = random.Random(arguments.seed)
    rows = [trial(s, arguments.kills, folder, arguments.overrides, draw) for s in settings]
    head = "| loader workers | processes | kills | newest checkpoint at step | equal weights | equal metrics.csv |"
    table = "\n".join([head, "|---" * 6 + "|", *(row for row, _ in rows)])
    (folder / "trial.md").write_text(table + "\n")
    print(f"\n{table}\n\nIn {folder}: trial.md")
    raise SystemExit(0 if all(equal for _, equal in rows) else 1)


if __name__ == "__main__":
    main()

"""Kill trainings at random moments, resume them, compare what is left with an uninterrupted run.

python scripts/resume_trial.py                                   # 20 kills x {0, 2} workers x {1, 2} processes
python scripts/resume_trial.py --kills 5 --workers 0 --ranks 1   # a part of it
python scripts/resume_trial.py --folder runs/trial -- detector=retina neck.channels=64

Every trial is `python train.py …` killed with SIGKILL (all its processes at once), then the same command with
`ckpt=last`. Compared are the SHA-256 of the final weights and optimiser state, and metrics.csv byte by byte. Writes a
table to FOLDER/trial.md and ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifpn.training.checkpoint import newest_valid, read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = (
    "data.generate.num_train=24",
    "data.generate.num_val=4",
    "backbone.weights=none",
    "neck.channels=16",
    "detector.num_convs=1",
    "schedule.min_size=[64]",
    "schedule.max_size=128",
    "schedule.max_epochs=3",
    "callbacks.last.every_n_steps=2",
    "trainer.log_every_n_steps=1",
    "~callbacks.run_report",
)


@dataclass(frozen=True)
class Setting:
    workers: int
    ranks: int

    def overrides(self) -> list[str]:
        devices = ["trainer=ddp", f"trainer.devices={self.ranks}"] if self.ranks > 1 else []
        batch = f"schedule.batch_size={4 // self.ranks}"
        return [f"data.workers={self.workers}", *devices, "trainer.accelerator=cpu", batch]


def start(folder: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "train.py", *overrides, f"run_dir={folder}"]
    with open(f"{folder}.log", "ab") as log:
        # A session of its own, so that all ranks and loader workers can be killed at one stroke.
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)


def finish(folder: Path, overrides: list[str]) -> float:
    """Run to the end; the seconds it took."""
    began = time.monotonic()
    if start(folder, overrides).wait() != 0:
        raise SystemExit(f"a run that nobody killed failed: see {folder}.log")
    return time.monotonic() - began


def left_by(folder: Path) -> tuple[str, str]:
    """(SHA-256 of weights and optimiser state, metrics.csv)."""
    checkpoint = read_checkpoint(folder / "last.ckpt")
    digest = hashlib.sha256()
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        digest.update(repr(_plain(checkpoint[part])).encode())
    return digest.hexdigest(), (folder / "metrics.csv").read_text()


def _plain(value: Any) -> Any:
    """Tensors as hashes of their bytes, so that the whole can be written as text."""
    if hasattr(value, "numpy"):
        return hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
    if isinstance(value, dict):
        return [(str(k), _plain(value[k])) for k in sorted(value, key=str)]
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def trial(setting: Setting, kills: int, folder: Path, more: list[str], draw: random.Random) -> tuple[str, bool]:
    """A row of the table, and whether everything was equal."""
    overrides = [*SETTINGS, f"data.root={folder}/data", *setting.overrides(), *more]
    name = f"workers{setting.workers}_ranks{setting.ranks}"
    whole = folder / f"{name}_whole"
    seconds = finish(whole, overrides)
    expected = left_by(whole)
    same_weights = same_metrics = 0
    steps = []
    for number in range(kills):
        run = folder / f"{name}_kill{number}"
        process = start(run, overrides)
        time.sleep(draw.uniform(0, seconds))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        checkpoints = list(run.glob("*.ckpt"))
        steps.append(int(read_checkpoint(newest_valid(run))["global_step"]) if checkpoints else 0)
        # Before config.yaml there is nothing to continue: the run is simply started again.
        finish(run, [*overrides, *(["ckpt=last"] if (run / "config.yaml").exists() else [])])
        found = left_by(run)
        same_weights += found[0] == expected[0]
        same_metrics += found[1] == expected[1]
        verdict = "equal" if found == expected else "DIFFERENT"
        print(f"{name}: kill {number + 1}/{kills}, newest checkpoint at step {steps[-1]}: {verdict}", flush=True)
    cells = (setting.workers, setting.ranks, kills, f"{min(steps)} to {max(steps)}", same_weights, same_metrics)
    row = f"| {' | '.join(map(str, cells))} |"
    return row, same_weights == same_metrics == kills


def main() -> None:
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

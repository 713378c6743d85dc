"""Kill trainings, resume them, and compare what is left with a run that was never stopped.

python -m benchmarks.resume_trial                          # 60 trials
python -m benchmarks.resume_trial --trials 8 --seed 3      # a part of them, other kills
python -m benchmarks.resume_trial --folder runs/trial      # keeps what differs, and trial.md

The trials are a covering array of `FACTORS`: every two levels of two factors meet in at least one of them, e.g. every
solver is killed in a validation, and with two workers. A trial is a training of seconds that dies by SIGKILL (all its
processes at one stroke) and goes on with `ckpt=last`. Compared are the SHA-256 of weights, buffers, average, optimiser
and schedule in last.ckpt and best.ckpt, and metrics.csv byte by byte, with a run of the same settings that was never
stopped, without loader workers, its ranks started by hand. Ends with status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.lives import Build, Kill, Spoil, compose_train, tensors_hash, train_here, train_in_processes
from ifpn.config.build import build_detector
from ifpn.runs.folder import COMPLETE

Levels = Mapping[str, str]
Moment = tuple[str, int]  # of `Kill`
SETTINGS = (
    "data.generate.num_train=12",
    "data.generate.num_val=2",
    "callbacks.last.every_n_steps=2",
    "trainer.log_every_n_steps=1",
    "trainer.accelerator=cpu",
    "~callbacks.run_report",
    "~callbacks.pictures",
    "~callbacks.progress",
    "~callbacks.export",
)
SMALL = (
    "backbone=stem",
    "backbone.channels=8",
    "neck.out_channels=16",
    "neck.dropout=0.1",
    "image.min_size=[32,64]",
    "image.max_size=96",
)
PATIENCE = 3600.0  # seconds that a life may take, and that a rank waits for another, on however busy a machine
TWO = (
    "trainer=ddp",
    "trainer.devices=2",
    "trainer.accelerator=cpu",
    "data.batch_size=1",
    f"trainer.strategy.timeout_seconds={PATIENCE}",
)
HEAD = "detector.head.num_convs=1"
STEADY = ("solver.easy=null", "solver.hard=null")
BY_RADIUS = ("solver.easy.radius=0.1", "solver.hard.radius=0.15")
# What a trial varies: {factor: {level: overrides}}. A new option is one line here.
FACTORS: dict[str, dict[str, tuple[str, ...]]] = {
    "average": {"no": (), "yes": ("callbacks=ema", "callbacks.ema.decay=0.5")},
    "accumulate": {
        "1": ("schedule.max_epochs=1", "schedule.val_every=3"),  # six steps
        "3": ("schedule.max_epochs=2", "trainer.accumulate_grad_batches=3"),  # four
    },
    "solver": {
        "broyden": ("solver=broyden", "solver.train_evals=4", "solver.backward.max_vjps=3"),
        "anderson": ("solver=anderson", "solver.train_evals=4", "solver.backward.max_vjps=3"),
        "fast": ("solver=fast",),
        # a warm-up, then random budgets | a warm-up, then the budget chosen by the measured spectral radius
        "fast, changing": ("solver=fast", "solver.warmup=0.4", "solver.random_evals=[2,5]", *STEADY),
        "fast, by radius": ("solver=fast", "solver.warmup=1", "solver.radius_every=2", *BY_RADIUS),
        "cheap": ("solver=cheap",),
        "two_step": ("solver=two_step",),
        "unroll": ("solver=unroll",),
    },
    "detector": {
        "retina": ("detector=retina", HEAD),
        "fcos": ("detector=fcos", HEAD),
        "atss": ("detector=atss", HEAD),
        "autoassign": ("detector=autoassign", HEAD),
        "faster_rcnn": ("detector=faster_rcnn", "detector.hidden=16", "detector.rpn_post_nms=[50,50]"),
    },
    "not finite": {"raise": (), "skip": ("callbacks.nonfinite.policy=skip",)},  # skip: one batch is spoilt
    "workers": {"0": ("data.workers=0",), "2": ("data.workers=2",)},
    "ranks": {"1": ("trainer=cpu", "data.batch_size=2"), "2": TWO, "2, by Lightning": TWO},
    "killed": dict.fromkeys(("in a step", "in a validation", "in a write", "twice", "any moment"), ()),
}
PASSED = ("write", "validation", "start", "gradient")  # the order in which a run comes by, at one number of steps
SPOILT = 4  # of the batches


def covering_array(factors: Mapping[str, Sequence[str]], rows: int, draw: random.Random) -> list[dict[str, str]]:
    """At least `rows` choices of one level per factor, in which every two levels of two factors meet."""

    def pairs(row: Levels) -> set[tuple[tuple[str, str], ...]]:
        return set(combinations(row.items(), 2))

    left = {((f, a), (g, b)) for f, g in combinations(factors, 2) for a in factors[f] for b in factors[g]}
    chosen: list[dict[str, str]] = []
    while left or len(chosen) < rows:
        wanted = dict(draw.choice(sorted(left))) if left else {}
        candidates = [{f: wanted.get(f) or draw.choice(list(factors[f])) for f in factors} for _ in range(200)]
        best = max(candidates, key=lambda row: len(pairs(row) & left))
        left -= pairs(best)
        chosen.append(best)
    return chosen


def moments(levels: Levels, draw: random.Random) -> list[Moment | None]:
    """Where the lives of a trial end; None: wherever they are at a random time."""
    validated = (3, 6) if levels["accumulate"] == "1" else (2, 4)
    written = sorted({2, 4, *validated})
    ends = {
        "in a write": lambda: ("write", draw.choice(written)),
        "in a validation": lambda: ("validation", draw.choice(validated)),
        "in a step": lambda: (draw.choice(("start", "gradient")), draw.randrange(validated[-1])),
    }
    if levels["killed"] == "any moment":
        return [None]
    if levels["killed"] != "twice":
        return [ends[levels["killed"]]()]
    twice: list[Moment] = [ends[kind]() for kind in draw.choices(list(ends), k=2)]
    return [*sorted(twice, key=lambda end: (end[1], PASSED.index(end[0])))]


@dataclass(frozen=True)
class Trial:
    """One row of the array.

    Attributes:
        levels: by factor.
        ends: of its lives before the last.
        overrides: for all of them, before those of `levels`.
        build: of the detector.
    """

    levels: Levels
    ends: Sequence[Moment | None]
    overrides: Sequence[str]
    build: Build = build_detector

    def settings(self, levels: Levels) -> list[str]:
        """The command line."""
        chosen = [o for factor, level in levels.items() for o in FACTORS[factor][level]]
        return [*self.overrides, *chosen]

    def whole(self, folder: Path) -> tuple[Path, float]:
        """Run it without a kill, once for all trials that differ in nothing else: (run_dir, seconds)."""
        plain = {**self.levels, "workers": "0", "killed": "in a step", "ranks": self.levels["ranks"][0]}
        run = folder / re.sub(r"[^\w-]+", "-", "_".join(["whole", *plain.values()]))
        began = time.monotonic()
        if not (run / COMPLETE).exists():
            shutil.rmtree(run, ignore_errors=True)
            self._live(run, self.settings(plain), [], None)
        return run, time.monotonic() - began

    def killed(self, run: Path, seconds: float, draw: random.Random) -> int:
        """Run it with its kills and to its end; how many lives were in fact killed."""
        overrides = self.settings(self.levels)
        kills = 0
        for end in self.ends:
            after = draw.uniform(0, seconds) if end is None else PATIENCE
            kills += self._live(run, overrides + ["ckpt=last"] * (kills > 0), [] if end is None else [end], after)
        started = (run / "config.yaml").exists()  # or killed before there was anything
        self._live(run, overrides + ["ckpt=last"] * started, [], None)
        return kills

    def verdict(self, folder: Path, run: Path, draw: random.Random) -> str:
        """Kill, resume and compare: "equal", or what is not. Equal runs are removed."""
        try:
            whole, seconds = self.whole(folder)
            kills = self.killed(run, seconds, draw)
            wrong = differences(whole, run)
        except (RuntimeError, AssertionError, OSError) as error:
            return str(error)
        if kills < len(self.ends) and None not in self.ends:
            wrong.append("was not killed")
        if not wrong:
            shutil.rmtree(run)
        return ", ".join(wrong) or "equal"

    def _live(self, run: Path, overrides: Sequence[str], ends: Sequence[Moment], cut_after: float | None) -> bool:
        """Whether a life was killed."""
        overrides = [*overrides, f"run_dir={run}"]
        spoilt = self.levels["not finite"] == "skip"
        command = None
        if self.levels["ranks"].endswith("Lightning") and not run.name.startswith("whole"):
            command = ["resume_trial", "--life", json.dumps([overrides, ends, spoilt])]
        codes = train_in_processes(
            compose_train(overrides),
            *callbacks(ends, spoilt),
            build=self.build,
            ranks=int(self.levels["ranks"][0]),
            timeout=PATIENCE,
            command=command,
            cut_after=cut_after,
        )
        killed = cut_after is not None and -9 in codes
        if not killed and any(codes):
            raise RuntimeError(f"a life that nobody killed failed: {codes}, see {run}.rank0.log")
        return killed


def callbacks(ends: Sequence[Moment], spoilt: bool) -> list[Callback]:
    """What a life is given beside its configuration."""
    return [*(Kill(*end) for end in ends), *([Spoil(SPOILT)] if spoilt else [])]


def differences(whole: Path, resumed: Path) -> list[str]:
    """The files that differ."""
    found = [n for n in ("last.ckpt", "best.ckpt") if tensors_hash(whole / n) != tensors_hash(resumed / n)]
    same = (whole / "metrics.csv").read_bytes() == (resumed / "metrics.csv").read_bytes()
    return found if same else [*found, "metrics.csv"]


def trials(count: int, seed: int, overrides: Sequence[str]) -> list[Trial]:
    """The array, with the kills drawn for each row."""
    draw = random.Random(seed)
    array = covering_array({f: list(levels) for f, levels in FACTORS.items()}, count, draw)
    return [Trial(levels, moments(levels, draw), overrides) for levels in array]


def main() -> None:
    """Read the command line, kill and resume, and print the table."""
    if sys.argv[1:2] == ["--life"]:  # a rank that Lightning has started
        torch.set_num_threads(1)
        overrides, ends, spoilt = json.loads(sys.argv[2])
        train_here(compose_train(overrides), *callbacks(ends, spoilt))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=60, help="fewer than a covering array needs are its first rows")
    parser.add_argument("--first", type=int, default=1, help="number of the trial to begin with")
    parser.add_argument("--seed", type=int, default=0, help="of the array and of the kills")
    parser.add_argument("--folder", type=Path, help="where the runs go; a temporary folder if not given")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute() if arguments.folder else Path(tempfile.mkdtemp(prefix="resume_trial_"))
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # a thread pool does not survive a fork
    overrides = [*SETTINGS, *SMALL, f"data.root={folder}/data"]
    columns = [*FACTORS, "kills", "result"]
    table = ["| trial | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    bad = 0
    chosen = trials(arguments.trials, arguments.seed, overrides)[: arguments.trials]
    for number, trial in list(enumerate(chosen, 1))[arguments.first - 1 :]:
        found = trial.verdict(folder, folder / f"trial_{number}", random.Random(arguments.seed + number))
        bad += found != "equal"
        where = ", ".join("any" if end is None else f"{end[0]} {end[1]}" for end in trial.ends)
        table.append(f"| {number} | {' | '.join([*trial.levels.values(), where, found])} |")
        print(table[-1], flush=True)
        (folder / "trial.md").write_text("\n".join(table) + "\n")
    print(f"{bad} of {len(table) - 2} differ. In {folder}: trial.md")
    raise SystemExit(1 if bad else 0)


if __name__ == "__main__":
    main()

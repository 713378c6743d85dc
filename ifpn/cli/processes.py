"""A job as a fresh process: `python train.py … hydra.mode=RUN`, without what its parent knows of ranks."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ifpn.cli.jobs import Job

# Set by Lightning, torchrun or a cluster for the processes of one job. A job that inherits them believes to be a rank.
RANK_VARIABLES = (
    "RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE",
    "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PL_GLOBAL_SEED",
)  # fmt: skip
RANK_PREFIXES = ("TORCHELASTIC_", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")


def clean_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without the variables by which a process takes itself for a rank."""
    return {
        name: value
        for name, value in environment.items()
        if name not in RANK_VARIABLES and not name.startswith(RANK_PREFIXES)
    }


def job_command(job: Job, hydra_overrides: Sequence[str], *, resume: bool) -> list[str]:
    """The command line of one job. hydra_overrides: those of the sweep's command line that concern Hydra itself."""
    kept = [
        o
        for o in hydra_overrides
        if not o.lstrip("+~").startswith(("hydra.mode", "hydra.sweep", "hydra.launcher", "hydra/launcher"))
    ]
    quoted = str(job.folder).replace("\\", "\\\\").replace("'", "\\'")
    mine = [o for o in job.overrides if o.partition("=")[0] not in ("run_dir", "ckpt")]
    return [
        sys.executable,
        str(Path(sys.argv[0]).absolute()),
        *mine,
        *kept,
        f"run_dir='{quoted}'",
        *(["ckpt=last"] if resume else [o for o in job.overrides if o.startswith("ckpt=")]),
        "hydra.mode=RUN",
    ]


class Processes:
    """The processes that are running now, so that all of them can be told to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[subprocess.Popen[bytes]] = []
        self.stopped = False

    def run(self, command: Sequence[str], log: Path, *, shown: bool) -> int:
        """Run `command` to its end. log: where its output goes; shown: to ours as well. Returns the exit status."""
        with log.open("ab") as output, log.open("rb") as follow:
            follow.seek(0, os.SEEK_END)
            with self._lock:
                if self.stopped:
                    return 1
                process = subprocess.Popen(
                    command, env=clean_environment(os.environ), stdout=output, stderr=subprocess.STDOUT
                )
                self._running.append(process)
            try:
                # The file is followed, not a pipe: nothing that the job leaves behind can keep us waiting.
                while shown and process.poll() is None:
                    _show(follow.read())
                    time.sleep(0.2)
                status = process.wait()
                _show(follow.read() if shown else b"")
                return status
            finally:
                with self._lock:
                    self._running.remove(process)

    def stop(self) -> None:
        """SIGTERM to all: each writes a checkpoint and leaves."""
        with self._lock:
            self.stopped = True
            for process in self._running:
                process.terminate()


def last_line(log: Path) -> str:
    """The last line of a log that is not empty: a job that failed says there why."""
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "no output")


def _show(output: bytes) -> None:
    sys.stdout.write(output.decode(errors="replace"))
    sys.stdout.flush()

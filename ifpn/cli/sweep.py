"""All jobs of a sweep: skip the finished, resume the interrupted, go on after a failure, and say what happened."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ifpn.cli.jobs import Job
from ifpn.cli.processes import Processes, job_command, last_line
from ifpn.errors import UserError
from ifpn.runs.files import refuse_links, write_json
from ifpn.runs.folder import JOB_LOG, SWEEP
from ifpn.runs.lock import folder_lock


class SweepError(UserError):
    """Some jobs of a sweep failed; the others are done."""


@dataclass(frozen=True)
class Outcome:
    """status: finished | skipped (was finished before) | failed | interrupted."""

    job: Job
    status: str
    reason: str = ""


def run_sweep(jobs: Sequence[Job], folder: Path, *, at_a_time: int, hydra_overrides: Sequence[str]) -> list[Outcome]:
    """Run all jobs, `at_a_time` of them together; write `<folder>/sweep.json`.

    Each is a process of its own: its peak memory is its own, and one that the system kills takes no other with it.
    Its output goes to `job.log` in its folder; one at a time, to ours as well.

    SIGTERM and Ctrl-C reach every job: each writes a checkpoint; then this process leaves with one sentence.

    Raises:
        FolderBusyError: another sweep runs in the folder.
        SweepError: at the end, if some failed.
    """
    processes = Processes()

    def run(job: Job) -> Outcome:
        outcome = _run_job(job, len(jobs), at_a_time == 1, processes, hydra_overrides)
        print(f"[{job.number + 1}/{len(jobs)}] {outcome.status}: {job.folder.name}", flush=True)
        return outcome

    with folder_lock(folder, "hydra.sweep.dir"), _stopping(processes), ThreadPoolExecutor(at_a_time) as pool:
        try:
            outcomes = list(pool.map(run, jobs))
        except BaseException as error:
            processes.stop()  # also after Ctrl-C, which need not have reached them
            pool.shutdown(cancel_futures=True)
            if not isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            print(f"stopped by a signal; the same command again goes on in {folder}", file=sys.stderr)
            raise SystemExit(getattr(error, "code", 128 + signal.SIGINT)) from None
    _write(outcomes, folder)
    failed = [o for o in outcomes if o.status == "failed"]
    if failed:
        names = "; ".join(f"{o.job.folder}: {_first_line(o.reason)}" for o in failed)
        raise SweepError(
            f"{len(failed)} of {len(jobs)} jobs failed ({names}). "
            "The same command again runs only what is not finished."
        )
    return outcomes


def _run_job(job: Job, total: int, shown: bool, processes: Processes, hydra_overrides: Sequence[str]) -> Outcome:
    try:
        if job.finished():
            return Outcome(job, "skipped")
        resume = job.interrupted()
        job.check_free()
        refuse_links(job.folder, [JOB_LOG])
    except UserError as error:
        # Not marked in the folder, which holds, or is held by, somebody else's run.
        return Outcome(job, "failed", str(error))
    job.folder.mkdir(parents=True, exist_ok=True)
    job.unmark()
    verb = "resumes" if resume else "starts"
    print(f"[{job.number + 1}/{total}] {verb}: {' '.join(job.overrides)} -> {job.folder}", flush=True)
    log = job.folder / JOB_LOG
    status = processes.run(job_command(job, hydra_overrides, resume=resume), log, shown=shown)
    if processes.stopped and not job.finished():
        return Outcome(job, "interrupted")
    reason = f"exit status {status}, see {log}: {last_line(log)}" if status else ""
    if not reason and not job.finished():
        reason = "ended without a complete result.json"
    if reason:
        job.mark_failed(reason)
        return Outcome(job, "failed", reason)
    return Outcome(job, "finished")


@contextmanager
def _stopping(processes: Processes) -> Iterator[None]:
    """SIGTERM to this process reaches every job; then this process ends, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        processes.stop()
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _write(outcomes: Sequence[Outcome], folder: Path) -> None:
    """sweep.json: one entry per job of this sweep, in its order."""
    rows: list[dict[str, Any]] = [
        {
            "folder": o.job.folder.name,
            "overrides": list(o.job.overrides),
            "status": o.status,
            "reason": o.reason or None,
            "summary": o.job.summary() if o.status in ("finished", "skipped") else None,
        }
        for o in outcomes
    ]
    write_json(folder / SWEEP, rows)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else ""

"""The run folder: names of its files, whether a run may be written there, and whether the one there is complete."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError
from ifpn.reading import read_json
from ifpn.runs.files import refuse_links, write_error, write_json
from ifpn.runs.identity import config_hash

CONFIG = "config.yaml"
METRICS = "metrics.csv"
RESULT = "result.json"
COMPLETE = "complete.json"
LAST, BEST = "last.ckpt", "best.ckpt"
EXPORT = "export"
EVIDENCE = "nonfinite"
LOCK = ".lock"
SAMPLES, CURVES, CONVERGENCE = "samples.png", "curves.png", "convergence.png"
BATCH, CONFUSION = "train_batch.png", "confusion.png"
PRECISION_RECALL, OPERATING = "precision_recall.png", "operating_points.png"
PREDICTIONS = "predictions.json"
PROFILE = "profile.txt"
# Of a sweep, and of its jobs.
SWEEP, FAILED, JOB_LOG = "sweep.json", "failed.txt", "job.log"
# Of evaluate.py.
SCORES = "scores.json"

# What other libraries write in place.
PICTURES = (BATCH, SAMPLES, CURVES, CONVERGENCE, CONFUSION, PRECISION_RECALL, OPERATING)
WRITTEN_IN_PLACE = (METRICS, *PICTURES, PROFILE, JOB_LOG, EVIDENCE, EXPORT, "hydra", "wandb")


def check_run_dir(run_dir: Path, *, resuming: bool) -> None:
    """Check that a run may be written to a folder, which is made if need be.

    Raises:
        ConfigError: it holds another run, or a link where a file is to be written.
        WriteError: nothing can be written there.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise write_error(run_dir, error) from error
    refuse_links(run_dir, WRITTEN_IN_PLACE)
    if not resuming and any((run_dir / name).exists() for name in (LAST, RESULT, COMPLETE)):
        raise ConfigError(
            f"run_dir={run_dir} holds a run already: continue it with ckpt=last, or give another run_dir."
        )


def mark_complete(run_dir: Path, config: Mapping[str, Any], steps: int, stopped: str | None) -> None:
    """Write the marker of a run that has done all it was to do; the last of its files.

    Raises:
        WriteError: nothing can be written there.
    """
    write_json(run_dir / COMPLETE, {"config_hash": config_hash(config), "steps": steps, "stopped": stopped})


def completion(run_dir: Path) -> dict[str, Any] | None:
    """{"config_hash", "steps", "stopped"} of a complete run; None for any other, also for one that cannot be read."""
    marker = _json(run_dir / COMPLETE)
    if marker is not None:
        return {"config_hash": None, "steps": None, "stopped": None, **marker}
    # Before there was a marker, the report said so. Since then it has an entry `stopped`, and is not the last file.
    result = _json(run_dir / RESULT) or {}
    if result.get("complete") is not True or "stopped" in result:
        return None
    stored = result.get("config")
    # Not the stored hash where the configuration is there too: of another version, it has other keys.
    known = config_hash(stored) if isinstance(stored, dict) else result.get("config_hash")
    return {"config_hash": known, "steps": result.get("steps"), "stopped": None}


def _json(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except ConfigError:
        return None
    return content if isinstance(content, dict) else None

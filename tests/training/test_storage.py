"""Disks that are full or read-only, damaged files, and files made to run code."""

from __future__ import annotations

import csv
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.lives import tensors_hash
from ifpn.backbones import weights as backbone_weights
from ifpn.errors import ConfigError, UserError
from ifpn.predictor import load
from ifpn.runs.checkpoint import FORMAT, SafeCheckpointIO, read_checkpoint
from ifpn.runs.export import export, read_export
from ifpn.runs.files import WriteError
from ifpn.training.loggers import keep_rows
from ifpn.training.start import find_start
from tests.processes import command
from tests.runs.cases import Malicious
from tests.training.harness import BATCHES, STEPS, Call, break_loss, configuration, train_here

pytestmark = pytest.mark.process


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 400 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip(f"may not mount a file system: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def checkpoint(numbers: int) -> dict[str, Any]:
    return {"state_dict": {"w": torch.zeros(numbers)}, "ifpn": {"format": FORMAT}, "global_step": numbers}


def test_a_really_full_disk_leaves_the_old_checkpoint(tiny_disk: Path) -> None:
    path = tiny_disk / "last.ckpt"
    SafeCheckpointIO().save_checkpoint(checkpoint(100), path)
    with pytest.raises(WriteError, match=r"No space left.*intact: free some space, then continue with ckpt=last"):
        SafeCheckpointIO().save_checkpoint(checkpoint(150_000), path)
    assert read_checkpoint(path)["global_step"] == 100
    assert [f.name for f in tiny_disk.iterdir()] == ["last.ckpt"]


def test_a_training_on_a_full_disk_ends_with_a_sentence_and_goes_on_elsewhere_exactly(
    tiny_disk: Path, small_data: Path, tmp_path: Path
) -> None:
    """Somebody else fills the disk after the first checkpoint; room is made; the run ends as if nothing happened."""
    train_here(configuration(small_data, tmp_path / "whole"))
    filler = tiny_disk / "filler"

    def fill(*_: object) -> None:
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(500_000))

    with pytest.raises(WriteError, match="No space left"):
        train_here(configuration(small_data, tiny_disk), Call(3, fill))
    filler.unlink()
    train_here(configuration(small_data, tiny_disk, "ckpt=last"))
    assert read_checkpoint(tiny_disk / "last.ckpt")["global_step"] == STEPS
    whole = read_checkpoint(tmp_path / "whole" / "last.ckpt")["state_dict"]
    resumed = read_checkpoint(tiny_disk / "last.ckpt")["state_dict"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tiny_disk / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_a_folder_that_cannot_be_written_is_refused_before_training(small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WriteError, match="could not be written"):
        train_here(configuration(small_data, tmp_path / "file" / "run"))


def test_a_read_only_file_system_is_told_in_a_sentence(tiny_disk: Path, small_data: Path) -> None:
    """Root may write anywhere but there. Through the command, where Hydra is the first to write."""
    (tiny_disk / "old").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
    with pytest.raises(WriteError, match=r"Read-only file system.*give another run_dir"):
        train_here(configuration(small_data, tiny_disk / "old"))
    for run_dir in ("old", "new"):
        done = command("train.py", f"run_dir={tiny_disk / run_dir}")
        assert done.returncode == 2
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr


def test_evidence_that_cannot_be_written_changes_no_decision(tiny_disk: Path, small_data: Path, tmp_path: Path) -> None:
    def fail(trainer: Any, module: Any) -> None:
        subprocess.run(["mount", "-o", "remount,ro", str(tiny_disk)], check=True)
        break_loss(trainer, module)

    more = ("callbacks.nonfinite.policy=skip", f"callbacks.nonfinite.dirpath={tiny_disk}")
    train_here(configuration(small_data, tmp_path / "run", *more), Call(3, fail))
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == STEPS


def test_a_damaged_metrics_file_is_told_and_a_short_one_is_continued(small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    def stop(*_: Any) -> None:
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        train_here(configuration(small_data, folder), Call(4, stop))
    (folder / "metrics.csv").write_bytes(b"step,train/loss\n\xff\xfe\0\n")
    with pytest.raises(ConfigError, match=r"metrics.csv is damaged .*move it away"):
        train_here(configuration(small_data, folder, "ckpt=last"))
    (folder / "metrics.csv").unlink()
    train_here(configuration(small_data, folder, "ckpt=last"))
    with open(folder / "metrics.csv") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(4, STEPS))


def test_a_row_that_was_cut_off_is_removed_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(b"step,train/loss\r\n0,1.5\r\n1,1.25\r\n2,1.")
    keep_rows(path, 3)
    assert path.read_bytes() == b"step,train/loss\r\n0,1.5\r\n1,1.25\r\n"
    assert "row 3 was cut off in the middle and is removed" in caplog.text


def test_a_run_from_the_checkpoint_of_another_has_a_best_of_its_own(small_data: Path, tmp_path: Path) -> None:
    train_here(configuration(small_data, tmp_path / "first"))
    first = tmp_path / "first" / "last.ckpt"
    train_here(configuration(small_data, tmp_path / "second", f"ckpt={first}", "schedule.max_epochs=3"))
    assert (tmp_path / "second" / "best.ckpt").is_file()
    with open(tmp_path / "second" / "metrics.csv") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(STEPS, STEPS + BATCHES))


def test_a_truncated_newest_checkpoint_is_passed_over(small_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_here(configuration(small_data, folder, "callbacks.periodic.every_n_steps=4"))
    hashes = tensors_hash(folder / "last.ckpt")
    for name in ("last.ckpt", "best.ckpt"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    assert find_start("last", folder).path == folder / "step_00000008.ckpt"
    train_here(configuration(small_data, folder, "ckpt=last"))
    assert tensors_hash(folder / "last.ckpt") == hashes


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    path = tmp_path / "evil.ckpt"
    torch.save({**checkpoint(3), "extra": Malicious(tmp_path / "ran")}, path)
    return path


def test_no_door_runs_code_from_a_file(evil: Path, small_data: Path, tmp_path: Path) -> None:
    """Resume by name, resume of a folder, prediction and evaluation, backbone weights, export."""
    with pytest.raises(ConfigError, match="could run code"):
        train_here(configuration(small_data, tmp_path / "run", f"ckpt={evil}"))
    with pytest.raises(ConfigError, match="no readable checkpoint"):
        train_here(configuration(small_data, evil.parent, "ckpt=last"))
    with pytest.raises(ConfigError, match="could run code"):
        load(evil)
    with pytest.raises((UserError, ValueError)):
        backbone_weights.read_state(str(evil))
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "config.json").write_text("{}")
    (tmp_path / "export" / "model.safetensors").write_bytes(pickle.dumps(Malicious(tmp_path / "ran")))
    with pytest.raises(ConfigError, match="is damaged"):
        load(tmp_path / "export")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("target", ["os.system", "torch.hub.load", "ifpn.cli.train.logging.os.system"])
def test_a_checkpoint_that_names_a_forbidden_class_is_not_built(target: str, tmp_path: Path) -> None:
    config = {"backbone": {"_target_": target, "weights": "none"}}
    facts = {"format": FORMAT, "config": config, "class_names": ["a"], "category_ids": [1]}
    SafeCheckpointIO().save_checkpoint({"state_dict": {}, "ifpn": facts}, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="is not allowed"):
        load(tmp_path / "a.ckpt")


def test_an_export_holds_the_weights_and_is_refused_when_damaged(tmp_path: Path) -> None:
    facts = {"format": FORMAT, "config": {}, "class_names": ["a"], "category_ids": [1], "batches_seen": 5}
    shared = torch.arange(6.0)
    weights = {"detector.a": shared, "detector.b": shared[::2], "other": shared}
    export({"state_dict": weights, "ifpn": facts}, tmp_path / "export")
    back = read_export(tmp_path / "export" / "model.safetensors")
    assert set(back["state_dict"]) == {"detector.a", "detector.b"}
    assert torch.equal(back["state_dict"]["detector.b"], shared[::2])
    assert "batches_seen" not in back["ifpn"]
    data = (tmp_path / "export" / "model.safetensors").read_bytes()
    (tmp_path / "export" / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(ConfigError, match="is damaged"):
        read_export(tmp_path / "export")

"""A checkpoint is read whole and verified, or refused with a sentence; reading never runs code."""

from __future__ import annotations

import os
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import FORMAT, SafeCheckpointIO, latest_readable, read_checkpoint
from ifpn.runs.files import WriteError
from tests.runs.cases import Malicious


def content(value: float = 0.0) -> dict[str, Any]:
    return {"state_dict": {"detector.w": torch.full((1000,), value)}, "ifpn": {"format": FORMAT}}


def written(path: Path, value: float = 0.0) -> Path:
    SafeCheckpointIO().save_checkpoint(content(value), path)
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    back = read_checkpoint(written(tmp_path / "a.ckpt", 3.0))
    assert torch.equal(back["state_dict"]["detector.w"], torch.full((1000,), 3.0))
    assert [f.name for f in tmp_path.iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize("kind", ["zip", "plain"])
def test_a_malicious_file_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    marker, path = tmp_path / "ran", tmp_path / "evil.ckpt"
    if kind == "zip":
        torch.save({**content(), "x": Malicious(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Malicious(marker)))
    with pytest.raises(ConfigError, match=r"evil\.ckpt"):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    path = written(tmp_path / "a.ckpt")
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(ConfigError, match="truncated or of another kind"):
        read_checkpoint(path)


def test_one_flipped_bit_in_the_weights_is_noticed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.ckpt", 1.0)
    data = bytearray(path.read_bytes())
    weights = torch.full((1000,), 1.0).numpy().tobytes()
    data[bytes(data).index(weights) + 17] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(ConfigError, match="does not match its checksum"):
        read_checkpoint(path)


def test_a_foreign_checkpoint_is_named_as_such(tmp_path: Path) -> None:
    torch.save({"model": torch.zeros(3)}, tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="was not written by ifpn"):
        read_checkpoint(tmp_path / "other.ckpt")
    torch.save({**content(), "ifpn": {"format": 99}}, tmp_path / "later.ckpt")
    with pytest.raises(ConfigError, match="has format 99"):
        read_checkpoint(tmp_path / "later.ckpt")


def test_the_newest_readable_checkpoint_is_chosen(tmp_path: Path) -> None:
    old, new = written(tmp_path / "old.ckpt", 1.0), written(tmp_path / "new.ckpt", 2.0)
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert latest_readable(tmp_path) == new
    new.write_bytes(new.read_bytes()[:-50])
    assert latest_readable(tmp_path) == old
    old.unlink()
    with pytest.raises(ConfigError, match="no readable checkpoint"):
        latest_readable(tmp_path)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.ckpt", 1.0)

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(WriteError, match=r"No space left on device.*continue with ckpt=last"):
        written(path, 2.0)
    assert float(read_checkpoint(path)["state_dict"]["detector.w"][0]) == 1.0
    assert [f.name for f in tmp_path.iterdir()] == ["a.ckpt"]

"""A checkpoint or export is a stranger's file: it reads as what was written, or is refused in a sentence."""

from __future__ import annotations

import gzip
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import ifpn
from benchmarks.fuzz_files import fuzz_all, small_checkpoint
from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.config.stored import check_stored_data
from ifpn.data.coco import stream
from ifpn.data.coco.stream import stream_coco
from ifpn.errors import ConfigError, UserError
from ifpn.evaluation.predictions import read_predictions
from ifpn.reading import read_json, read_yaml
from ifpn.runs.checkpoint import FORMAT, SafeCheckpointIO, latest_readable, read_checkpoint
from ifpn.runs.export import export
from ifpn.runs.result import RunResult


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """The content of a checkpoint of a whole detector with few weights."""
    small = ["backbone=resnet18", "backbone.weights=none", "detector=retina", "run_dir=x"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=small), resolve=True)
    detector = build_detector(OmegaConf.create(config), 2)
    state = {f"detector.{name}": value for name, value in detector.state_dict().items()}
    metadata = {"format": FORMAT, "config": config, "class_names": ["a", "b"], "category_ids": [1, 2]}
    return {"state_dict": state, "ifpn": metadata, "global_step": 1}


def changed(trained: dict[str, Any], path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A checkpoint whose configuration was changed by a stranger who can compute digests, too."""
    config = json.loads(json.dumps(trained["ifpn"]["config"]))
    change(config)
    SafeCheckpointIO().save_checkpoint({**trained, "ifpn": {**trained["ifpn"], "config": config}}, path)
    return path


def test_every_damaged_copy_is_refused_or_reads_as_what_was_written(tmp_path: Path) -> None:
    for name, outcomes in fuzz_all(tmp_path, 600, seed=1).items():
        assert outcomes["refused"] > 0
        assert outcomes["different"] == outcomes["traceback"] == 0, name


def test_an_intact_checkpoint_and_its_export_load(trained: dict[str, Any], tmp_path: Path) -> None:
    path = changed(trained, tmp_path / "a.ckpt", lambda config: None)
    export(read_checkpoint(path), tmp_path / "export")
    for source in (path, tmp_path / "export"):
        back = ifpn.load(source, device="cpu").detector.state_dict()
        assert all(torch.equal(value, trained["state_dict"][f"detector.{name}"]) for name, value in back.items())


def test_files_of_two_exports_do_not_mix(tmp_path: Path) -> None:
    for name, seed in (("first", 1), ("second", 2)):
        torch.manual_seed(seed)
        (tmp_path / name).mkdir()
        export(read_checkpoint(small_checkpoint(tmp_path / name)), tmp_path / name)
    os.replace(tmp_path / "second/model.safetensors", tmp_path / "first/model.safetensors")
    with pytest.raises(ConfigError, match="is damaged"):
        ifpn.load(tmp_path / "first")


def test_a_file_without_digest_is_read_as_version_0_1_wrote_it(tmp_path: Path) -> None:
    path = small_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    del content["ifpn"]["digest"]
    torch.save(content, path)
    assert read_checkpoint(path)["ifpn"]["class_names"] == ["disc", "ring"]


@pytest.mark.parametrize(
    "target",
    [
        "pytorch_lightning.loggers.CSVLogger",
        "ifpn.training.callbacks.Export",
        "ifpn.data.Shapes",
        "ifpn.data.DetectionData",
        "torch.optim.SGD",
        "ifpn.backbones.weights.read_state",
        "ifpn.backbones.resnet18",  # reads weights from a file, where it is not told otherwise
    ],
)
@pytest.mark.parametrize("place", ["neck", "csc"])
@pytest.mark.slow
def test_a_stored_configuration_builds_parts_of_a_detector_only(
    target: str, place: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    path = changed(trained, tmp_path / "a.ckpt", lambda c: c[place].update({"_target_": target}))
    with pytest.raises(ConfigError, match=r"a\.ckpt: its configuration builds no detector: .*is not allowed"):
        ifpn.load(path)
    assert [f.name for f in tmp_path.iterdir()] == ["a.ckpt"]


def _nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["backbone"].update(_args_=["/etc/passwd"]), "backbone._args_ is not allowed"),
        (lambda c: c["backbone"].update(weights="${oc.env:HOME}"), "must be plain text"),
        (lambda c: c["neck"].update(out_channels=10**9), "must be a whole number from 1 to 2048"),
        (lambda c: c["neck"].update(out_channels=2048), "far larger than its weights"),
        (lambda c: c["detector"]["head"].update(num_convs=10**6), "num_convs=1000000: must be a whole number from 0"),
        (lambda c: c["solver"].update(test_evals=10**5), "must be a whole number from 1 to 1000"),
        (lambda c: c["image"].update(max_size=10**5), "must be a number up to 8192"),
        (lambda c: c["neck"].update(dropout=float("nan")), "neck.dropout=nan: must be a number"),
        (lambda c: c["neck"].update(no_such=1), "neck has no such setting"),
        (lambda c: c.pop("neck"), "neck: the stored configuration describes none"),
        (lambda c: c.update(neck=[]), "neck: the stored configuration describes none"),
        (lambda c: c.update(more=_nested(30)), "nests them"),
        (lambda c: c.update(more=[0] * 30_000), "30[0-9]{3} values"),
    ],
)
@pytest.mark.slow
def test_a_stored_configuration_cannot_ask_for_more_than_a_detector(
    change: Callable[[dict[str, Any]], None], words: str, trained: dict[str, Any], tmp_path: Path
) -> None:
    path = changed(trained, tmp_path / "a.ckpt", change)
    with pytest.raises(ConfigError, match=words):
        ifpn.load(path)


def _with(name: str, value: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        torch.save({"state_dict": {}, "ifpn": {"format": FORMAT}, "global_step": 1, name: value}, path)

    return write


def _shared_lists() -> list[Any]:
    value: list[Any] = [0] * 10
    for _ in range(20):
        value = [value] * 10
    return value


def _compressed(path: Path) -> None:
    _with("x", torch.zeros(10_000_000))(path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(f"{path}.z", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    os.replace(f"{path}.z", path)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_with("x", _shared_lists()), "more than 300000 values"),
        (_with("x", _nested(200)), "nests them|recursion"),
        (_with("x", 10**30), "whole number of 100 bits"),
        (_with("x", 10**5000), "could run code"),
        (_with("x", torch.zeros(1).expand(10**13)), "not stored in full"),
        (_with("x", list(torch.zeros(100_000).expand(1000, -1).unbind())), "share their storage"),
        (_with("x", torch.zeros(2, device="meta")), "on meta"),
        (_with("x", torch.eye(2).to_sparse()), "layout|sparse"),
        (_with("global_step", "ten"), "'global_step' is not a whole number"),
        (_with("state_dict", {"a": 1}), "not written by ifpn"),
        (_with("ifpn", {"format": FORMAT, "class_names": "abc"}), "'class_names' that no run writes"),
        (_with("ifpn", {"format": FORMAT, "category_ids": [2, 1]}), "'category_ids' that no run writes"),
        (_with("ifpn", {"format": FORMAT, "batches_seen": -1}), "'batches_seen' that no run writes"),
        (_with("ifpn", {"format": FORMAT, "metrics_rows": [1]}), "'metrics_rows' that no run writes"),
        (_with("ifpn", {"format": 10**30}), "has format 1000"),
        (_compressed, "do not add up"),
        (lambda path: os.mkfifo(path), "no such file"),
        (lambda path: path.mkdir(), "no such file"),
    ],
)
def test_a_file_that_asks_for_too_much_is_refused(write: Callable[[Path], None], words: str, tmp_path: Path) -> None:
    write(tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match=words):
        read_checkpoint(tmp_path / "a.ckpt")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "1" * 5000 + "}", '{"a": [1, 2', "[]", "{}", "\ufeff"])
def test_a_description_that_is_no_description_is_refused(text: str, tmp_path: Path) -> None:
    export(read_checkpoint(small_checkpoint(tmp_path)), tmp_path / "export")
    (tmp_path / "export/config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"is damaged|was not written"):
        ifpn.load(tmp_path / "export")


DOORS: dict[str, Callable[[Path], Any]] = {
    "JSON": read_json,
    "YAML": read_yaml,
    "a result": RunResult.read,
    "predictions": read_predictions,
    "annotations": lambda path: list(stream_coco(path)),
    "a checkpoint": read_checkpoint,
}


@pytest.mark.parametrize("door", DOORS)
def test_a_pipe_a_device_and_an_endless_file_are_refused_at_every_door(
    door: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "LARGEST", 2**20)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "numbers").write_text('{"a": ' + "1" * 5000 + "}")
    (tmp_path / "deep").write_text("[" * 100_000)
    with open(tmp_path / "endless", "wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    (tmp_path / "unpacks.json").write_bytes(gzip.compress(b" " * 2**21))
    for name in ("pipe", "numbers", "deep", "endless", "unpacks.json"):
        with pytest.raises(UserError):
            DOORS[door](tmp_path / name)
    with pytest.raises(UserError):
        DOORS[door](Path("/dev/zero"))


def test_the_data_set_of_a_checkpoint_is_read_never_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    node = {"_target_": "ifpn.data.DetectionData", "root": "x", "generate": {"_target_": "ifpn.data.Shapes"}}
    with pytest.raises(ConfigError, match=r"data\.root=x, the data set that .* trained on"):
        check_stored_data(node)
    assert check_stored_data(node, "elsewhere") == {**node, "generate": None, "root": "elsewhere"}
    (tmp_path / "x").mkdir()
    assert check_stored_data(node) == {**node, "generate": None}
    for bad in (None, {"_target_": "ifpn.data.shapes.write_shapes"}, {**node, "root": "${oc.env:HOME}"}):
        with pytest.raises(ConfigError):
            check_stored_data(bad)


def test_the_newest_checkpoint_has_the_most_steps_whatever_the_clocks_say(tmp_path: Path) -> None:
    for name, step, written in (("a", 5, 300), ("b", 20, 100), ("c", 10, 200)):
        path = tmp_path / f"{name}.ckpt"
        SafeCheckpointIO().save_checkpoint({"state_dict": {}, "ifpn": {"format": FORMAT}, "global_step": step}, path)
        os.utime(path, (written, written))
    (tmp_path / "z.ckpt").symlink_to(tmp_path / "nowhere.ckpt")
    os.mkfifo(tmp_path / "fifo.ckpt")
    assert latest_readable(tmp_path) == tmp_path / "b.ckpt"
    (tmp_path / "b.ckpt").write_bytes(b"")
    assert latest_readable(tmp_path) == tmp_path / "c.ckpt"

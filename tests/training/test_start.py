"""How a run begins and ends: weights alone, a complete run, other classes, an early stop, nothing to measure."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.lives import Kill
from ifpn.cli.train import check_ranks
from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.runs.folder import completion
from ifpn.runs.lock import FolderBusyError, folder_lock
from ifpn.training.start import check_fits, find_start, initialise
from tests.training.harness import STEPS, Tiny, configuration, train_here, train_in_processes

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def finished(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "finished"
    train_here(configuration(small_data, folder))
    return folder


def files(folder: Path) -> dict[str, int]:
    return {f.name: f.stat().st_mtime_ns for f in folder.iterdir()}


def test_a_complete_run_asked_to_continue_says_so_and_changes_nothing(
    finished: Path, small_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completion(finished) is not None
    before = files(finished)
    train_here(configuration(small_data, finished, "ckpt=last"))
    printed = capsys.readouterr().out
    assert (
        f"complete  {STEPS} of {STEPS} steps are done, no step left. For more: schedule.max_epochs=… (now 2)" in printed
    )
    assert {**files(finished), ".lock": 0} == {**before, ".lock": 0}


def test_another_runs_end_is_no_start_and_leaves_no_result(finished: Path, small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{STEPS} of the {STEPS} steps .* no step is left.*init="):
        train_here(configuration(small_data, tmp_path / "run", f"ckpt={finished / 'last.ckpt'}"))
    assert {f.name for f in (tmp_path / "run").iterdir()} <= {".lock"}


def with_names(data: Path, folder: Path, *names: str) -> Path:
    """A copy of the data whose classes have other names."""
    folder.mkdir()
    (folder / "images").symlink_to(data / "images")
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        content = json.loads((data / "annotations" / f"instances_{split}.json").read_text())
        for category, name in zip(content["categories"], names, strict=False):
            category["name"] = name
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return folder


def test_other_classes_are_refused_by_ckpt_and_taken_by_name_by_init(
    finished: Path, small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_checkpoint(finished / "last.ckpt")["ifpn"]["class_names"]
    data = with_names(small_data, tmp_path / "data", known[1], known[0], "something new")
    plain = ("~data.generate", "data.follow_links=true")
    with pytest.raises(ConfigError, match=r"was trained on 8 classes .* the data have 8 classes .*init="):
        train_here(
            configuration(data, tmp_path / "run", *plain, f"ckpt={finished / 'last.ckpt'}", "schedule.max_epochs=3")
        )
    train_here(configuration(data, tmp_path / "init", *plain, f"init={finished / 'last.ckpt'}"))
    printed = capsys.readouterr().out
    assert "7 of 8 classes by name, new: 1 class (something new)" in printed
    with open(tmp_path / "init" / "metrics.csv") as file:
        assert [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]] == list(range(STEPS))


class Heads(nn.Module):
    """The layouts of our class layers: anchors x classes, and torchvision's background and blocks of four."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(3, 3)
        self.cls = nn.Linear(3, 2 * num_classes)
        self.box_predictor = nn.Linear(3, 4 * (num_classes + 1))


def test_class_layers_follow_the_names() -> None:
    torch.manual_seed(0)
    old, new = Heads(3), Heads(2)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    layers = [name for name in before if not name.startswith("body")]
    trained = {
        "state_dict": {f"detector.{name}": value for name, value in old.state_dict().items()},
        "ifpn": {"class_names": ["cat", "dog", "eel"]},
    }
    line = initialise(new, trained, "a.ckpt", ["eel", "fox"], layers)
    assert line == "a.ckpt: 6 of 6 tensors taken; 1 of 2 classes by name, new: 1 class (fox)"
    assert torch.equal(new.body.weight, old.body.weight)
    for anchor in range(2):  # rows of an anchor: one for each class
        assert torch.equal(new.cls.weight[2 * anchor], old.cls.weight[3 * anchor + 2])
        assert torch.equal(new.cls.weight[2 * anchor + 1], before["cls.weight"][2 * anchor + 1])
    blocks, trained_blocks = new.box_predictor.weight.view(3, 4, 3), old.box_predictor.weight.view(4, 4, 3)
    assert torch.equal(blocks[:2], trained_blocks[[0, 3]])  # background, eel
    assert torch.equal(blocks[2], before["box_predictor.weight"].view(3, 4, 3)[2])
    with pytest.raises(ConfigError, match=r"init=b: none of its 1 tensors fits"):
        initialise(new, {**trained, "state_dict": {"detector.x": torch.zeros(1)}}, "b", ["eel", "fox"], layers)


def test_weights_of_another_width_are_told(finished: Path) -> None:
    start = find_start("last", finished)
    names = start.metadata["class_names"]
    other = nn.ModuleDict(Tiny(len(names)).named_children())
    other["mix"] = nn.Conv2d(8, 16, 3)
    with pytest.raises(ConfigError, match=r"holds another detector: 2 of its tensors differ .* e\.g\. mix\.weight \(8"):
        check_fits(start, other, torch.optim.SGD(other.parameters()), names)


def test_the_optimiser_cannot_change_within_a_run(finished: Path, small_data: Path) -> None:
    other = ("schedule=1x", "schedule.max_steps=null", "schedule.max_epochs=3", "ckpt=last")
    with pytest.raises(ConfigError, match="was trained with another optimiser"):
        train_here(configuration(small_data, finished, *other))


def test_early_stopping_completes_a_run_also_one_killed_before_its_report(small_data: Path, tmp_path: Path) -> None:
    """The tiny detector finds nothing: its AP stays at 0, so the second validation after the first is the last."""
    more = ("callbacks=early_stopping", "callbacks.early_stopping.patience=2", "schedule.val_every=2")
    cfg = configuration(small_data, tmp_path / "run", *more)
    assert train_in_processes(cfg, Kill("end", 6)) == [-9]
    assert completion(tmp_path / "run") is None
    train_here(configuration(small_data, tmp_path / "run", *more, "ckpt=last"))
    done = completion(tmp_path / "run")
    assert done is not None
    assert done["steps"] == 6
    assert done["stopped"] == "early stopping: val/AP has not risen above 0.0 in 2 validations"
    train_here(configuration(small_data, tmp_path / "run", *more, "ckpt=last"))
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 6


def test_without_boxes_to_find_the_newest_weights_are_the_best(
    small_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = with_names(small_data, tmp_path / "data")
    path = data / "annotations" / "instances_val.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    progress = "+callbacks.progress={_target_: ifpn.training.callbacks.Progress, refresh_seconds: 0.01}"
    train_here(configuration(data, tmp_path / "run", "~data.generate", "data.follow_links=true", progress))
    saved = {name: read_checkpoint(tmp_path / "run" / name) for name in ("best.ckpt", "last.ckpt")}
    assert saved["best.ckpt"]["global_step"] == STEPS
    assert all(torch.equal(v, saved["last.ckpt"]["state_dict"][n]) for n, v in saved["best.ckpt"]["state_dict"].items())
    printed = capsys.readouterr().out
    assert "not measurable" in printed
    assert "AP -1" not in printed


def test_without_a_validation_set_the_newest_weights_are_the_best(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With `data.val_share=0` the other files of a run are there, and no number that was not measured."""
    run, export = tmp_path / "run", "+callbacks.export={_target_: ifpn.training.callbacks.RunReport}"
    assert train_here(configuration(small_data, run, "data.val_share=0", export)) == {}
    saved = {name: read_checkpoint(run / name) for name in ("best.ckpt", "last.ckpt")}
    assert {content["global_step"] for content in saved.values()} == {STEPS}
    assert all(torch.equal(v, saved["last.ckpt"]["state_dict"][n]) for n, v in saved["best.ckpt"]["state_dict"].items())
    assert completion(run) is not None
    result = json.loads((run / "result.json").read_text())
    assert (result["complete"], result["summary"], result["best_AP"]) == (True, None, None)
    with pytest.raises(ConfigError, match=r"early_stopping with data\.val_share=0.*data\.val_share=0\.1"):
        train_here(configuration(small_data, tmp_path / "b", "data.val_share=0", "callbacks=early_stopping"))


def test_what_is_wrong_with_the_data_is_said_once(
    small_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning asks a data module to set itself up again."""
    data = with_names(small_data, tmp_path / "data")
    path = data / "annotations" / "instances_val.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    settings = ("~data.generate", "data.follow_links=true", "schedule.max_epochs=1")
    train_here(configuration(data, tmp_path / "run", *settings))
    said = [record.getMessage() for record in caplog.records] + capsys.readouterr().out.splitlines()
    assert sum("no box" in line for line in said) == 1


@pytest.mark.parametrize("name", ["LearningRateFinder", "BatchSizeFinder"])
def test_lightnings_finders_are_refused(name: str, small_data: Path, tmp_path: Path) -> None:
    finder = f"+callbacks.finder._target_=pytorch_lightning.callbacks.{name}"
    with pytest.raises(ConfigError, match=f"{name} is not supported: .* planned"):
        train_here(configuration(small_data, tmp_path / "run", finder))


def test_more_processes_than_validation_images_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"3 processes for a validation set of 2 images"):
        check_ranks(3, 2)


def test_two_runs_in_one_folder_are_refused(small_data: Path, tmp_path: Path) -> None:
    """Held by another process; after its death, however it dies, the folder is free at once."""

    def second(*_: Any) -> None:
        with pytest.raises(FolderBusyError, match=r"run_dir=.*process \d+ on .* is writing there"):
            train_here(configuration(small_data, tmp_path / "run", "ckpt=last"))

    with folder_lock(tmp_path / "run", "run_dir"):
        codes = train_in_processes(configuration(small_data, tmp_path / "run"))
        with pytest.raises(FolderBusyError, match="this process is writing"), folder_lock(tmp_path / "run", "run_dir"):
            pass
    assert codes == [1]
    assert "FolderBusyError" in Path(f"{tmp_path / 'run'}.rank0.log").read_text()
    assert train_in_processes(configuration(small_data, tmp_path / "run", "data.workers=1"), Kill("gradient", 3)) == [
        -9
    ]
    with folder_lock(tmp_path / "run", "run_dir"):
        pass


def test_a_planted_link_is_not_written_through(small_data: Path, tmp_path: Path) -> None:
    run, treasure = tmp_path / "run", tmp_path / "treasure"
    run.mkdir()
    treasure.write_text("gold")
    (run / "metrics.csv").symlink_to(treasure)
    with pytest.raises(ConfigError, match=r"metrics.csv is a link to .*treasure.*remove it"):
        train_here(configuration(small_data, run))
    (run / "metrics.csv").unlink()
    for name in ("last.ckpt", ".last.ckpt.partial", "config.yaml"):
        (run / name).symlink_to(treasure)
    (run / "last.ckpt").unlink()
    train_here(configuration(small_data, run, "schedule.max_epochs=1"))
    assert treasure.read_text() == "gold"
    assert not (run / "config.yaml").is_symlink()

"""What version 0.1.0 wrote still loads, predicts, evaluates and resumes; its keys are answered with the new ones."""

from __future__ import annotations

import copy
import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

import ifpn
from ifpn.cli.evaluate import evaluate
from ifpn.cli.jobs import Job
from ifpn.cli.train import train
from ifpn.config import migration
from ifpn.config.migration import migrate
from ifpn.config.stored import GROUPS
from ifpn.errors import ConfigError
from tests.config.composing import composed

OLD = Path(__file__).parent / "version_0_1_0"
CONFIGS: dict[str, dict[str, Any]] = json.loads(lzma.decompress((OLD / "configs.json.xz").read_bytes()))
# The run of the fixture, in today's keys.
RUN = [
    *("data.root=shapes", "scale=smoke", "data.generate.num_train=6", "data.generate.num_val=2"),
    *("neck.out_channels=8", "detector.head.num_convs=1", "detector.head.initial_probability=0.3"),
    "detector.postprocess.score_threshold=0.01",
    *("image.min_size=[64]", "image.max_size=96", "schedule.max_steps=2"),
]
# Overrides of `CONFIGS` that are spelt otherwise today: 0.1.0 set width, image and batch by data and schedule.
TODAY = {
    "neck.channels=32": "neck.out_channels=32",
    "schedule.batch_size=4": "data.batch_size=4",
    "schedule.max_size=512": "image.max_size=512",
    "schedule=1x": "recipe=paper",
    "schedule=2x": "recipe=paper_2x neck.out_channels=64",
    "detector.box_coding=delta": "detector/box_coder=delta",
    "detector.num_convs=2": "detector.head.num_convs=2",
    "detector.alpha=0.5": "detector.criterion.alpha=0.5",
    "detector.score_threshold=0.1": "detector.postprocess.score_threshold=0.1",
}


def today(typed: str) -> list[str]:
    """The overrides that say the same today; 0.1.0's default was recipe=small at 64 channels."""
    overrides = " ".join(TODAY.get(o, o) for o in typed.split()).split()
    named = any(o.startswith(("recipe=", "experiment=")) for o in overrides)
    width = [] if any(o.startswith("neck.out_channels=") for o in overrides) else ["neck.out_channels=64"]
    return overrides if named else ["recipe=small", *width, *overrides]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of the old run: last.ckpt and export/."""
    (tmp_path / "export").mkdir()
    for name, target in (("last.ckpt", "last.ckpt"), ("model.safetensors", "export/model.safetensors")):
        (tmp_path / target).write_bytes(lzma.decompress((OLD / f"{name}.xz").read_bytes()))
    shutil.copy(OLD / "config.json", tmp_path / "export")
    return tmp_path


@pytest.mark.parametrize("name", ["last.ckpt", "export"])
def test_a_checkpoint_and_an_export_find_the_same_boxes(old: Path, name: str) -> None:
    image = torch.arange(3 * 64 * 80, dtype=torch.float32).reshape(3, 64, 80).mul(0.37).sin().mul(0.5).add(0.5)
    found = ifpn.load(old / name, "cpu")(image)
    wanted = json.loads((OLD / "predictions.json").read_text())
    # Another machine adds in another order: pixels and probabilities of float32.
    torch.testing.assert_close(found["boxes"][:10], torch.tensor(wanted["boxes"]), atol=1e-2, rtol=0)
    torch.testing.assert_close(found["scores"][:10], torch.tensor(wanted["scores"]), atol=1e-5, rtol=0)
    assert found["labels"][:10].tolist() == wanted["labels"]


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_on_its_data_and_resumed(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    with_ckpt = [*(o for o in RUN if "max_steps" not in o), "schedule.max_steps=3", "ckpt=last.ckpt"]
    resumed = composed(*with_ckpt, run_dir=str(old / "out"))
    train(resumed)
    result = json.loads((old / "out/result.json").read_text())
    assert (result["steps"], result["complete"]) == (3, True)
    settings = composed("ckpt=last.ckpt", config_name="evaluate", run_dir=str(old / "scores"))
    scores = evaluate(settings)
    assert scores is not None
    assert set(scores.summary) == set(result["summary"])


def test_a_finished_job_of_an_old_sweep_is_skipped(tmp_path: Path) -> None:
    shutil.copytree(OLD / "sweep", tmp_path / "sweep")
    cfg = composed(*RUN, *OLD_FAST)
    config = OmegaConf.to_container(cfg)
    assert isinstance(config, dict)
    plain = {str(k): v for k, v in config.items()}
    assert Job(0, (), tmp_path / "sweep/seed=0", plain).finished()
    with pytest.raises(ConfigError, match="another configuration"):
        Job(0, (), tmp_path / "sweep/seed=0", plain | {"seed": 1}).finished()


# What solver=fast was.
OLD_FAST = [f"solver.{name}=null" for name in ("easy", "hard", "test_rtol", "test_error")] + ["solver.fit_start=0"]


@pytest.mark.parametrize("typed", CONFIGS)
@pytest.mark.slow
def test_an_upgraded_configuration_builds_what_todays_says(typed: str) -> None:
    config = CONFIGS[typed]
    before = copy.deepcopy(config)
    upgraded = migrate(config)
    assert config == before
    assert migrate(upgraded) == upgraded
    fast = [] if "solver=" in typed else OLD_FAST
    wanted = OmegaConf.to_container(composed(*today(typed), *fast))
    assert isinstance(wanted, dict)
    if wanted["data"]["root"].startswith("data/shapes_"):  # its name tells the settings of the drawing since
        wanted["data"]["root"] = "data/shapes"
    for part in (*GROUPS, "image", "schedule", "data"):
        assert upgraded[part] == wanted[part], part


def test_moved_classes_are_found_where_they_went() -> None:
    loggers = migrate(CONFIGS["logger=wandb callbacks=ema schedule=2x"])["logger"]
    assert loggers["wandb"]["_target_"] == "ifpn.training.loggers.WandbRun"
    assert loggers["csv"]["_target_"] == "ifpn.training.loggers.MetricsLog"


def test_every_old_key_was_one_and_is_none_now() -> None:
    def has(config: dict[str, Any], path: str) -> bool:
        return OmegaConf.select(OmegaConf.create(config), path, default=...) is not ...

    for path in migration.MOVED:
        assert any(has(config, path) for config in CONFIGS.values()), path
        assert not any(has(migrate(config), path) for config in CONFIGS.values()), path


@pytest.mark.parametrize("config", [None, [], "text", 3])
def test_what_is_no_configuration_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError, match="mapping"):
        migrate(config)


def test_a_setting_that_came_and_went_is_dropped_where_it_was_off() -> None:
    stored = {"neck": {"_target_": "ifpn.necks.ImplicitFPN", "start": "zero"}}
    assert "start" not in migrate(stored)["neck"]
    stored["neck"]["start"] = "learned"
    with pytest.raises(ConfigError, match=r"neck\.start: is no setting any more"):
        migrate(stored)


def test_a_former_setting_of_the_training_alone_does_not_keep_a_network_from_being_read() -> None:
    stored = {"neck": {"_target_": "ifpn.necks.ImplicitFPN", "contraction_penalty": 0.5, "contraction_margin": 0.8}}
    assert not [key for key in migrate(stored)["neck"] if key.startswith("contraction")]

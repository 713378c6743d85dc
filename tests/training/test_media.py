"""Weights & Biases without an account and without a network: what a run leaves for `wandb sync`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wandb
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from PIL import Image

from ifpn.config.paths import CONF
from ifpn.training.loggers import WandbRun, log_pictures, log_tables, media_tables
from reproduce.paper import TABLES

SCORES = {
    "summary": {"AP": 0.25, "APs": -1},
    "per_class": {"cat": {"AP": 0.25, "AP50": 0.5, "AR100": 0.4, "boxes": 7}},
}


def test_tables_have_the_numbers_and_a_blank_where_there_was_nothing_to_find() -> None:
    tables = media_tables(SCORES)
    assert tables["summary"] == (["metric", "value"], [["AP", 0.25], ["APs", None]])
    assert tables["per_class"] == (["class", "boxes", "AP", "AP50", "AR100"], [["cat", 7.0, 0.25, 0.5, 0.4]])
    assert media_tables({"summary": None, "per_class": None}) == media_tables({}) == {}


def test_two_trainings_in_one_process_are_two_runs_with_pictures_and_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    # Nothing listens there: whoever asks a server fails.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    picture = tmp_path / "samples.png"
    Image.new("RGB", (8, 8)).save(picture)
    for row in ("a", "b"):
        logger = WandbRun(save_dir=str(tmp_path / row), project="ifpn", name=row, offline=True, job_type="row")
        logger.log_hyperparams({"neck": {"channels": 8}})
        assert logger.experiment.name == row
        assert logger.experiment.job_type == "row"
        log_pictures([logger], [picture], step=1)
        log_tables(logger, SCORES)
        logger.finalize("success")
        assert wandb.run is None
    for row in ("a", "b"):
        (run,) = (tmp_path / row / "wandb").glob("offline-run-*")
        media = run / "files" / "media"
        assert len(list((media / "images" / "run").glob("samples_*.png"))) == 1
        (table,) = (media / "table" / "run").glob("per_class_*.json")
        assert json.loads(table.read_text())["data"] == [["cat", 7, 0.25, 0.5, 0.4]]


@pytest.mark.parametrize("table", TABLES, ids=lambda t: t.experiment)
def test_runs_are_grouped_by_table_and_by_row_whatever_the_seed(table) -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for row in [row for row in table.rows if row.overrides]:
        for seed in (0, 1):
            words = [f"experiment={table.experiment}", *row.overrides, f"seed={seed}", "logger=wandb"]
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("train", overrides=words, return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            found.setdefault(row.name, set()).add((cfg.logger.wandb.group, cfg.logger.wandb.job_type))
    groups = [one for kinds in found.values() for one in kinds]
    assert {group for group, _ in groups} == {table.experiment}
    assert len(groups) == len(set(groups)) == len(found)

"""Weights & Biases without an account and without a network: what a run leaves for `wandb sync`."""

from __future__ import annotations

import json
import math
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import wandb
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from ifpn.config.paths import CONF
from ifpn.evaluation import ConfusionMatrix
from ifpn.training import loggers
from ifpn.training.callbacks import RunReport
from ifpn.training.loggers import (
    COSTS,
    MetricsLog,
    WandbRun,
    log_pictures,
    log_tables,
    media_tables,
    run_id,
    short_name,
)
from ifpn.training.wandb_media import evaluation_tables, log_boxes, log_evaluation
from reproduce.paper import TABLES
from reproduce.wandb_workspace import media

SCORES = {
    "summary": {"AP": 0.25, "APs": -1},
    "per_class": {"cat": {"AP": 0.25, "AP50": 0.5, "AR100": 0.4, "boxes": 7}},
}


def test_tables_have_the_numbers_and_a_blank_where_there_was_nothing_to_find() -> None:
    tables = media_tables(SCORES)
    assert tables["summary"] == (["metric", "value"], [["AP", 0.25], ["APs", None]])
    assert tables["per_class"] == (["class", "boxes", "AP", "AP50", "AR100"], [["cat", 7.0, 0.25, 0.5, 0.4]])
    assert media_tables({"summary": None, "per_class": None}) == media_tables({}) == {}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_CONSOLE", "off")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for name in ("DATA", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))
    # Nothing listens there: whoever asks a server fails.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


def records(run_dir: Path) -> list[list[Record]]:
    """What `wandb sync` would send, a list per start of the run."""
    paths = sorted(run_dir.glob("wandb/offline-run-*/*.wandb"))
    for _ in range(600):  # the library's process closes the file a moment after `finish` has returned
        if all(any(r.HasField("exit") for r in parsed(path.read_bytes())) for path in paths):
            break
        time.sleep(0.05)
    return [parsed(path.read_bytes()) for path in paths]


def parsed(data: bytes) -> list[Record]:
    """LevelDB's log format behind seven bytes."""
    found, at, parts = [], 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header fits into the rest of a block
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or its last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def history(part: list[Record]) -> list[dict[str, Any]]:
    rows = [r.history.item for r in part if r.HasField("history")]
    return [{".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in items} for items in rows]


@pytest.mark.usefixtures("offline")
@pytest.mark.process
def test_a_resumed_training_goes_on_in_its_run_and_keeps_the_best(tmp_path: Path) -> None:
    choices = {"neck": "implicit", "csc": "dense"}
    for score in (0.5, 0.25):
        logger = WandbRun(save_dir=str(tmp_path), settings="csc=dense,seed=1", choices=choices, offline=True)
        logger.log_metrics({"val/AP": score}, step=7)
        logger.finalize("success")
        (tmp_path / "metrics.csv").write_text("step,val/AP\n7,0.5\n8,\n")
    parts = records(tmp_path)
    runs = [next(r.run for r in part if r.HasField("run")) for part in parts]
    assert len({run.run_id for run in runs}) == 1
    assert len(runs) == 2
    assert {run.display_name for run in runs} == {"dense,seed=1"}
    assert {run.run_group for run in runs} == {""}
    best = [[row["val/best_AP"] for row in history(part)] for part in parts]
    assert best == [[0.5], [0.5]]
    assert all(row["trainer/global_step"] == 7 for part in parts for row in history(part))
    config = [u for r in parts[0] if r.HasField("config") for u in r.config.update]
    assert any(json.loads(u.value_json) == choices and u.key == "choices" for u in config)
    assert WandbRun(save_dir=str(tmp_path / "other"), offline=True).version != runs[0].run_id


def test_the_agent_of_a_sweep_gives_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "abc12345")
    assert run_id(tmp_path) == "abc12345"


def test_names_are_short() -> None:
    for settings, name in (
        ("csc=dense,seed=1", "dense,seed=1"),
        ("experiment=table3,logger=wandb,logger.wandb.offline=false,+neck.output_norm=true", "output_norm=true"),
        ("image.min_size=[256,288],solver=fast,trainer.max_time=1", "min_size=[256,288],fast"),
        ("logger=wandb", ""),
        ("", ""),
    ):
        assert short_name(settings) == name
    assert short_name("csc=dense,seed=1", "seed=1,csc=dense") == "seed=1,dense"


@pytest.mark.usefixtures("offline")
@pytest.mark.process
def test_the_export_and_the_last_weights_are_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "model.safetensors").write_bytes(b"best")
    (tmp_path / "last.ckpt").write_bytes(b"last")
    monkeypatch.setattr(loggers, "read_checkpoint", lambda path: path.read_bytes())

    def export(checkpoint: bytes, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(checkpoint)

    monkeypatch.setattr(loggers, "export", export)
    logger = WandbRun(save_dir=str(tmp_path), offline=True, log_model=True)
    assert logger.experiment.name == tmp_path.name
    logger.finalize("success")
    (part,) = records(tmp_path)
    requests = [r.request.log_artifact.artifact for r in part if r.request.HasField("log_artifact")]
    sent = requests or [r.artifact for r in part if r.HasField("artifact")]
    files = [Path(artifact.manifest.contents[0].local_path).read_bytes() for artifact in sent]
    assert [set(a.aliases) - {"latest"} for a in sent] == [{"last"}, {"best"}]
    assert files == [b"last", b"best"]
    assert {a.type for a in sent} == {"model"}


@pytest.mark.usefixtures("offline")
@pytest.mark.process
def test_boxes_are_data_and_tables_have_curves_and_pairs(tmp_path: Path) -> None:
    logger = WandbRun(save_dir=str(tmp_path), offline=True)
    image = torch.zeros(3, 10, 20, dtype=torch.uint8)
    truth = {"boxes": torch.tensor([[1.0, 2.0, 5.0, 8.0]]), "labels": torch.tensor([1])}
    log_boxes([logger], [image], [truth], [{**truth, "scores": torch.tensor([0.75])}], ["cat", "dog"], step=3)
    logger.finalize("success")
    files = [json.loads(path.read_text()) for path in tmp_path.rglob("*.boxes2D.json")]
    (true,), (predicted,) = sorted((file["box_data"] for file in files), key=lambda boxes: "scores" in boxes[0])
    assert true["position"] == predicted["position"] == {"minX": 1.0, "minY": 2.0, "maxX": 5.0, "maxY": 8.0}
    assert true["domain"] == "pixel"
    assert (true["class_id"], true["box_caption"]) == (1, "dog")
    assert (predicted["scores"], predicted["box_caption"]) == ({"score": 0.75}, "dog 0.75")
    assert all(file["class_labels"] == {"0": "cat", "1": "dog"} for file in files)
    (row,) = history(records(tmp_path)[0])
    assert row["trainer/global_step"] == 3
    assert any(key.startswith("val/boxes") for key in row)


def test_tables_of_an_evaluation() -> None:
    precision = np.full((10, 101, 3), -1.0)
    precision[:, :, 0], precision[:, :, 2] = 0.5, 1.0
    matrix = ConfusionMatrix(np.array([[5, 0, 2], [0, 0, 0], [7, 0, 0]]), ("cat", "dog"), 0.5, 0.3)
    tables = evaluation_tables(precision, matrix)
    columns, rows = tables["precision_recall"]
    assert columns == ["recall", "precision at IoU 0.50", "precision at IoU 0.75"]
    assert rows[50] == [0.5, 0.75, 0.75]  # of the two classes that have boxes
    assert tables["confusion"][1] == [["background", "cat", 7], ["cat", "cat", 5], ["cat", "background", 2]]
    nothing = evaluation_tables(np.full((10, 101, 1), -1.0), matrix)["precision_recall"][1]
    assert nothing[0] == [0.0, None, None]


@pytest.mark.slow
def test_every_setting_of_the_sweep_is_one_of_train() -> None:
    sweep = yaml.safe_load((CONF / "wandb_sweep.yaml").read_text())
    assert sweep["method"] in ("grid", "random", "bayes")
    parameters = {key: entry["values"] for key, entry in sweep["parameters"].items()}  # grid needs values
    extra = [word for word in sweep["command"] if "=" in word]
    for key, values in parameters.items():
        for value in values:
            rest = [f"{other}={first[0]}" for other, first in parameters.items() if other != key]
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("train", overrides=[*rest, f"{key}={value}", *extra], return_hydra_config=True)
            HydraConfig.instance().set_config(cfg)
            chosen = cfg.hydra.runtime.choices
            assert (chosen[key] if key in chosen else OmegaConf.select(cfg, key)) == value
    count = math.prod(map(len, parameters.values()))
    assert f"all {count};" in (CONF / "wandb_sweep.yaml").read_text()


@pytest.mark.usefixtures("offline")
@pytest.mark.process
def test_two_trainings_in_one_process_are_two_runs_with_pictures_and_tables(tmp_path: Path) -> None:
    picture = tmp_path / "samples.png"
    Image.new("RGB", (8, 8)).save(picture)
    for row in ("a", "b"):
        logger = WandbRun(
            save_dir=str(tmp_path / row), project="ifpn", name=row, offline=True, group="g", job_type="row"
        )
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
@pytest.mark.slow
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


@pytest.mark.usefixtures("offline")
@pytest.mark.process
def test_pictures_and_tables_of_an_evaluation_have_different_names_and_the_workspace_shows_them(tmp_path: Path) -> None:
    """A key that held a picture and a table would be shown as neither."""
    picture = tmp_path / "confusion.png"
    Image.new("RGB", (8, 8)).save(picture)
    matrix = ConfusionMatrix(np.array([[5, 2], [7, 0]]), ("cat",), 0.5, 0.3)
    result: Any = SimpleNamespace(precision=np.full((10, 101, 1), 0.5))
    logger = WandbRun(save_dir=str(tmp_path), offline=True)
    log_pictures([logger], [picture], step=1)
    log_evaluation([logger], result, matrix, step=1)
    log_tables(logger, SCORES)
    logger.finalize("success")
    (part,) = records(tmp_path)
    kinds: dict[str, set[str]] = {}
    for row in history(part):
        for key, value in row.items():
            name = key.partition("._type")[0] if "._type" in key else key
            if isinstance(value, dict) and "_type" in value:
                kinds.setdefault(name, set()).add(value["_type"])
            elif key.endswith("._type"):
                kinds.setdefault(name, set()).add(value)
    assert all(len(types) == 1 for types in kinds.values()), kinds
    assert {"run/confusion", "run/confusion_table", "run/precision_recall_table", "run/per_class"} <= kinds.keys()
    assert kinds.keys() <= media()


@pytest.mark.usefixtures("offline")
@pytest.mark.process
def test_costs_go_to_the_loggers_but_not_into_metrics_csv(tmp_path: Path) -> None:
    """Seconds of a resumed run are others, and its metrics.csv is that of a run which was never stopped."""
    table, logger = MetricsLog(str(tmp_path)), WandbRun(save_dir=str(tmp_path), offline=True)
    report = RunReport()
    trainer: Any = SimpleNamespace(loggers=[table, logger], global_step=9, log_every_n_steps=5)
    module: Any = SimpleNamespace(device=torch.device("cpu"))
    for step in range(8, 13):
        trainer.global_step = step
        report.on_train_batch_end(trainer, module, None, None, step)
    table.save()
    logger.finalize("success")
    rows = [row for row in history(records(tmp_path)[0]) if COSTS[0] in row]
    assert [row["trainer/global_step"] for row in rows] == [9]  # the tenth step
    assert rows[0]["train/memory_mib"] > 1
    assert rows[0]["train/seconds_per_step"] >= 0
    assert not table.experiment.metrics_keys

"""A detector with random weights, results of runs, and scripts as modules."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.data import DetectionData
from ifpn.predictor import Predictor
from reproduce.differences import paper_config
from reproduce.paper import METRICS, TABLES
from reproduce.rows import COCO_VAL_BOXES
from tests.conftest import ROOT


def make(*overrides: str, classes: int = 3) -> Predictor:
    """A detector with random weights on 64 px."""
    small = (
        "experiment=paper",
        "scale=smoke",
        "neck.out_channels=8",
        "detector.head.num_convs=1",
        "backbone=efficientnet_lite0",
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*small, *overrides])
    OmegaConf.set_struct(cfg, False)
    for key in ("run_dir", "logger", "callbacks"):
        cfg.pop(key)
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    torch.manual_seed(0)
    names = [f"class {i}" for i in range(classes)]
    config = OmegaConf.to_container(resolved)
    return Predictor(build_detector(resolved, classes), names, list(range(classes)), config, torch.device("cpu"))  # type: ignore[arg-type]


# A G that contracts at random initialisation whatever the presets do: a norm on its output, none on B.
CONTRACTION = ("neck.output_norm=true", "neck.input_norm=false", "neck.add_input=false")


def data_of(predictor: Predictor, root: Path) -> DetectionData:
    config = {**predictor.config["data"], "root": str(root), "workers": 0}
    data: DetectionData = instantiate(OmegaConf.create(config))
    data.prepare_data()
    data.setup("validate")
    predictor.class_names = list(data.class_names)
    return data


TABLE4 = TABLES[3]


ROWS = {row.name: row for row in TABLE4.rows}


@cache
def stored(row: str) -> str:
    """The configuration of a row of Table 4, as JSON."""
    return json.dumps(paper_config(TABLE4, ROWS[row]))


def result(
    row: str = "pyramid", *, ap: float = 0.4, seed: int = 0, coco: bool = True, config: Any = None
) -> dict[str, Any]:
    """A result.json as a run of the paper's recipe would leave it."""
    classes = 80 if coco else 1
    boxes = [COCO_VAL_BOXES - 79, *[1] * 79] if coco else [538]
    return {
        "complete": True,
        "seed": seed,
        "steps": 90_000,
        "batch": 16,
        "machine": "a GPU",
        "seconds_per_step": 0.5,
        "peak_memory_mib": 9000.0,
        "summary": {name: ap + 0.01 * i for i, name in enumerate((*METRICS, "AR1", "AR10"))},
        "per_class": {str(i): {"AP": ap, "boxes": boxes[i]} for i in range(classes)},
        "config": (config or json.loads(stored(row))) | {"seed": seed, "run_dir": f"somewhere/{seed}"},
    }


def write(folder: Path, content: object) -> None:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(content if isinstance(content, str) else json.dumps(content))


def script(name: str) -> ModuleType:
    if name in ("cost_table", "wandb_workspace"):
        return importlib.import_module(f"reproduce.{name}")
    if name.startswith("bench_"):
        return importlib.import_module(f"benchmarks.{name}")
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module

"""experiment=table1 … table6: their rows are the paper's, at every scale, from one command line each."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from ifpn.config.command import CONF
from ifpn.config.rules import check_rules
from ifpn.config.targets import check_targets
from ifpn.reports.paper import TABLES, Row, Table
from ifpn.reports.results import fits, method_of

OURS = [(table, row) for table in TABLES for row in table.rows if row.overrides]
SCALES = ("paper", "small", "smoke")


def words(pair: object) -> str:
    return pair.name if isinstance(pair, Row) else pair.experiment if isinstance(pair, Table) else str(pair)


@cache
def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("train", overrides=list(overrides), return_hydra_config=True)


def jobs(table: Table, *typed: str) -> list[list[str]]:
    """The overrides of each job of a sweep, as Hydra's own sweeper makes them."""
    params = composed(f"experiment={table.experiment}").hydra.sweeper.params
    texts = [*(f"{k}={v}" for k, v in params.items()), f"experiment={table.experiment}", *typed]
    parsed = OverridesParser.create().parse_overrides(texts)
    return list(itertools.chain.from_iterable(BasicSweeper.split_arguments(parsed, None)))


def resolved(cfg: DictConfig) -> dict[str, Any]:
    plain = cfg.copy()
    with open_dict(plain):
        for key in ("hydra", "run_dir", "logger", "callbacks"):
            del plain[key]
    return OmegaConf.to_container(plain, resolve=True)  # type: ignore[return-value]


@pytest.mark.parametrize("table", TABLES, ids=words)
def test_the_rows_of_a_sweep_are_the_rows_of_the_paper(table: Table) -> None:
    found = {tuple(sorted(o for o in job if not o.startswith("experiment="))) for job in jobs(table)}
    wanted = {tuple(sorted(row.overrides)) for row in table.rows if row.overrides}
    assert found == wanted
    assert len(jobs(table)) == len(wanted)


@pytest.mark.parametrize("table", TABLES, ids=words)
def test_a_table_is_a_sweep_by_itself(table: Table) -> None:
    assert composed(f"experiment={table.experiment}").hydra.mode.name == "MULTIRUN"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(("table", "row"), OURS, ids=words)
def test_each_row_builds_what_the_row_says(table: Table, row: Row, scale: str) -> None:
    overrides = [f"experiment={table.experiment}", *row.overrides, f"scale={scale}"]
    overrides += ["data.root=somewhere"] if scale != "smoke" else []
    cfg = composed(*overrides)
    config = resolved(cfg)
    method = method_of(config)
    assert method is not None
    assert row.method is not None
    # Only the paper's scale has the paper's backbones.
    wanted = row.method if scale == "paper" else replace(row.method, backbone=None)
    assert fits(method, wanted)
    others = [r for r in table.rows if r.method is not None and r is not row]
    if scale == "paper":
        assert not any(r.method and fits(method, r.method) for r in others)
    check_rules(OmegaConf.create(config), overrides, dict(cfg.hydra.runtime.choices))
    check_targets(config)


@pytest.mark.parametrize(("table", "row"), OURS, ids=words)
def test_the_papers_scale_is_the_papers_recipe(table: Table, row: Row) -> None:
    """Sec. 4.2 and 4.5, word for word: numbers, not names of configuration files."""
    config = resolved(composed(f"experiment={table.experiment}", *row.overrides, "scale=paper", "data.root=somewhere"))
    schedule = config["schedule"]
    large = table.number == 6
    assert schedule["max_steps"] == (180_000 if large else 90_000)
    assert schedule["curve"]["milestones"] == ([120_000, 160_000] if large else [60_000, 80_000])
    assert schedule["base_batch_size"] == 16
    assert schedule["optimizer"]["lr"] == 0.01
    assert (min(schedule["min_size"]), max(schedule["min_size"])) == ((640, 800) if large else (800, 800))
    assert schedule["max_size"] == 1333
    if not large:
        assert config["backbone"]["_target_"] == "ifpn.backbones.resnet50"
    solver = config["neck"].get("solver")
    if solver and "steps" not in solver:
        assert solver["forward"]["_target_"] == solver["backward"]["solver"]["_target_"] == "ifpn.solvers.Broyden"
        assert (solver["train_evals"], solver["backward"]["max_vjps"], solver["test_evals"]) == (15, 15, 7)


def test_the_command_line_narrows_and_extends() -> None:
    table4 = TABLES[3]
    found = jobs(table4, "csc=dense", "seed=0,1,2")
    assert [sorted(job) for job in found] == [["csc=dense", "experiment=table4", f"seed={s}"] for s in (0, 1, 2)]
    assert len(jobs(TABLES[0], "detector=atss,fcos")) == 4
    assert len(jobs(TABLES[2], "row=rbl_csc", "neck.dropout=0,0.05")) == 2


@pytest.mark.parametrize("table", TABLES, ids=words)
def test_every_job_has_a_folder_of_its_own_named_after_its_row(table: Table) -> None:
    """Hydra's override_dirname, with the choices that do not make a row left out."""
    cfg = composed(f"experiment={table.experiment}", "data.root=/a/b")
    excluded = set(cfg.hydra.job.config.override_dirname.exclude_keys)
    assert {"experiment", "scale", "data.root"} <= excluded
    names = set()
    for job in jobs(table, "seed=0,1", "data.root=/a/b"):
        name = ",".join(sorted(o for o in job if o.partition("=")[0] not in excluded))
        assert "/" not in name
        names.add(name)
    assert len(names) == len(jobs(table, "seed=0,1"))


def test_without_an_experiment_nothing_is_different() -> None:
    cfg = composed()
    choices = dict(cfg.hydra.runtime.choices)
    assert (choices["experiment"], choices["row"], choices["scale"]) == (None, None, "paper")
    assert resolved(cfg) == resolved(composed("~row", "~scale"))
    assert cfg.hydra.mode is None

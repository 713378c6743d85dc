"""experiment=table1 … table6: their rows are the paper's, at every scale, from one command line each."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf, open_dict

from ifpn.config.allowlist import check_targets
from ifpn.config.checks import check_config
from ifpn.config.paths import CONF
from reproduce.paper import TABLES, Row, Table
from reproduce.rows import fits, method_of

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


@pytest.mark.slow
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
    assert fits(method, row.method)
    others = [r for r in table.rows if r.method is not None and r is not row]
    if scale != "paper" and table.number == 6:
        others = [r for r in others if r.method and r.method.detector != method.detector]  # one backbone for two rows
    assert not any(r.method and fits(method, r.method) for r in others)
    # Table 6's networks stand in no other table, nor the others' in Table 6.
    elsewhere = [r for t in TABLES for r in t.rows if r.method and (t.number == 6) != (table.number == 6)]
    assert not any(r.method and fits(method, r.method) for r in elsewhere)
    check_config(OmegaConf.create(config), overrides, dict(cfg.hydra.runtime.choices))
    check_targets(config)
    for part in ("backbone", "neck", "detector", "schedule", "data"):
        for path, node in configured(config[part], part):
            unknown = set(node) - {"_target_", "_partial_", *parameters_of(node["_target_"])}
            assert not unknown, f"{path} does not take {unknown}: a preset sets what only another option has"


def configured(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_`, nested ones too."""
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from configured(value, f"{path}.{key}")


def parameters_of(target: str) -> list[str]:
    return list(inspect.signature(get_object(target)).parameters)


# Sec. 3.2 and 4.2 for every implicit neck, and what the paper does not mention off or absent.
PAPERS_NECK = {"out_channels": 256, "weight_norm": True, "dropout": 0.05, "output_norm": False, "jacobian_penalty": 0.0}

# What an option is called when nothing is done.
WITHOUT = {"block": "basic", "start": "zero", "jacobian_every": 1.0}


@pytest.mark.parametrize(("table", "row"), OURS, ids=words)
@pytest.mark.slow
def test_presets_of_small_scales_do_not_reach_the_papers_neck(table: Table, row: Row) -> None:
    """weight norm and variational dropout on, no norm after the sum of Eq. 8, every width 256."""
    config = resolved(composed(f"experiment={table.experiment}", *row.overrides, "scale=paper", "data.root=somewhere"))
    neck = config["neck"]
    given = {key: neck[key] for key in PAPERS_NECK if key in neck}
    assert given == {key: PAPERS_NECK[key] for key in given}
    assert neck["out_channels"] == 256
    if neck["_target_"] == "ifpn.necks.ImplicitFPN":
        assert set(given) == set(PAPERS_NECK)
        assert neck["residual_block"] is (row.name != "csc")
        # Whatever else the neck may learn to do is not the paper's, so it must be off.
        others = set(neck) - set(PAPERS_NECK) - {"_target_", "_partial_", "csc", "solver", "residual_block"}
        assert not [key for key in others if neck[key] not in (None, False, 0, WITHOUT.get(key))], others
        block = {key: value for key, value in neck["csc"].items() if isinstance(value, bool)}
        assert not any(value for key, value in block.items() if key not in ("_partial_", "separable")), block


@pytest.mark.parametrize("table", TABLES[:5], ids=words)
@pytest.mark.slow
def test_rows_of_a_small_table_are_trained_alike(table: Table) -> None:
    """Same data, images, backbone, width, optimiser and steps in all rows: what differs is what the table is about."""
    made = [
        resolved(composed(f"experiment={table.experiment}", *row.overrides, "scale=small", "data.root=somewhere"))
        for row in table.rows
        if row.overrides
    ]
    for part in ("data", "backbone", "schedule", "trainer", "seed"):
        assert all(config[part] == made[0][part] for config in made)
    assert {config["neck"]["out_channels"] for config in made} == {128}
    schedule, image = made[0]["schedule"], made[0]["image"]
    assert schedule["max_epochs"] >= 1
    assert all(config["image"] == image for config in made)
    assert 256 <= min(image["min_size"]) <= image["max_size"] <= 384
    assert made[0]["backbone"]["_target_"] == "ifpn.backbones.efficientnet_lite0"
    typed = ("schedule.max_epochs=10", "image.min_size=[256,320,384]", "image.max_size=512")
    other = resolved(composed(f"experiment={table.experiment}", "scale=small", "data.root=x", *typed))
    assert other["schedule"]["max_epochs"] == 10
    assert other["image"] == {"min_size": [256, 320, 384], "max_size": 512}


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
    image = config["image"]
    assert (min(image["min_size"]), max(image["min_size"])) == ((640, 800) if large else (800, 800))
    assert image["max_size"] == 1333
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


CONTROL = {
    "none": ("NoFPN", {}),
    "fpn": ("FPN", {"residual_block": False, "norm": "none"}),
    "fpn_res": ("FPN", {"residual_block": True, "norm": "none"}),
    "fpn_gn": ("FPN", {"residual_block": False, "norm": "gn"}),
    "bare_stack_2": ("StackedFPN", {"inject": False, "repeats": 2}),
    **{f"stack_{t}": ("StackedFPN", {"inject": True, "repeats": t, "residual_block": True}) for t in (1, 2, 4)},
    **{f"unroll_{t}": ("ImplicitFPN", {"solver": {"_target_": "ifpn.solvers.Unroll", "steps": t}}) for t in (1, 2, 4)},
    "broyden": ("ImplicitFPN", {"solver": {"train_evals": 15, "test_evals": 7}}),
    "fast": ("ImplicitFPN", {"solver": {"train_evals": 7, "test_evals": 7, "warmup": 0.0}}),
    "warmup": ("ImplicitFPN", {"solver": {"train_evals": 7, "test_evals": 7, "warmup": 0.5}}),
}
G = ("csc", "residual_block", "weight_norm", "dropout", "output_norm", "input_norm", "add_input")


@pytest.mark.slow
def test_the_rows_of_the_control_differ_in_the_neck_alone() -> None:
    """Head, data, optimiser and steps are the same in all rows, and G the same wherever there is one."""
    rows = {row: composed("experiment=control", f"row={row}", "detector=atss") for row in CONTROL}
    made: dict[str, Any] = {row: resolved(cfg) for row, cfg in rows.items()}
    for row, (name, settings) in CONTROL.items():
        neck = made[row]["neck"]
        assert neck["_target_"] == f"ifpn.necks.{name}"
        for key, value in dict(settings).items():
            found = {k: neck[key][k] for k in value} if isinstance(value, dict) else neck[key]
            assert found == value, (row, key)
        others = {key: value for key, value in made[row].items() if key not in ("neck", "solver")}
        assert others == {key: value for key, value in made["fpn"].items() if key not in ("neck", "solver")}
    assert {str([made[row]["neck"].get(key) for key in G]) for row in CONTROL if row[:3] in ("sta", "unr", "bro")} == {
        str([made["fast"]["neck"][key] for key in G])
    }
    cfg = composed("experiment=control")
    optional = {"fpn_gn", "bare_stack_2"}
    assert set(cfg.hydra.sweeper.params.row.split(",")) == set(CONTROL) - optional
    assert cfg.hydra.mode.name == "MULTIRUN"

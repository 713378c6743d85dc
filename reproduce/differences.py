"""In what a run differs from its row of the paper, in a few words: no number stands beside the paper's unmarked."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from ifpn.config.allowlist import check_targets
from ifpn.config.paths import CONF
from ifpn.errors import ConfigError
from reproduce.paper import Row, Table
from reproduce.rows import Run

# Where a run reads, computes and logs, not what it computes; the last three stand in the neck that uses them.
_NOT_COMPARED = ("seed", "run_dir", "ckpt", "logger", "callbacks", "hydra", "solver", "csc", "stabilise")
_DATA = ("augment", "train_empty_images", "group_by_aspect")
_TRAINER = ("precision", "limit_train_batches", "limit_val_batches", "fast_dev_run")
_NOTHING = (None, False, 0)


def paper_config(table: Table, row: Row) -> dict[str, Any]:
    """The configuration of the row at the paper's scale, as `train.py` would compose it."""
    return json.loads(_composed(table.experiment, row.overrides))  # type: ignore[no-any-return]  # a dict, see below


@cache
def _composed(experiment: str, overrides: tuple[str, ...]) -> str:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[f"experiment={experiment}", *overrides])
    OmegaConf.set_struct(cfg, False)
    for key in ("run_dir", "logger", "callbacks"):  # they depend on the moment and place of a run
        cfg.pop(key, None)
    return json.dumps(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False))


def comparable(config: Mapping[str, Any]) -> dict[str, object]:
    """The leaves of a configuration that decide what a run computes: {"neck.out_channels": 256, ...}."""
    kept = {key: value for key, value in config.items() if key not in _NOT_COMPARED}
    kept["data"] = {k: v for k, v in config["data"].items() if k in _DATA}
    kept["trainer"] = {k: v for k, v in config.get("trainer", {}).items() if k in _TRAINER}
    # The number of devices decides it; what counts is the number of images seen.
    kept["schedule"] = {k: v for k, v in config["schedule"].items() if k != "val_every"}
    return dict(_leaves(_with_defaults(kept), ""))


def _with_defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    """With the settings that a run of an older version does not name, at what they were then: their defaults."""
    named = {k: _with_defaults(v) if isinstance(v, Mapping) else v for k, v in node.items()}
    return {**_defaults(str(node.get("_target_", ""))), **named}


@cache
def _defaults(target: str) -> dict[str, object]:
    """Plain defaults of one of our own classes; nothing for any other name, which a file must not make us import."""
    if not target.startswith("ifpn."):
        return {}
    try:
        check_targets({"_target_": target})
    except ConfigError:  # of an older version, or not from us
        return {}
    parameters = inspect.signature(get_object(target)).parameters.values()
    return {
        p.name: p.default for p in parameters if p.default is None or isinstance(p.default, bool | int | float | str)
    }


def deviations(run: Run, table: Table, row: Row) -> list[str]:
    """Words such as "backbone efficientnet_lite0", empty when the run is the paper's as far as the paper tells."""
    wanted, found = paper_config(table, row), run.config
    a, b = comparable(wanted), comparable(found)
    keys = sorted(k for k in {*a, *b} if not _equal(a.get(k), b.get(k)))
    words = []
    if not run.paper_data:
        words.append(f"data {run.data_name}")
    if table.evaluated_on != "val2017" and run.paper_data:
        words.append(f"val2017, not {table.evaluated_on}")
    if any(k.startswith("backbone.") for k in keys):
        words.append(_backbone(found["backbone"], wanted["backbone"], keys))
    words += _schedule(run, wanted, [k for k in keys if k.startswith(("schedule.", "image."))])
    if any(k.startswith("neck.solver.") for k in keys):
        words.append(f"solver {solver_words(found['neck'].get('solver'))}")
    told = ("backbone.", "schedule.", "image.", "neck.solver.")
    return words + [f"{k}={_shown(b.get(k))}" for k in keys if not k.startswith(told)]


def variant(run: Run) -> str:
    """Equal for two runs exactly when they differ in the seed alone."""
    return json.dumps([comparable(run.config), run.data_name, run.boxes, run.steps, run.batch], sort_keys=True)


def telling_apart(runs: Sequence[Run]) -> list[list[str]]:
    """Per run the settings, as "image.max_size=384", in which the runs differ; nothing for one run."""
    configs = [comparable(run.config) for run in runs]
    keys = sorted(k for k in set().union(*configs) if len({repr(c.get(k)) for c in configs}) > 1)
    return [[f"{k}={_shown(c[k])}" for k in keys if k in c] for c in configs]


def only_as_the_rows(table: Table, a: tuple[Row, Run], b: tuple[Row, Run]) -> bool:
    """Whether two runs differ in nothing but what their rows of the paper differ in, and settings of one neck alone.

    Only then is the difference of their AP the effect that the paper speaks of.
    """
    (row_a, run_a), (row_b, run_b) = a, b
    if (run_a.data_name, run_a.boxes, run_a.images) != (run_b.data_name, run_b.boxes, run_b.images):
        return False
    papers = [comparable(paper_config(table, row)) for row in (row_a, row_b)]
    ours = [comparable(run.config) for run in (run_a, run_b)]
    return all(
        _equal(ours[0].get(key), ours[1].get(key))
        or not _equal(papers[0].get(key), papers[1].get(key))
        or (key.startswith("neck.") and (key in ours[0]) != (key in ours[1]))
        for key in {*ours[0], *ours[1]}
    )


def solver_words(solver: object) -> str:
    """Such as "Anderson 5, GMRES 3, 7 at test": evaluations forward, products backward, evaluations at test time."""
    if not isinstance(solver, dict):
        return "none"
    if "steps" in solver:
        return f"unrolled {solver['steps']}"
    back = solver.get("backward", {})
    how = _name(back.get("solver")) or _name(back)
    budget = back.get("max_vjps", back.get("steps", ""))
    search = f"{_name(solver.get('forward'))} {solver.get('train_evals')}"
    return f"{search}, {how} {budget}, {solver.get('test_evals')} at test"


def _schedule(run: Run, wanted: Mapping[str, Any], keys: list[str]) -> list[str]:
    found, papers = run.config["schedule"], wanted["schedule"]
    image = run.config["image"]
    expected = (papers["max_steps"] or 0) * papers["base_batch_size"]
    # Rounding a stretched schedule may lose a step or two.
    if abs(run.images - expected) > expected / 1000 or image["min_size"] != wanted["image"]["min_size"]:
        sizes = "/".join(map(str, image["min_size"]))
        epochs = f"{found['max_epochs']} epochs, " if found.get("max_epochs") else ""
        optimizer = _name(found["optimizer"])
        name = f"{optimizer} at " if optimizer != _name(papers["optimizer"]) else "a rate of "
        sizes += f" to {image['max_size']}" if image["max_size"] != wanted["image"]["max_size"] else ""
        rate = f"{name}{found['optimizer']['lr']:g}"
        return [f"{epochs}{run.steps} steps of {run.batch} images at {sizes} px, {rate}"]
    leaves = comparable(run.config)
    return [f"{key}={_shown(leaves.get(key))}" for key in keys]


def _backbone(found: Mapping[str, Any], wanted: Mapping[str, Any], keys: list[str]) -> str:
    if found.get("_target_") != wanted.get("_target_"):
        return f"backbone {_name(found)}"
    return ", ".join(f"{k}={_shown(found.get(k.partition('.')[2]))}" for k in keys if k.startswith("backbone."))


def _name(node: object) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, Mapping) else ""


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _equal(a: object, b: object) -> bool:
    """A switch that one side does not know is off on that side: configurations outlive versions."""
    return a == b or (a in _NOTHING and b in _NOTHING and (a is None or b is None))


def _leaves(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, object]]:
    for key, value in node.items():
        below = f"{path}.{key}" if path else str(key)
        if isinstance(value, Mapping):
            yield from _leaves(value, below)
        else:
            yield below, value

"""Every setting of every option, set to what a slip of the finger makes of it: refused in a sentence, or it builds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf

from ifpn.bounds import shown
from ifpn.config.build import build_list, build_part
from ifpn.config.checks import check_buildable, check_config, check_values
from ifpn.errors import ConfigError
from tests.config.composing import option_nodes, unresolved

WRONG = ("x", -3, 0, math.nan, math.inf, 10**12, 1e300, 10**400, [], [-1], {"a": 1}, None, True)
DETECTOR = ("backbone", "csc", "solver", "neck", "detector")
GROUPS = (*DETECTOR, "schedule", "data", "trainer", "logger", "callbacks")
TINY = ("backbone.weights=none", "neck.out_channels=16", "image.min_size=[64]", "image.max_size=64")
SAMPLE = 12  # of the values that are accepted, the fast test builds so many


@cache
def base() -> dict[str, Any]:
    plain = OmegaConf.to_container(unresolved(*TINY, "data.root=x")[0])
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


@cache
def nodes() -> dict[str, Any]:
    """The node of each option, small, and without a file of weights or srun's environment."""
    found = {}
    for option, node in option_nodes(GROUPS).items():
        small = base()[option.partition("=")[0]]
        kept = {k: small[k] for k in ("root", "out_channels", "weights") if k in node}
        found[option] = {k: v for k, v in {**node, **kept}.items() if k != "plugins"}
    return found


def leaves(node: Any, path: str, target: str = "") -> Iterator[tuple[str, str]]:
    """(path, class that takes it) of all values that are typed as such; a list of numbers or words is one value."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not str(key).startswith("_"):
                yield from leaves(value, f"{path}.{key}", str(node.get("_target_", "")))
    elif not (isinstance(node, str) and "${" in node):
        yield path, target


def replaced(config: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one value replaced."""
    key, _, below = path.partition(".")
    return {**config, key: replaced(config[key], below, value) if below else value}


def cases() -> Iterator[tuple[str, str, Any]]:
    seen = set()
    for option, node in nodes().items():
        for path, target in leaves(node, option.partition("=")[0]):
            if (path, target) not in seen:  # options share classes
                yield from ((option, path, value) for value in WRONG)
            seen.add((path, target))
    single = {key: value for key, value in base().items() if key not in (*GROUPS, "run_dir", "ckpt")}
    for path, _ in leaves(single, ""):
        yield from (("", path.removeprefix("."), value) for value in WRONG)


@cache
def accepted() -> list[tuple[str, str, Any]]:
    """The cases that are not refused at once; every refusal is looked at."""
    left = []
    resolved_nodes: dict[str, Any] = {}
    for option, path, value in cases():
        group = path.partition(".")[0]
        if option not in resolved_nodes:
            whole = {**base(), group: nodes()[option]} if option else base()
            resolved_nodes[option] = OmegaConf.to_container(OmegaConf.create(whole), resolve=True)
        try:
            check_values(replaced(resolved_nodes[option], path, value)[group], group)
        except ConfigError as error:
            check_sentence(str(error), path, value)
        else:
            left.append((option, path, value))
    return left


def check_sentence(said: str, path: str, value: Any) -> None:
    """One sentence: setting, value, what is allowed."""
    assert said.startswith(f"{path}={shown(value)}"), said
    assert ": must be " in said, said
    assert "\n" not in said


def build(option: str, path: str, value: Any) -> str | None:
    """Do before data are read what the command does; the refusal, or None."""
    group = path.partition(".")[0]
    whole = replaced({**base(), group: nodes()[option]} if option else base(), path, value)
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.create(whole), resolve=True))
    assert isinstance(cfg, DictConfig)
    try:
        check_config(cfg, [f"{path}={value}"], {})
        if group in (*DETECTOR, "image", "stabilise"):
            check_buildable(cfg)
        elif group in ("logger", "callbacks"):
            build_list(cfg[group], group)
        elif group == "schedule":
            recipe = build_part(cfg.schedule, "schedule")
            recipe.build(torch.nn.Linear(2, 2), recipe.plan(2, 1, 1, 10))
        elif group in ("data", "trainer"):
            build_part(cfg[group], group)
    except ConfigError as error:
        return str(error)
    return None


def sample(items: list[Any], count: int) -> list[Any]:
    """The same few of many in every run, spread by a hash."""
    return sorted(items, key=lambda item: hashlib.sha256(repr(item).encode()).digest())[:count]


def test_a_value_out_of_bounds_is_refused_in_a_sentence() -> None:
    left = accepted()
    refused = sum(1 for _ in cases()) - len(left)
    assert refused > 3000
    assert len(left) < refused / 3, "most slips are slips"


def check_built(case: tuple[str, str, Any]) -> None:
    said = build(*case)
    if said is not None:
        check_sentence(said, *case[1:])


def test_what_is_accepted_builds_or_is_refused_before_data_are_read() -> None:
    by_group = [[case for case in accepted() if case[1].startswith(group)] for group in GROUPS]
    for case in [case for cases_of_group in by_group for case in sample(cases_of_group, SAMPLE // 4)]:
        check_built(case)


@pytest.mark.slow
def test_everything_that_is_accepted_builds_or_is_refused_before_data_are_read() -> None:
    distinct = {
        (path, repr(value), str(nodes().get(option, {}).get("_target_"))): (option, path, value)
        for option, path, value in accepted()
    }
    for case in distinct.values():
        check_built(case)

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
from ifpn.config.build import build_detector, build_list, build_part
from ifpn.config.checks import check_buildable, check_config, check_values
from ifpn.errors import ConfigError
from tests.config.composing import option_nodes, unresolved

WRONG: tuple[object, ...] = ("x", -3, 0, math.nan, math.inf, 10**12, 1e300, 10**400, [], [-1], {"a": 1}, None, True)
DETECTOR = ("backbone", "csc", "solver", "neck", "detector")
GROUPS = (*DETECTOR, "schedule", "data", "trainer", "logger", "callbacks")
TINY = ("backbone.weights=none", "neck.out_channels=16", "image.min_size=[64]", "image.max_size=64")
pytestmark = pytest.mark.slow
Case = tuple[str, str, Any]  # option, path of a setting, value


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
        kept |= {"name": "regnetx_002"} if option == "backbone=timm" else {}
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


def cases() -> Iterator[Case]:
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
def accepted() -> list[Case]:
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
    """One sentence: setting, value, what is allowed. A refusal of two settings may begin with the other one."""
    assert f"{path.rpartition('.')[2]}={shown(value)}" in said, said
    assert ": must be " in said, said
    assert "\n" not in said


def changed(option: str, path: str, value: Any) -> DictConfig:
    """The resolved configuration of an option with one value replaced."""
    whole = {**base(), path.partition(".")[0]: nodes()[option]} if option else base()
    cfg = OmegaConf.create(OmegaConf.to_container(OmegaConf.create(replaced(whole, path, value)), resolve=True))
    assert isinstance(cfg, DictConfig)
    return cfg


def builds(option: str, path: str, value: Any) -> bool:
    """Do what the command does before it reads data. False: refused, in a sentence."""
    cfg, group = changed(option, path, value), path.partition(".")[0]
    try:
        check_config(cfg, [f"{path}={value}"], {})
        if group in ("logger", "callbacks"):
            build_list(cfg[group], group)
        elif group == "schedule":
            recipe = build_part(cfg.schedule, "schedule")
            recipe.build(torch.nn.Linear(2, 2), recipe.plan(2, 1, 1, 10))
        elif group in ("data", "trainer"):
            build_part(cfg[group], group)
        else:
            check_buildable(cfg)
    except ConfigError as error:
        check_sentence(str(error), path, value)
        return False
    return True


def trains(option: str, path: str, value: Any) -> None:
    """One training step and one detection at tiny size."""
    torch.manual_seed(0)
    detector = build_detector(changed(option, path, value), num_classes=3).train()
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 44.0]]), "labels": torch.tensor([2])}]
    loss = torch.stack(list(detector([torch.rand(3, 64, 64)], targets).values())).sum()
    loss.backward()
    assert torch.isfinite(loss), (option, path, value)
    with torch.no_grad():
        detector.eval()([torch.rand(3, 64, 64)])


def large(option: str, path: str, value: Any) -> bool:
    """Whether a step takes seconds."""
    return option.startswith(("backbone=resnext", "backbone=resnet101", "backbone=timm")) or path == "compile"


def sample(items: list[Case], count: int) -> list[Case]:
    """The same few of many in every run, spread by a hash."""
    return sorted(items, key=lambda item: hashlib.sha256(repr(item).encode()).digest())[:count]


def test_a_value_out_of_bounds_is_refused_in_a_sentence() -> None:
    left = accepted()
    refused = sum(1 for _ in cases()) - len(left)
    assert refused > 8 * len(left), "most slips are refused at once"


def test_what_is_accepted_builds_or_is_refused_before_data_are_read() -> None:
    for group in GROUPS:
        of_group = sample([case for case in accepted() if case[1].startswith(f"{group}.") and not large(*case)], 2)
        assert of_group
        built = [case for case in of_group if builds(*case)]
        if group in DETECTOR and built:
            trains(*built[0])


@pytest.mark.parametrize("part", range(6))
def test_everything_that_is_accepted_builds_or_is_refused_before_data_are_read(part: int) -> None:
    built = [case for case in accepted()[part::6] if builds(*case)]
    for case in sample([case for case in built if case[1].startswith(DETECTOR) and not large(*case)], 6):
        trains(*case)

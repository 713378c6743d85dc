"""One place per number: conf/ names every setting of a class once, agrees with its defaults, and is bounded by it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from hydra.utils import get_object

from ifpn.bounds import is_bounded
from ifpn.config.checks import signature
from ifpn.config.foreign import foreign_signature
from tests.config.composing import composed, option_nodes

GROUPS = ("backbone", "csc", "solver", "neck", "detector", "schedule", "data", "trainer", "logger", "callbacks")
# What one part of a detector learns from another when it is built.
GIVEN = {
    *("channels", "num_levels", "in_channels_list", "extra_blocks", "extra_levels", "norm_layer"),
    *("body", "num_classes", "transform", "backbone", "neck", "strides", "anchors_per_cell", "box_coder", "coding"),
}
# Presets of one class differ from its defaults, which are those of a ResNet without deformable kernels.
PRESETS = ("backbone=resnext101_64x4d_dcn", "backbone=resnext152_32x8d_dcn")


def is_preset(option: str) -> bool:
    return option in PRESETS or (option.startswith("solver=") and option != "solver=anderson")


STABILISE = composed("recipe=paper").stabilise


def parts(node: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, node) of every `_target_` of ours."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("ifpn."):
            yield path, node
        for key, value in node.items():
            yield from parts(value, f"{path}.{key}")
    elif isinstance(node, list):
        for item in node:
            yield from parts(item, path)


PARTS = [
    pytest.param(option, node, id=f"{option} {path}")
    for option, whole in option_nodes(GROUPS).items()
    for path, node in parts(whole, option.partition("=")[0])
]


def settings(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if not key.startswith("_")}


@pytest.mark.parametrize(("option", "node"), PARTS)
def test_the_configuration_and_the_constructor_agree(option: str, node: dict[str, Any]) -> None:
    """Keys and arguments are the same; a default is the value of the YAML, or of the paper's recipe."""
    if foreign_signature(node["_target_"]):  # Lightning's arguments
        return
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    assert {*settings(node), *GIVEN} == {*parameters, *GIVEN}
    if is_preset(option):
        return
    for key, value in settings(node).items():
        value = STABILISE if value == "${stabilise}" else value
        plain = not isinstance(value, dict) and not (isinstance(value, str) and "${" in value)
        default = parameters[key].default
        if plain and default is not inspect.Parameter.empty:
            assert value == (list(default) if isinstance(default, tuple) else default), key


@pytest.mark.parametrize(("option", "node"), PARTS)
def test_every_number_has_a_bound(option: str, node: dict[str, Any]) -> None:
    known, _ = signature(node["_target_"])
    for key, value in settings(node).items():
        items = value if isinstance(value, list) else [value]
        if any(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
            assert is_bounded(known[key]), f"{option}: {key}"

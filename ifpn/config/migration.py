"""Settings that moved since version 0.1.0: typed old keys are answered with the new one, stored ones upgraded.

Both read the same table. Answers to typed keys go in 0.3; stored configurations stay readable.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from ifpn.config.nested_detector import TYPED, nest_detector
from ifpn.errors import ConfigError

# Old path: new path, in the order in which a stored configuration is upgraded.
MOVED: dict[str, str] = {
    "schedule.batch_size": "data.batch_size",
    "schedule.min_size": "image.min_size",
    "schedule.max_size": "image.max_size",
    "neck.channels": "neck.out_channels",
}
# Old class of a `_target_`: new class.
TARGETS: dict[str, str] = {
    "ifpn.data.Policy": "ifpn.data.DefectPolicy",
    "ifpn.data.Reading": "ifpn.data.ImageReading",
    "ifpn.reports.media.WandbRun": "ifpn.training.loggers.WandbRun",
    "ifpn.training.metrics_log.MetricsLog": "ifpn.training.loggers.MetricsLog",
}
_BACKBONES = (
    *("resnet18", "resnet50", "resnet101", "resnext101_64x4d", "resnext152_32x8d"),
    *("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"),
)
# Class of a `_target_`: its settings that are younger than 0.1.0, with the values that do what 0.1.0 did.
# "${key}" is the value of that key at the top.
ADDED: dict[str, dict[str, Any]] = {
    "ifpn.training.Recipe": {"backbone_lr": 1.0},
    **{f"ifpn.backbones.{name}": {"checkpointing": False} for name in _BACKBONES},
    "ifpn.data.DetectionData": {
        "val_share": None,
        "classes": None,
        "repeat_threshold": 0.0,
        "max_detections": 100,
        "cache": None,
        "cache_gib": 4,
    },
    "ifpn.data.DefectPolicy": {"missing_size": "measure", "implausible": "refuse", "box_format": "xywh"},
    "ifpn.necks.ImplicitFPN": {
        **{"block": "basic", "random_start": 0.0, "jacobian_every": 1.0},
    },
    "ifpn.solvers.Equilibrium": {
        **{
            "test_rtol": None,
            "warmup": 0.0,
            "warmup_evals": 2,
            "random_evals": None,
            "easy": None,
            "hard": None,
            "radius_every": 100,
            "fit_start": 0,
            "test_error": None,
        },
    },
    "ifpn.necks.FPN": {"residual_block": False, "weight_norm": True, "dropout": 0.05},
    "ifpn.necks.StackedFPN": {
        **{"inject": False, "residual_block": True, "weight_norm": True, "dropout": 0.05},
        **dict.fromkeys(("output_norm", "input_norm", "add_input"), "${stabilise}"),
    },
}
# Class of a `_target_`: settings that came and went between two versions, with the value that was off.
REMOVED: dict[str, dict[str, Any]] = {
    "ifpn.necks.ImplicitFPN": {"start": "zero", "correction_weight": 0.0, "fine_every": 1}
}
# Class of a `_target_`: former settings of the training alone, so that a trained network is the same without them.
DROPPED: dict[str, tuple[str, ...]] = {"ifpn.necks.ImplicitFPN": ("contraction_penalty", "contraction_margin")}
# What no table can say: each changes a configuration in place, and leaves an upgraded one as it is.
STEPS: list[Callable[[dict[str, Any]], None]] = [nest_detector]


def new_key(path: str) -> str | None:
    """The setting that `path` became, or None if it never was one."""
    if path == "schedule.batch_size":
        return "data.batch_size (evaluate.py: batch_size)"
    return MOVED.get(path) or TYPED.get(path)


def migrate(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored configuration in today's form; one that has it already comes back equal.

    Args:
        config: plain mappings, lists and values, without interpolations. It is left as it is.

    Raises:
        ConfigError: it is no mapping.
    """
    if not isinstance(config, Mapping):
        raise ConfigError(f"a stored configuration of type {type(config).__name__}: it must be a mapping.")
    upgraded: dict[str, Any] = _renamed_targets(copy.deepcopy(dict(config)))
    for step in STEPS:
        step(upgraded)
    for old, new in MOVED.items():
        _move(upgraded, old, new)
    _add_and_remove(upgraded, upgraded)
    return upgraded


def _renamed_targets(node: Any) -> Any:
    if isinstance(node, dict):
        return {
            key: TARGETS.get(value, value) if key == "_target_" and isinstance(value, str) else _renamed_targets(value)
            for key, value in node.items()
        }
    return [_renamed_targets(value) for value in node] if isinstance(node, list) else node


def _add_and_remove(node: Any, whole: dict[str, Any]) -> None:
    if isinstance(node, dict):
        target = node.get("_target_")
        for key, value in ADDED.get(target, {}).items() if isinstance(target, str) else ():
            linked = isinstance(value, str) and value.startswith("${")
            node.setdefault(key, whole.get(value[2:-1]) if linked else copy.deepcopy(value))
        for key in DROPPED.get(target, ()) if isinstance(target, str) else ():
            node.pop(key, None)
        for key, off in REMOVED.get(target, {}).items() if isinstance(target, str) else ():
            if node.pop(key, off) != off:
                raise ConfigError(f"neck.{key}: is no setting any more. Use the commit that trained this network.")
    for value in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _add_and_remove(value, whole)


def _move(config: dict[str, Any], old: str, new: str) -> None:
    """Move a value; where the new place is taken, that one stays."""
    source, key = _parent(config, old)
    if source is None or key not in source:
        return
    value = source.pop(key)
    for name in new.split(".")[:-1]:
        inner = config.setdefault(name, {})
        if not isinstance(inner, dict):
            return
        config = inner
    config.setdefault(new.rpartition(".")[2], value)


def _parent(config: dict[str, Any], path: str) -> tuple[dict[str, Any] | None, str]:
    """(the mapping that holds the last key of `path`, that key); None if it is not there."""
    *above, key = path.split(".")
    node: Any = config
    for name in above:
        node = node.get(name) if isinstance(node, dict) else None
    return (node if isinstance(node, dict) else None), key

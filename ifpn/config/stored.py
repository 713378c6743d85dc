"""The configuration in a checkpoint is a stranger's: it may describe a detector no larger than its weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from ifpn.backbones.weights import misfit
from ifpn.config.allowlist import DETECTOR, check_targets, resolve, targets
from ifpn.config.build import build_detector, without_weights
from ifpn.config.checks import check_values
from ifpn.errors import ConfigError

# The groups that make a detector, and the other settings that `build_detector` reads.
GROUPS = ("backbone", "csc", "solver", "neck", "detector")
READ = (*GROUPS, "image")
LARGEST_NUMBER, LONGEST_TEXT = 1e6, 4096
# Of numbers that decide how much time and memory one image takes.
LARGEST = {"data": 1e10, "solver": 1000, "image": 8192}
# Networks are built with more than they keep: a classifier that is taken off, norms that are replaced.
MOST_BUILT, MOST_MODULES = 4, 20_000
FREE = 20_000_000  # numbers


def check_stored(config: Mapping[str, Any]) -> None:
    """Check what `build_detector` reads of a stored configuration, before anything is built.

    Raises:
        ConfigError: a part is missing, names a class that makes no part of a detector, or holds a value that no
            training could have had.
    """
    for part in GROUPS:
        node = config.get(part)
        if node is None and part in ("csc", "solver"):
            continue
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"{part}: the stored configuration describes none.")
        # Only a backbone reads weights from files, and only the outermost one is told not to.
        rooms = DETECTOR if part == "backbone" else tuple(room for room in DETECTOR if room != "ifpn.backbones.")
        check_targets({part: node}, rooms)
        for path, target in targets(node, part):
            _check_public(path, target)
        check_values(node, part)
    for part in READ:
        _check_values(config.get(part), part)


def check_stored_data(node: Any, root: str | None = None) -> dict[str, Any]:
    """The data set of a stored configuration, to be read where it lies, or in `root`: nothing is drawn, or called.

    Raises:
        ConfigError: it describes none, or its folder is not there.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError("the checkpoint names no data set: give one, data=coco data.root=FOLDER.")
    check_targets({"data": node}, ("ifpn.data.",))
    for path, target in targets(node, "data"):
        _check_public(path, target)
    _check_values(node, "data")
    found = {**node, "generate": None} | ({} if root is None else {"root": root})
    if root is None and not Path(str(node.get("root"))).expanduser().is_dir():
        raise ConfigError(
            f"data.root={node.get('root')}, the data set that the checkpoint was trained on, is not a folder seen from "
            f"{Path.cwd()}. Run this where the training ran, or name the data where that can be done: data=coco "
            "data.root=FOLDER."
        )
    return found


def _check_public(path: str, target: object) -> None:
    """Classes may stand anywhere in the rooms, functions only where a room shows them: others may read files."""
    parent, name = resolve(str(target))
    if not inspect.isclass(getattr(parent, name)) and name not in getattr(parent, "__all__", ()):
        raise ConfigError(f"{path}={target!r} is not allowed in a stored configuration: it is not public.")


def _check_values(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in ("_args_", "_recursive_"):
                raise ConfigError(f"{path}.{key} is not allowed in a stored configuration.")
            _check_values(item, f"{path}.{key}")
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_values(item, f"{path}[{i}]")
    elif isinstance(value, str):
        if len(value) > LONGEST_TEXT or "${" in value:
            raise ConfigError(f"{path}={value!r:.60}: must be plain text of at most {LONGEST_TEXT} letters.")
    elif isinstance(value, int | float):
        most = next((limit for start, limit in LARGEST.items() if path.startswith(start)), LARGEST_NUMBER)
        if not abs(value) <= most:
            raise ConfigError(f"{path}={value!r:.60}: must be a number up to {most:g}.")


def rebuild_detector(config: Mapping[str, Any], num_classes: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the detector of a stored configuration and fill it with `weights`, its whole state dict.

    Raises:
        ConfigError: the configuration describes no detector, or not the one of the weights.
    """
    try:
        check_stored(config)
        cfg = without_weights(OmegaConf.create({name: config[name] for name in READ if name in config}))
        with no_larger_than(weights):
            build_detector(cfg, num_classes)
        detector = build_detector(cfg, num_classes)
    except Exception as error:  # constructors refuse a stranger's values in many ways
        # Below what Hydra says stands what the constructor said.
        reason = str(error.__cause__ or error).strip() or type(error).__name__
        raise ConfigError(f"its configuration builds no detector: {reason}") from error
    try:
        detector.load_state_dict(weights)
    except RuntimeError as error:
        problems = misfit(detector.state_dict(), weights) or str(error)
        raise ConfigError(
            f"its weights do not fit the detector that its configuration describes: {problems}."
        ) from error
    return detector


@contextmanager
def no_larger_than(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Build without memory, and stop as soon as the network outgrows the weights it is to hold.

    Raises:
        ConfigError: it does.
    """
    left = {"numbers": FREE + MOST_BUILT * sum(w.numel() for w in weights.values()), "modules": MOST_MODULES}

    def count(what: str, amount: int) -> None:
        left[what] -= amount
        if left[what] < 0:
            raise ConfigError("its configuration describes a network far larger than its weights.")

    def tensor(_: nn.Module, __: str, value: Tensor | None) -> None:
        count("numbers", 0 if value is None else value.numel())

    def child(*_: object) -> None:
        count("modules", 1)

    with ExitStack() as stack:
        for register, hook in (
            (hooks.register_module_parameter_registration_hook, tensor),
            (hooks.register_module_buffer_registration_hook, tensor),
            (hooks.register_module_module_registration_hook, child),
        ):
            stack.callback(register(hook).remove)
        stack.enter_context(torch.device("meta"))
        yield

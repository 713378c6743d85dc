"""Which classes a configuration may name. A configuration is input: it must not be able to call anything it likes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from ifpn.errors import ConfigError

# With a dot at the end: everything below that package. Without: exactly that name.
# What a checkpoint may build: building these has no effect but the memory that they take.
DETECTOR = (
    "ifpn.backbones.",
    "ifpn.csc.",
    "ifpn.detectors.",
    "ifpn.necks.",
    "ifpn.solvers.",
)
ALLOWED = (
    *DETECTOR,
    "ifpn.data.",
    "ifpn.training.Cosine",
    "ifpn.training.MultiStep",
    "ifpn.training.Recipe",
    "ifpn.training.callbacks.",
    "ifpn.training.distributed.",
    "ifpn.training.loggers.",
    "torch.optim.",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "pytorch_lightning.plugins.",
    "pytorch_lightning.profilers.",
    "pytorch_lightning.strategies.",
)
# A user's own packages, several with commas; below them everything may be named, also by a checkpoint.
OWN_PACKAGES = "IFPN_PACKAGES"
# Lightning exports classes of its other package as its own.
SAME_HOME = {"lightning_fabric": "pytorch_lightning"}


def check_targets(node: Any, allowed: Sequence[str] = ALLOWED) -> None:
    """Check every `_target_` below `node`, a mapping or list, nested.

    Raises:
        ConfigError: one is outside `allowed` and the user's own packages, or no class or function of a module there.
    """
    allowed = (*allowed, *own_packages())
    for path, target in targets(node, ""):
        if not isinstance(target, str) or not _has_allowed_prefix(target, allowed):
            raise ConfigError(_refusal(path, target, allowed))
        parent, name = resolve(target)
        if parent is None:
            raise ConfigError(f"{path}={target!r} is not allowed, because there is no such thing: {name}.")
        if not _defined_in(parent, name):
            raise ConfigError(_refusal(path, target, allowed))


def own_packages() -> tuple[str, ...]:
    """What the environment variable `IFPN_PACKAGES` allows, in the form of `ALLOWED`.

    Raises:
        ConfigError: it holds what is no name of a package.
    """
    names = [name for part in os.environ.get(OWN_PACKAGES, "").split(",") if (name := part.strip().removesuffix("."))]
    for name in names:
        if not all(word.isidentifier() for word in name.split(".")):
            raise ConfigError(f"{OWN_PACKAGES}: {name!r} must be the name of a Python package or module, as in import.")
    return tuple(f"{name}." for name in names)


def _refusal(path: str, target: object, allowed: Sequence[str]) -> str:
    return (
        f"{path}={target!r:.200} is not allowed: a configuration may only name classes and functions that are defined "
        f"in {', '.join(a.removesuffix('.') for a in allowed)}. "
        f"To use a package of your own, name it in the environment, {OWN_PACKAGES}=mypackage, here and wherever its "
        "checkpoints are opened."
    )


def _has_allowed_prefix(target: str, allowed: Sequence[str]) -> bool:
    if any(part.startswith("_") or not part.isidentifier() for part in target.split(".")):
        return False
    return any(target.startswith(a) if a.endswith(".") else target == a for a in allowed)


def resolve(target: str) -> tuple[ModuleType | None, str]:
    """(the module, the rest of the name), or (None, why there is no such thing)."""
    parts = target.split(".")
    for end in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:end])
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            # Of this very name: a shorter one may be the module. Of another: the module is there, and broken.
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                return None, str(error)
            continue
        if not hasattr(module, parts[end]):
            public = sorted(getattr(module, "__all__", None) or [])
            return None, f"{name} has no {parts[end]}" + (f"; it has {', '.join(public)}" if public else "")
        return module, ".".join(parts[end:])
    return None, f"no module named {parts[0]}"


def _defined_in(module: ModuleType, name: str) -> bool:
    """A class or function that belongs to `module`: no method, no other module's function reached through an import.

    What counts is where it was defined: `ifpn.csc.some_module.os.system` begins well and ends elsewhere. A package may
    show what is defined in its own modules, a class also what it takes from a neighbour.
    """
    if "." in name:
        return False
    found = getattr(module, name)
    home = str(getattr(found, "__module__", ""))
    if inspect.isclass(found):
        return _top(home) == _top(module.__name__)
    return inspect.isfunction(found) and f"{home}.".startswith(f"{module.__name__}.")


def _top(module: str) -> str:
    top = module.partition(".")[0]
    return SAME_HOME.get(top, top)


def targets(node: Any, path: str) -> Iterator[tuple[str, object]]:
    """Yield every `_target_` below a node with the path to it, `path` being that of the node."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield below, value
            else:
                yield from targets(value, below)
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for i, value in enumerate(node):
            yield from targets(value, f"{path}[{i}]")

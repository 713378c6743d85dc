"""Which classes a configuration may name. A configuration is input: it must not be able to call anything it likes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.utils import get_object

from ifpn.config.errors import ConfigError

# A prefix ends with a dot: everything below that package. Without a dot: exactly that name.
ALLOWED = (
    "ifpn.",
    "torch.optim.",
    "pytorch_lightning.Trainer",
    "pytorch_lightning.callbacks.",
    "pytorch_lightning.loggers.",
    "pytorch_lightning.plugins.",
    "pytorch_lightning.profilers.",
    "pytorch_lightning.strategies.",
)


def check_targets(node: Any) -> None:
    """Raise ConfigError if any `_target_` below `node` (a mapping or list, nested) is outside `ALLOWED`."""
    for path, target in _targets(node, ""):
        if not _is_allowed(target):
            raise ConfigError(
                f"{path}={target!r} is not allowed: a configuration may only name classes below {', '.join(ALLOWED)}. "
                "Register your own class by adding its package to ALLOWED in ifpn/config/targets.py."
            )


def _is_allowed(target: object) -> bool:
    if not isinstance(target, str) or any(part.startswith("_") or not part for part in target.split(".")):
        return False
    if not _matches(target):
        return False
    # `ifpn.some_module.os.system` begins well and ends elsewhere: what counts is where the object was defined.
    found = get_object(target)
    return _matches(f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}", home=True)


def _matches(name: str, home: bool = False) -> bool:
    # A class is defined below the package that exports it: pytorch_lightning.Trainer lives in ….trainer.trainer.
    prefixes = [a.split(".")[0] + "." if home and a.startswith("pytorch_lightning") else a for a in ALLOWED]
    return any(name.startswith(p) if p.endswith(".") else name == p for p in prefixes)


def _targets(node: Any, path: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            below = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield below, value
            else:
                yield from _targets(value, below)
    elif isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for i, value in enumerate(node):
            yield from _targets(value, f"{path}[{i}]")

"""How large a configuration becomes once its interpolations are written out, found without doing so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ifpn.errors import ConfigError
from ifpn.reading import DEEPEST

MOST_LETTERS = 10_000_000
_INTERPOLATION = re.compile(r"\$\{([^{}:]+)\}")


def check_interpolations(config: Any) -> None:
    """Check a composed configuration, plain and unresolved, before it is resolved.

    Raises:
        ConfigError: resolving it would take more than any configuration needs.
    """
    _Sizes(config).of("", config, 0)


class _Sizes:
    """Letters of each node with all `${...}` in it resolved; an interpolation of a resolver counts as one letter."""

    def __init__(self, root: Any) -> None:
        self.root = root
        self.known: dict[str, int] = {}

    def of(self, path: str, node: Any, depth: int) -> int:
        if path in self.known:
            return self.known[path]
        if depth > 4 * DEEPEST:
            raise ConfigError(f"{path}: its interpolations, or its lists, are nested more than {4 * DEEPEST} deep.")
        if isinstance(node, Mapping):
            size = 1 + sum(self.of(f"{path}.{key}".lstrip("."), value, depth + 1) for key, value in node.items())
        elif isinstance(node, Sequence) and not isinstance(node, str):
            size = 1 + sum(self.of(f"{path}.{i}", value, depth + 1) for i, value in enumerate(node))
        elif isinstance(node, str):
            size = len(node) + sum(self._target(path, target, depth) for target in _INTERPOLATION.findall(node))
        else:
            size = 8
        if size > MOST_LETTERS:
            raise ConfigError(f"{path}: becomes longer than {MOST_LETTERS} letters, its interpolations written out.")
        self.known[path] = size
        return size

    def _target(self, path: str, target: str, depth: int) -> int:
        dots = len(target) - len(target.lstrip("."))
        above = path.split(".")[:-dots] if dots else []
        keys = [*above, *target.strip().lstrip(".").replace("[", ".").replace("]", "").split(".")]
        node = self.root
        for key in keys:
            if isinstance(node, Mapping):
                node = node.get(key)
            elif isinstance(node, Sequence) and not isinstance(node, str) and key.isdigit() and int(key) < len(node):
                node = node[int(key)]
            else:
                return 1
        return self.of(".".join(keys), node, depth + 1)

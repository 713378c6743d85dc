"""How large a configuration becomes once its aliases and interpolations are written out, found without doing so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ifpn.errors import ConfigError

MOST_VALUES, MOST_LETTERS = 50_000, 10_000_000
DEEPEST = 50
LONGEST_NUMBER = 1000  # digits
_INTERPOLATION = re.compile(r"\$\{([^{}:]+)\}")


def check_yaml(text: str, where: object) -> None:
    """Check a YAML file from outside before it is read.

    Args:
        text: its content.
        where: its name, for messages.

    Raises:
        ConfigError: it is no YAML, or becomes too large or too deep.
    """
    try:
        _count_nodes(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{where} cannot be read as a configuration: {' '.join(str(error).split())}.") from error


def _count_nodes(text: str) -> None:
    sizes: dict[str, int] = {}  # by anchor; of those that are complete
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((event.anchor, 1))
            if len(open_nodes) > DEEPEST:
                raise ValueError(f"it is nested more than {DEEPEST} deep")
            continue
        if isinstance(event, yaml.ScalarEvent):
            if len(event.value) > LONGEST_NUMBER and event.value.strip("+-_").isdigit():
                raise ValueError(f"it holds a number of {len(event.value)} digits")
            anchor, size = event.anchor, 1
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise ValueError(f"alias *{event.anchor} stands for what it is part of, or for nothing")
            anchor, size = None, sizes[event.anchor]
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        else:
            continue
        if anchor is not None:
            sizes[anchor] = size
        above, total = open_nodes[-1]
        open_nodes[-1] = (above, total + size)
        if total + size > MOST_VALUES:
            raise ValueError(f"it has more than {MOST_VALUES} values, its aliases written out")


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

"""Text files from outside: regular files of a bounded size, and JSON and YAML that stay as large as they look."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import yaml

from ifpn.errors import ConfigError

LARGEST = 2**25  # bytes of a file of settings or results
MOST_VALUES = 50_000  # of a YAML file, its aliases written out
DEEPEST = 50
LONGEST_NUMBER = 1000  # digits


def read_bytes(path: Path, most: int = LARGEST) -> bytes:
    """Read a file whole, and never wait for one.

    Raises:
        OSError: it cannot be read, is a pipe or a device, or is larger than `most` bytes.
    """
    # Opening a pipe would wait for somebody who writes.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EINVAL, f"it is larger than {most} bytes", str(path))
    return content


def read_json(path: Path) -> Any:
    """Read a small JSON file.

    Raises:
        ConfigError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {_reason(error)}.") from error


def read_yaml(path: Path) -> Any:
    """Read a small YAML file into plain values.

    Raises:
        ConfigError: it cannot be read, is no YAML, or becomes too large or too deep.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {_reason(error)}.") from error
    check_yaml(text, path)
    return yaml.safe_load(text)


def check_yaml(text: str, where: object) -> None:
    """Check the text of a YAML file before it is read.

    Args:
        text: its content.
        where: its name, for messages.

    Raises:
        ConfigError: it is no YAML, or becomes too large or too deep.
    """
    try:
        _count_nodes(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{where} cannot be read as a configuration: {_reason(error)}.") from error


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


def _reason(error: BaseException) -> str:
    return (error.strerror or "") if isinstance(error, OSError) else " ".join(str(error).split())[:300]

"""`name=value` arguments of a report, checked: the same manner of speaking as `train.py`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from ifpn.errors import ConfigError


def read_settings(arguments: Sequence[str], defaults: Mapping[str, str | None], command: str) -> dict[str, str]:
    """Values by name, defaults filled in; a default of None must be given.

    Raises:
        ConfigError: an argument that is not name=value, an unknown name, a missing value.
    """
    values = {name: value for name, value in defaults.items() if value is not None}
    for text in arguments:
        name, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"{text!r} is not of the form name=value; {command} takes {', '.join(defaults)}.")
        if name not in defaults:
            close = difflib.get_close_matches(name, list(defaults), n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{name} does not exist. {command} takes {', '.join(defaults)}.{hint}")
        values[name] = value
    missing = [name for name in defaults if name not in values]
    if missing:
        raise ConfigError(f"{missing[0]} has no value: {command} {' '.join(f'{m}=…' for m in missing)}.")
    return values


def whole_number(values: Mapping[str, str], name: str, low: int, high: int) -> int:
    """The value as a whole number. Raises ConfigError outside low..high."""
    text = values[name]
    if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
        raise ConfigError(f"{name}={text} is not allowed: it must be a whole number from {low} to {high}.")
    return int(text)


def whole_numbers(values: Mapping[str, str], name: str, low: int, high: int) -> list[int]:
    """A comma-separated list, each from low to high, increasing."""
    numbers = [whole_number({name: text.strip()}, name, low, high) for text in values[name].split(",")]
    if numbers != sorted(set(numbers)):
        raise ConfigError(f"{name}={values[name]} is not allowed: the numbers must increase.")
    return numbers


def files(values: Mapping[str, str], name: str) -> list[str]:
    """A comma-separated list of files. Names may hold commas, as the folders of a sweep do: `row=fast,seed=0`."""
    found, begun = [], ""
    for piece in values[name].split(","):
        begun = f"{begun},{piece}" if begun else piece
        if Path(begun).expanduser().is_file():
            found.append(begun)
            begun = ""
    return [*found, begun] if begun else found  # who reads it says that it is missing

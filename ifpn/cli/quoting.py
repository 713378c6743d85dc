"""Paths on the command line as people write them: `~`, spaces, brackets and commas mean themselves."""

from __future__ import annotations

import re
from pathlib import Path

from ifpn.config.paths import CONF
from ifpn.errors import ConfigError

# Settings that hold a path. Hydra's grammar would read `~`, `(`, `,` or a space in them as syntax.
PATHS = frozenset(
    {"ckpt", "init", "source", "predictions", "runs", "run_dir", "backbone.weights", "data.root"}
    | {f"data.{split}_{what}" for split in ("train", "val") for what in ("annotations", "images")}
)
# What Hydra would read as a number or a switch: folders are called 2024, 1e3 or on, too.
_NUMBER_OR_SWITCH = re.compile(r"[+-]?[\d_.]+(e[+-]?\d+)?|[+-]?(inf|nan)|true|false", re.IGNORECASE)
# Lists of a sweep that Hydra must read itself: its functions, and what is quoted already.
_SWEPT = re.compile(r"(choice|range|glob|sort|shuffle|tag)\(|.*['\"]", re.DOTALL)
_PLAIN = re.compile(r"[\w./+@%-]*")


def quote_paths(arguments: list[str]) -> list[str]:
    """`key=path` becomes `key="path"` with `~` expanded, where Hydra could not read the path as it stands.

    Values that are already quoted, and interpolations (`${…}`), are left alone. In a sweep (-m, or an experiment which
    is one) a comma separates paths, unless the whole is a path that is there.
    """
    sweep = _sweeps(arguments)
    return [_each_quoted(a) if sweep else _quoted(a) for a in arguments]


def _sweeps(arguments: list[str]) -> bool:
    """Whether Hydra will run several jobs."""
    settings = dict(a.partition("=")[::2] for a in arguments)
    mode = settings.get("hydra.mode")
    if mode is not None or not {"-m", "--multirun"}.isdisjoint(arguments):
        return mode != "RUN"
    experiment = CONF / "experiment" / f"{settings.get('experiment', '')}.yaml"
    return experiment.is_file() and "mode: MULTIRUN" in experiment.read_text(encoding="utf-8")


def _each_quoted(argument: str) -> str:
    key, _, value = argument.partition("=")
    if key.lstrip("+") not in PATHS or _SWEPT.match(value):
        return argument
    if Path(value).expanduser().exists():
        return _quoted(argument)
    return f"{key}=" + ",".join(_quoted(f"{key}={part}").partition("=")[2] for part in value.split(","))


def _quoted(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in PATHS or value.startswith(("'", '"', "${")):
        return argument
    if value.startswith("~"):
        value = str(Path(value).expanduser())
    # ASCII words, dots and slashes need no quotes; `null` must stay a word, and a name like 2024 must not be a number.
    if _PLAIN.fullmatch(value) and value.isascii() and not _NUMBER_OR_SWITCH.fullmatch(value):
        return f"{key}={value}"
    # In Hydra's quoted strings a backslash escapes only quotes, and those before the closing quote.
    value = re.sub(r'(\\*)"', r'\1\1\\"', value)
    value = re.sub(r"(\\+)$", r"\1\1", value)
    # An interpolation inside quotes would still be one.
    value = value.replace("${", r"\${")
    return f'{key}="{value}"'


def expand_seeds(arguments: list[str]) -> list[str]:
    """`seeds=3` of a sweep becomes `seed=0,1,2`.

    Raises:
        ConfigError: `seeds` without a whole number from 1 to 1000, beside `seed`, or without `-m`.
    """
    given = [a for a in arguments if a.startswith("seeds=")]
    if not given:
        return arguments
    number = given[-1].partition("=")[2]
    if not (number.isascii() and number.isdigit() and 1 <= int(number) <= 1000):
        raise ConfigError(f"seeds={number}: must be a whole number from 1 to 1000, the number of seeds of a sweep.")
    if any(a.startswith("seed=") for a in arguments):
        raise ConfigError(f"seeds={number}: cannot stand beside seed=…; seeds=3 is seed=0,1,2.")
    if not _sweeps(arguments):
        raise ConfigError(f"seeds={number}: is of a sweep: add -m, or give one seed=…")
    numbers = ",".join(map(str, range(int(number))))
    return [*(a for a in arguments if not a.startswith("seeds=")), f"seed={numbers}"]

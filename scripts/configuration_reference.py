"""The configuration reference of the documentation, from conf/: every setting, default, allowed values and comment.

The comments of the YAML files are the text, so that a number and its source stand in one place. What is allowed is read
from the signature of the class that a `_target_` names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import yaml

from ifpn.bounds import describe, hints
from ifpn.config.foreign import SETTINGS, foreign_signature
from ifpn.config.paths import CONF

COMMANDS = ("train", "evaluate", "predict", "report")
HIDDEN = ("defaults", "hydra", "_target_", "_partial_")
INTRODUCTION = """# Configuration

Every setting of [`conf/`](../conf), with its default. A setting is given on the command line as `path=value`, an option
as `group=option`: `ifpn train neck=mdeq neck.dropout=0`. The last column is the comment of the YAML file: where a value
comes from, in the paper (Wang, Zhang, Sun 2020) or elsewhere; *ours* means that the paper is silent, and
[deviations](deviations.md) says why this value. `ifpn train --cfg job` prints the configuration of a command.
"""


@dataclass(frozen=True)
class Setting:
    """A value of a configuration file.

    Attributes:
        path: As typed on the command line.
        default: As written in the file.
        comment: What the file says about it.
        target: The `_target_` it is an argument of, or None.
    """

    path: str
    default: str
    comment: str
    target: str | None

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition(".")[2]


def build_page() -> str:
    """Return the whole page as Markdown."""
    parts = [INTRODUCTION]
    for command in COMMANDS:
        path = CONF / f"{command}.yaml"
        parts += [f"## ifpn {command}", *_option(path, "")]
    for group in sorted(path for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"):
        parts += [f"## {group.name}"]
        for path in sorted(group.rglob("*.yaml")):
            parts += [f"### {group.name}={path.relative_to(group).with_suffix('')}", *_option(path, group.name)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _option(path: Path, package: str) -> Iterator[str]:
    """Markdown of one file: its head comment, its class, what it starts from, and the table of its settings."""
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text) or {}
    help_text = content.get("hydra", {}).get("help", {}).get("template", "")
    yield help_text.partition("\n\n")[0] or " ".join(_head(text))
    if "_target_" in content:
        yield f"Class: `{content['_target_']}`"
    bases = [base for base in content.get("defaults", []) if isinstance(base, str) and base != "_self_"]
    if bases:
        yield "Starts from: " + ", ".join(f"`{base.partition('@')[0]}`" for base in bases)
    if package == "" and content.get("defaults"):
        groups = [next(iter(g.items())) for g in content["defaults"] if isinstance(g, dict)]
        chosen = [f"`{k}={'null' if v is None else v}`" for k, v in groups if not k.startswith("override")]
        yield "Groups, with the option that is chosen if none is given: " + ", ".join(chosen) if chosen else ""
    found = settings(path, "" if "@package _global_" in text else package)
    if found:
        rows = [f"| `{s.path}` | {_code(s.default)} | {_cell(allowed(s))} | {_cell(s.comment)} |" for s in found]
        yield "\n".join(["| setting | default | allowed | meaning and source |", "|---|---|---|---|", *rows])


def settings(path: Path, package: str) -> list[Setting]:
    """Read the settings of a configuration file.

    Args:
        path: A YAML file.
        package: Where Hydra puts its content: the group's name, or "" for the top level.

    Returns:
        One entry per value, in the order of the file. Hydra's own part and `_target_` are left out.
    """
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text)
    return list(_walk(root, package, text.splitlines())) if isinstance(root, yaml.MappingNode) else []


def _walk(node: yaml.MappingNode, path: str, lines: list[str]) -> Iterator[Setting]:
    target = next((value.value for key, value in node.value if key.value == "_target_"), None)
    for key, value in node.value:
        if key.value in HIDDEN:
            continue
        below = f"{path}.{key.value}".lstrip(".")
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _walk(value, below, lines)
            continue
        if isinstance(value, yaml.SequenceNode) and any(isinstance(v, yaml.MappingNode) for v in value.value):
            for i, item in enumerate(value.value):
                yield from _walk(item, f"{below}[{i}]", lines)
            continue
        block = isinstance(value, yaml.SequenceNode) and not value.flow_style
        default = ", ".join(v.value for v in value.value) if block else _source(value, lines)
        yield Setting(below, f"[{default}]" if block else default, _comment(key, value, lines), target)


def _source(node: yaml.Node, lines: list[str]) -> str:
    """A value as it is written."""
    start, end = node.start_mark, node.end_mark
    return lines[start.line][start.column : end.column if end.line == start.line else None].strip()


def _comment(key: yaml.Node, value: yaml.Node, lines: list[str]) -> str:
    """The comment behind a value, lines that continue it, and a comment above its key."""
    line = min(value.end_mark.line, len(lines) - 1) if isinstance(value, yaml.ScalarNode) else key.start_mark.line
    behind = re.search(r"(?:^|\s)#\s?(.*)$", _after(value, lines, line))
    words = [behind.group(1)] if behind else []
    column = lines[line].find("#", value.end_mark.column if value.end_mark.line == line else 0)
    for following in lines[line + 1 :] if behind else []:
        if not following.strip().startswith("#") or following.find("#") < max(column - 1, 1):
            break
        words.append(following.strip().lstrip("# "))
    above: list[str] = []
    for before in reversed(lines[: key.start_mark.line]):
        if (
            not before.strip().startswith("#")
            or before.find("#") != key.start_mark.column
            or key.start_mark.column == 0
        ):
            break
        above.insert(0, before.strip().lstrip("# "))
    return " ".join(above + words).strip()


def _after(value: yaml.Node, lines: list[str], line: int) -> str:
    mark = value.end_mark
    return lines[line][mark.column :] if mark.line == line else lines[line].partition(":")[2]


def _head(text: str) -> Iterator[str]:
    """The comment at the top of a file."""
    for line in text.splitlines():
        if not line.startswith("#"):
            return
        if not line.startswith("# @package"):
            yield line.lstrip("# ")


def allowed(setting: Setting) -> str:
    """Say which values a setting takes, in the words of its refusal; "" where it is not known."""
    if setting.target is None:
        return describe(SETTINGS[setting.path]) if setting.path in SETTINGS else ""
    if not setting.target.startswith("ifpn."):
        found = foreign_signature(setting.target)
    else:
        module, _, name = setting.target.rpartition(".")
        try:
            found = hints(getattr(import_module(module), name))
        except NameError:  # a name that is imported for type checkers only
            return ""
    return describe(found[setting.name]) if setting.name in found else ""


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")

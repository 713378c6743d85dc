"""The documentation: pages and links without building the site, the configuration reference, the private interfaces."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml
from mkdocs.exceptions import PluginError

from ifpn.config.paths import CONF
from scripts.configuration_reference import Setting, allowed, build_page, settings
from scripts.docs_site import API, COPIES, localise
from tests.conftest import ROOT

OWN = {"ifpn", "tests", "reproduce", "benchmarks", "scripts", "hydra_plugins"}
GENERATED = {*COPIES, "configuration.md", "api/ifpn.md", *(f"api/{room}.md" for room in API)}
PAGES = {path.name for path in (ROOT / "docs").glob("*.md")}


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"[\w/]+\.md", str(site["nav"]))
    assert sorted(listed) == sorted(PAGES | GENERATED)


@pytest.mark.parametrize("source", [*(f"docs/{page}" for page in sorted(PAGES)), *COPIES.values()])
def test_links_lead_to_pages_and_pictures(source: str) -> None:
    text = localise((ROOT / source).read_text(), str(Path(source).parent))
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    local = [target for target in targets if not target.startswith(("http", "mailto"))]
    assert [t for t in local if t not in PAGES | GENERATED and not (ROOT / "docs" / t).is_file()] == []


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_work_in_the_repository_too(page: str) -> None:
    """Most readers see these pages there, where no page is generated."""
    text = re.sub(r"```.*?```", "", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    assert [t for t in targets if not t.startswith(("http", "mailto")) and not (ROOT / "docs" / t).exists()] == []


def test_links_to_other_files_become_their_names() -> None:
    assert localise("[rows](../conf/row), [`train.py`](../train.py)", "docs") == "rows (`conf/row`), `train.py`"
    assert localise("[a](docs/data.md#b) ![c](docs/images/d.png)", "") == "[a](data.md#b) ![c](images/d.png)"
    assert localise("[help](CONTRIBUTING.md)", "") == "[help](contributing.md)"
    assert localise("[![Python](https://x/y.svg)](pyproject.toml) ![a](docs/images/d.png)", "") == (
        "![Python](https://x/y.svg) ![a](images/d.png)"
    )
    with pytest.raises(PluginError, match="leads to nowhere"):
        localise("[gone](../nowhere.py)", "docs")


@pytest.mark.slow
def test_the_reference_has_every_setting_with_default_and_source() -> None:
    page = build_page()
    for path in CONF.rglob("*.yaml"):
        if "hydra" not in path.parts:
            group = path.relative_to(CONF).parts[0] if path.parent != CONF else ""
            assert f"### {group}={path.relative_to(CONF / group).with_suffix('')}\n" in page or not group
    assert "| `solver.backward.max_vjps` | `15` | a whole number from 1 to 1000 | paper Sec. 4.2" in page
    assert "| `csc.ibn` | `false` | true or false | paper Sec. 3.2.2: integrated BN" in page
    assert "._target_`" not in page


def test_comments_stand_behind_above_and_on_following_lines(tmp_path: Path) -> None:
    (tmp_path / "option.yaml").write_text(
        "# Head.\na: 1   # one\n       # and more\n# not of b\nb:\n  # above\n  c: [x, y]  # list\n  d: 'p # q'\n"
        "e:   # of a mapping\n  _target_: ifpn.csc.PyramidConv\n  share: true\n"
    )
    found = settings(tmp_path / "option.yaml", "csc")
    assert found == [
        Setting("csc.a", "1", "one and more", None),
        Setting("csc.b.c", "[x, y]", "above list", None),
        Setting("csc.b.d", "'p # q'", "", None),
        Setting("csc.e.share", "true", "", "ifpn.csc.PyramidConv"),
    ]
    assert allowed(found[-1]) == "true or false"


def private_names(path: Path) -> set[str]:
    """Names with a leading underscore that a file takes from another library's modules or objects."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    words: list[str] = []
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in OWN:
            words += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            words += [part for alias in node.names for part in alias.name.split(".")]
    mine = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    attributes = [n for n in nodes if isinstance(n, ast.Attribute)]
    own = {n.attr for n in attributes if isinstance(n.value, ast.Name) and n.value.id in ("self", "cls")} | mine
    words += [n.attr for n in attributes if n.attr not in own]
    return {word for word in words if word.startswith("_") and not word.startswith("__")} - {"_target_", "_partial_"}


def test_private_interfaces_are_listed_for_those_who_upgrade() -> None:
    files = [path for room in ("ifpn", "hydra_plugins", "reproduce") for path in (ROOT / room).rglob("*.py")]
    used = {name: path.name for path in files for name in private_names(path)}
    assert {"_FitLoop", "_signal_connector", "_internal"} <= set(used)
    listed = (ROOT / "CONTRIBUTING.md").read_text()
    assert {name: file for name, file in used.items() if name not in listed} == {}


def test_every_door_of_the_threat_model_names_a_test_that_exists() -> None:
    text = (ROOT / "SECURITY.md").read_text()
    doors = [line for line in text.splitlines() if line.startswith("| ") and "door" not in line]
    guards = [re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", door) for door in doors]
    assert len(doors) > 12
    assert [door for door, named in zip(doors, guards, strict=True) if not named] == []
    for file, name in (guard for named in guards for guard in named):
        assert f"\ndef {name}(" in (ROOT / file).read_text(), name

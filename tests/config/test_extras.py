"""Options that need an extra package name it when it is missing."""

from __future__ import annotations

import tomllib

import pytest

from ifpn.config import extras
from ifpn.errors import ConfigError
from tests.conftest import ROOT


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    extras.check_extras({"logger": "tensorboard"})
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    extras.check_extras({"logger": "csv"})
    with pytest.raises(ConfigError, match=r"logger=tensorboard: .* pip install 'ifpn\[tensorboard\]'"):
        extras.check_extras({"logger": "tensorboard"})


def test_every_extra_exists() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(extras.EXTRAS.values()) <= set(project["optional-dependencies"])

"""A user's own part of a detector, from the command line to a checkpoint that is opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ifpn.config.allowlist import check_targets
from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.config.stored import rebuild_detector
from ifpn.errors import ConfigError

MINE = """
import os
from ifpn.necks import FPN

class MyFPN(FPN):
    pass

def run(command):
    os.system(command)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_a_user.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))


def configuration() -> dict[str, Any]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(
            "train",
            overrides=[
                *("backbone=resnet18", "backbone.weights=none", "detector=fcos", "run_dir=x"),
                *("neck=fpn", "neck._target_=mine_of_a_user.MyFPN", "neck.out_channels=16"),
            ],
        )
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.usefixtures("package")
def test_an_own_neck_is_built_and_its_checkpoint_opened_where_its_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = configuration()
    monkeypatch.setenv("IFPN_PACKAGES", "another, mine_of_a_user.")
    check_targets(stored)
    built = build_detector(OmegaConf.create(stored), 3)
    again = rebuild_detector(stored, 3, built.state_dict())
    assert type(again.body.neck).__name__ == "MyFPN"  # type: ignore[union-attr]
    stored["neck"]["_target_"] = "mine_of_a_user.os.system"  # reached through the package, not defined there
    with pytest.raises(ConfigError, match="is not allowed"):
        check_targets(stored)
    monkeypatch.delenv("IFPN_PACKAGES")
    with pytest.raises(ConfigError, match="IFPN_PACKAGES=mypackage"):
        check_targets(configuration())
    with pytest.raises(ConfigError, match="IFPN_PACKAGES=mypackage"):
        rebuild_detector(configuration(), 3, built.state_dict())


@pytest.mark.usefixtures("package")
def test_a_checkpoint_may_not_call_what_an_own_package_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFPN_PACKAGES", "mine_of_a_user")
    stored = configuration()
    stored["neck"]["_target_"] = "mine_of_a_user.run"
    with pytest.raises(ConfigError, match="it is not public"):
        rebuild_detector(stored, 3, {})


@pytest.mark.parametrize("value", ["my package", "a/b", "pack.age.2"])
def test_what_is_no_package_is_named(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IFPN_PACKAGES", value)
    with pytest.raises(ConfigError, match="must be the name of a Python package"):
        check_targets({})

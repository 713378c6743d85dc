"""A configuration as the command line composes it, without starting a command."""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from ifpn.config.paths import CONF


def unresolved(
    *typed: str, config_name: str = "train", run_dir: str = "unused"
) -> tuple[DictConfig, dict[str, str | None]]:
    """(the configuration with its interpolations, the option chosen of each group)."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(config_name, overrides=list(typed), return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    # Some settings are named after the job, which only Hydra's own configuration knows.
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    if "run_dir" in cfg:
        cfg.run_dir = run_dir
    OmegaConf.set_struct(cfg, False)
    return cfg, choices


def resolved(cfg: DictConfig) -> DictConfig:
    made = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False))
    assert isinstance(made, DictConfig)
    return made


def with_choices(
    *typed: str, config_name: str = "train", run_dir: str = "unused"
) -> tuple[DictConfig, dict[str, str | None]]:
    """(the resolved configuration, the option chosen of each group)."""
    cfg, choices = unresolved(*typed, config_name=config_name, run_dir=run_dir)
    return resolved(cfg), choices


def composed(*typed: str, config_name: str = "train", run_dir: str = "unused") -> DictConfig:
    return with_choices(*typed, config_name=config_name, run_dir=run_dir)[0]


@cache
def option_nodes(groups: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """{"neck=fpn": its node, ...} of every option of these groups, interpolations left."""
    found = {}
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for option in (f"{group}={path.stem}" for group in groups for path in sorted((CONF / group).glob("*.yaml"))):
            node = OmegaConf.to_container(compose(overrides=[f"+{option}"]))
            assert isinstance(node, dict)
            found[option] = node[option.partition("=")[0]]
    return found

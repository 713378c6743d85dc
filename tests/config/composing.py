"""A configuration as the command line composes it, without starting a command."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from ifpn.config.paths import CONF


def with_choices(
    *typed: str, config_name: str = "train", run_dir: str = "unused"
) -> tuple[DictConfig, dict[str, str | None]]:
    """(the resolved configuration, the option chosen of each group)."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(config_name, overrides=list(typed), return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    # Some settings are named after the job, which only Hydra's own configuration knows.
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.run_dir = run_dir
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False))
    assert isinstance(resolved, DictConfig)
    return resolved, choices


def composed(*typed: str, config_name: str = "train", run_dir: str = "unused") -> DictConfig:
    return with_choices(*typed, config_name=config_name, run_dir=run_dir)[0]

"""A job of a sweep, seen from outside: a Hydra command that leaves config.yaml and result.json in its folder."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ifpn.errors import ConfigError, UserError
from ifpn.runs.identity import config_hash


@hydra.main(version_base="1.3", config_path="conf", config_name="app")
def main(cfg: DictConfig) -> None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    OmegaConf.save(cfg, folder / "config.yaml")
    with open(folder / "calls.txt", "a") as file:
        ranks = sorted(name for name in os.environ if name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR"))
        file.write(f"pid={os.getpid()} ckpt={cfg.ckpt} ranks={ranks}\n")
    if cfg.name == "bad" and not Path(cfg.repaired).exists():
        raise ConfigError("this one fails")
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    result = {
        "complete": True,
        "config_hash": config_hash({str(k): v for k, v in config.items()}),
        "summary": {"AP": 0.5},
    }
    (folder / "result.json").write_text(json.dumps(result))


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)

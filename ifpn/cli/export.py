"""`ifpn export`: a trained detector as a file for other runtimes."""

from __future__ import annotations

import json
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from ifpn.errors import ConfigError
from ifpn.export import SUFFIXES, check_whole
from ifpn.predictor import load
from ifpn.runs.hub import Address, on_hub


def export(cfg: DictConfig) -> Path:
    """Write `cfg.ckpt` in `cfg.format`, and say what the file holds.

    Raises:
        ConfigError: what cannot be exported, or a setting that cannot be meant.
    """
    console = Console(highlight=False)
    if cfg.format not in SUFFIXES:
        raise ConfigError(f"format={cfg.format}: must be one of {', '.join(SUFFIXES)}.")
    limits = {"batch": 64, "size": 4096, "test_evals": 100, "height": 4096, "width": 4096}
    for name, high in limits.items():
        check_whole(name, cfg[name], high, optional=name != "batch")
    if not isinstance(cfg.dynamic, bool):
        raise ConfigError(f"dynamic={cfg.dynamic}: must be true or false.")
    predictor = load(cfg.ckpt, "cpu", size=cfg.size)
    stem = Address.parse(cfg.ckpt, "ckpt").name if on_hub(cfg.ckpt) else str(Path(cfg.ckpt).with_suffix(""))
    path = Path(cfg.out or f"{stem}{SUFFIXES[cfg.format]}")
    recorded = {"height": cfg.height, "width": cfg.width, "batch": cfg.batch, "dynamic": cfg.dynamic}
    metadata = predictor.export(path, form=cfg.format, test_evals=cfg.test_evals, **recorded)
    evals, (batch, _, height, width) = json.loads(metadata["evals"]), json.loads(metadata["size"])["recorded"]
    console.print(f"[bold]file[/]     {path}, {path.stat().st_size / 2**20:.1f} MiB", soft_wrap=True)
    sizes = "any size and batch" if cfg.dynamic else f"{batch} x 3 x {height} x {width} only"
    console.print(f"[bold]input[/]    {metadata['input']}: {sizes}", soft_wrap=True)
    console.print(
        "[bold]output[/]   boxes (batch, D, 4) x1 y1 x2 y2 in pixels, scores, labels (batch, D), count (batch)"
    )
    console.print(f"[bold]G[/]        {evals} applications" if evals else "[bold]neck[/]     explicit", soft_wrap=True)
    console.print(f"[bold]next[/]     ifpn predict ckpt={path} source=photos/", soft_wrap=True)
    return path

"""`ifpn export`: a trained detector as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from ifpn.errors import ConfigError
from ifpn.export.write import SUFFIXES, applications, check_exportable
from ifpn.export.write import export as write
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
    for name, value, high in (("batch", cfg.batch, 64), ("size", cfg.size, 4096), ("test_evals", cfg.test_evals, 100)):
        optional = value is None and name != "batch"
        if not optional and (isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= high):
            raise ConfigError(f"{name}={value}: must be a whole number from 1 to {high}.")
    predictor = load(cfg.ckpt, "cpu", size=cfg.size)
    check_exportable(predictor.detector, cfg.format, cfg.dynamic)
    transform: Any = predictor.detector.transform
    if cfg.size is not None:  # the graph resizes to it, as `load(size=…)` does
        longest = max(cfg.size, round(transform.max_size * cfg.size / max(transform.min_size)))
        transform.min_size, transform.max_size = (cfg.size,), longest
    evals = applications(predictor.detector, cfg.test_evals)
    side = transform.min_size[-1]
    height, width = (cfg.height or side), (cfg.width or side * 4 // 3)
    stem = Address.parse(cfg.ckpt, "ckpt").name if on_hub(cfg.ckpt) else str(Path(cfg.ckpt).with_suffix(""))
    path = Path(cfg.out or f"{stem}{SUFFIXES[cfg.format]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {"form": cfg.format, "evals": evals, "height": height, "width": width}
    facts = {"class_names": predictor.class_names, "category_ids": predictor.category_ids}
    facts |= {"score_threshold": predictor.score_threshold, "data": predictor.config.get("data")}
    metadata = write(predictor.detector, facts, path, **kind, batch=cfg.batch, dynamic=cfg.dynamic)
    console.print(f"[bold]file[/]     {path}, {path.stat().st_size / 2**20:.1f} MiB", soft_wrap=True)
    sizes = "any size and batch" if cfg.dynamic else f"{cfg.batch} x 3 x {height} x {width} only"
    console.print(f"[bold]input[/]    {metadata['input']}: {sizes}", soft_wrap=True)
    console.print(
        "[bold]output[/]   boxes (batch, D, 4) x1 y1 x2 y2 in pixels, scores, labels (batch, D), count (batch)"
    )
    console.print(f"[bold]G[/]        {evals} applications" if evals else "[bold]neck[/]     explicit", soft_wrap=True)
    console.print(f"[bold]next[/]     ifpn predict ckpt={path} source=photos/", soft_wrap=True)
    return path

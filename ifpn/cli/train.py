"""`python train.py`: from a checked configuration to a finished run folder."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Checkpoint
from rich.console import Console
from rich.table import Table
from torch import nn

from ifpn.cli.command import choices, typed
from ifpn.config.build import build_detector, build_list, build_part
from ifpn.config.checks import check_buildable
from ifpn.data import DetectionData
from ifpn.errors import ConfigError
from ifpn.evaluation import CocoEvaluator
from ifpn.runs.checkpoint import FORMAT, SafeCheckpointIO, latest_readable, read_checkpoint
from ifpn.runs.files import refuse_links, write_error, write_text
from ifpn.runs.folder import (
    BATCH,
    BEST,
    CONFIG,
    CONFUSION,
    CONVERGENCE,
    CURVES,
    EXPORT,
    LAST,
    METRICS,
    OPERATING,
    RESULT,
    SAMPLES,
    WRITTEN_IN_PLACE,
)
from ifpn.training.callbacks.nonfinite import NonFinite
from ifpn.training.loggers import keep_rows
from ifpn.training.loops import install_loops
from ifpn.training.module import DetectionModule
from ifpn.training.randomness import derive_seed
from ifpn.training.recipe import Plan, Recipe

Build = Callable[[DictConfig, int], nn.Module]


def train(cfg: DictConfig, build: Build = build_detector) -> dict[str, float]:
    """Build, train, evaluate, report. Returns the 12 COCO numbers of the last validation.

    build: (configuration, number of classes) -> detector; another one trains a foreign detector under our conditions.
    """
    silence_known_warnings()
    if build is build_detector:
        check_buildable(cfg)
    console = Console(highlight=False)
    run_dir = Path(cfg.run_dir)
    ckpt = resume_path(cfg)
    check_run_dir(run_dir, resuming=cfg.ckpt == "last" or (ckpt is not None and ckpt.parent == run_dir.resolve()))
    data: DetectionData = build_part(cfg.data, "data")
    trainer = build_trainer(cfg, run_dir)
    recipe: Recipe = build_part(cfg.schedule, "schedule")
    data.prepare_data()
    data.setup("fit")
    world_size, accumulate = trainer.world_size, trainer.accumulate_grad_batches
    plan = recipe.plan(data.batch_size, world_size, accumulate, data.batches_per_epoch(world_size))
    guard = next((c for c in trainer.callbacks if isinstance(c, NonFinite)), None)  # type: ignore[attr-defined]
    module = build_module(cfg, build, data, recipe, plan, guard)
    data.position = lambda: module.batches_seen
    # Known only now: the number of steps depends on the devices that the trainer found.
    install_loops(trainer, plan.max_steps)
    if trainer.is_global_zero:
        print_header(console, cfg, data, module, run_dir)
        prepare_run_dir(console, cfg, run_dir, ckpt)
    trainer.fit(module, datamodule=data, ckpt_path=str(ckpt) if ckpt else None, weights_only=True)
    summary = dict(module.scores["summary"]) if module.scores else {}
    if trainer.is_global_zero and trainer.state.finished:
        print_result(console, module, run_dir)
    return summary


def resume_path(cfg: DictConfig) -> Path | None:
    """Where to continue from; refused at once when it cannot be read."""
    if cfg.ckpt is None:
        return None
    if cfg.ckpt == "last":
        # Killed before its first checkpoint: the whole run is still to be done.
        started = (Path(cfg.run_dir) / CONFIG).is_file() and not list(Path(cfg.run_dir).glob("*.ckpt"))
        return None if started else latest_readable(cfg.run_dir)
    read_checkpoint(cfg.ckpt)
    return Path(cfg.ckpt).resolve()


def check_run_dir(run_dir: Path, *, resuming: bool) -> None:
    """Raises ConfigError if a new run would write over an old one, or could not write at all."""
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir):
            pass
    except OSError as error:
        raise write_error(run_dir, error) from error
    refuse_links(run_dir, WRITTEN_IN_PLACE)
    if not resuming and ((run_dir / LAST).exists() or (run_dir / RESULT).exists()):
        raise ConfigError(
            f"run_dir={run_dir} holds a run already: continue it with ckpt=last, or give another run_dir."
        )


def prepare_run_dir(console: Console, cfg: DictConfig, run_dir: Path, ckpt: Path | None) -> None:
    """Leave in the folder what belongs to the run up to `ckpt`, and say where it goes on and with which changes."""
    metrics = run_dir / METRICS
    if ckpt is None or ckpt.resolve().parent != run_dir.resolve():
        metrics.unlink(missing_ok=True)  # of an attempt that was killed before its first checkpoint
    if ckpt is not None:
        checkpoint = read_checkpoint(ckpt)
        if ckpt.resolve().parent == run_dir.resolve():
            keep_rows(metrics, int(checkpoint["ifpn"].get("metrics_rows", 0)))
        console.print(f"[bold]resumed[/]   {ckpt.name}, {checkpoint['global_step']} steps done", soft_wrap=True)
        for change in config_diff(checkpoint["ifpn"]["config"], OmegaConf.to_container(cfg, resolve=True)):
            console.print(f"[bold]changed[/]   {change}", soft_wrap=True)
    write_text(run_dir / CONFIG, OmegaConf.to_yaml(cfg))


def config_diff(before: Any, after: Any, path: str = "") -> list[str]:
    """Values that differ between two configurations: ["schedule.max_epochs: 2 -> 4", ...]."""
    if path in ("run_dir", "ckpt"):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = sorted({*before, *after}, key=str)
        pairs = ((f"{path}.{key}".lstrip("."), before.get(key), after.get(key)) for key in keys)
        return [line for below, old, new in pairs for line in config_diff(old, new, below)]
    return [] if before == after else [f"{path}: {before} -> {after}"]


def build_trainer(cfg: DictConfig, run_dir: Path) -> pl.Trainer:
    """Lightning's Trainer with the schedule's clipping and validation interval, our callbacks and checkpoint files."""
    every = cfg.schedule.val_every
    callbacks = build_list(cfg.callbacks, "callbacks")
    plugins = [build_part(node, "trainer.plugins") for node in cfg.trainer.get("plugins") or []]
    trainer: pl.Trainer = build_part(
        cfg.trainer,
        "trainer",
        default_root_dir=str(run_dir),
        max_epochs=-1,
        gradient_clip_val=cfg.schedule.gradient_clip,
        val_check_interval=None if every is None else every * cfg.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=1 if every is None else None,
        callbacks=callbacks,
        logger=build_list(cfg.logger, "logger"),
        plugins=[SafeCheckpointIO(), *plugins],
        enable_checkpointing=any(isinstance(c, Checkpoint) for c in callbacks),
        # The batch sampler knows its rank and world itself, and every image is validated once.
        use_distributed_sampler=False,
    )
    return trainer


def build_module(
    cfg: DictConfig, build: Build, data: DetectionData, recipe: Recipe, plan: Plan, guard: NonFinite | None
) -> DetectionModule:
    """The detector with weights drawn from the seed alone, and what evaluates and describes it."""
    pl.seed_everything(derive_seed(cfg.seed, 0) % 2**32, verbose=False)
    detector = build(cfg, data.num_classes)
    config = OmegaConf.to_container(cfg, resolve=True)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "config": config,
        "class_names": list(data.class_names),
        "category_ids": list(data.category_ids),
    }
    evaluator = CocoEvaluator(data.val_dataset.annotations, data.category_ids, max_detections=data.max_detections)
    return DetectionModule(detector, recipe, plan, evaluator, metadata, cfg.seed, guard)


def print_header(
    console: Console, cfg: DictConfig, data: DetectionData, module: DetectionModule, run_dir: Path
) -> None:
    trainable = sum(p.numel() for p in module.detector.parameters() if p.requires_grad)
    total = sum(p.numel() for p in module.detector.parameters())
    console.print(f"[bold]data[/]      {data}")
    recipe = choices().get("recipe")
    console.print(
        f"[bold]recipe[/]    {recipe}, shorter side {'/'.join(map(str, cfg.image.min_size))} px, longer at most "
        f"{cfg.image.max_size} px, {cfg.neck.out_channels} channels",
        soft_wrap=True,
    )
    if recipe == "small" and cfg.data.get("generate") and not typed("recipe"):
        console.print("          recipe=quick is enough for the built-in data: half the width.")
    console.print(f"[bold]detector[/]  {total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M trained")
    console.print(f"[bold]schedule[/]  {module.plan.summary}", soft_wrap=True)
    console.print(f"[bold]run[/]       {run_dir}", soft_wrap=True)


def print_result(console: Console, module: DetectionModule, run_dir: Path) -> None:
    if module.result is not None:
        for table in module.result.tables(module.metadata["class_names"]):
            console.print(table)
    files = Table(title=f"In {run_dir}", show_header=False, title_justify="left")
    for name, meaning in {
        SAMPLES: "validation images, truth beside prediction",
        CURVES: "losses, AP, the solver, learning rate",
        CONVERGENCE: "the solver's residual, forward and backward",
        CONFUSION: "which class is taken for which",
        OPERATING: "precision and recall against the score threshold",
        BATCH: "the first training batch, as the network saw it",
        RESULT: "every number of this run",
        BEST: "for evaluate.py and predict.py",
        EXPORT: "the same weights as model.safetensors, for ifpn.load",
    }.items():
        if (run_dir / name).exists():
            files.add_row(name, meaning)
    console.print(files)


def silence_known_warnings() -> None:
    """Silence what libraries say that a user of ours cannot act on."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    for message in QUIET:
        warnings.filterwarnings("ignore", message=message)


QUIET = (
    # The number of loader workers is a setting of ours, chosen with a measurement, not an oversight.
    ".*does not have many workers.*",
    # Frozen parts of a backbone stay in evaluation mode on purpose.
    ".*in eval mode at the start of training.*",
    # Mid-epoch resume is exact here: the batch sampler continues at the saved position.
    ".*your dataloader is not resumable.*",
    # Hydra makes the run folder before Lightning looks; `check_run_dir` has made sure that it holds no other run.
    ".*exists and is not empty.*",
    # uint8 -> float happens in the LightningModule, so that any data module can be used.
    ".*You have overridden `on_after_batch_transfer`.*",
    # Lightning 2.6.6 uses a torch function that torch 2.14 renames.
    ".*isinstance.treespec, LeafSpec.*",
    # Every rank has the same validation numbers already: they come from the gathered detections.
    ".*when logging on epoch level in distributed setting.*",
    # data.val_share=0 asks for no validation.
    ".*Total length of `list` across ranks is zero.*",
    # A short run logs when it ends; nothing is lost.
    ".*is smaller than the logging interval.*",
)

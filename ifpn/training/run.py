"""`python train.py`: from a checked configuration to a finished run folder."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from ifpn.config.build import build_detector, build_list
from ifpn.config.errors import ConfigError
from ifpn.data import DetectionData
from ifpn.evaluation import CocoEvaluator
from ifpn.training.checkpoint import FORMAT, SafeCheckpointIO, newest_valid, read_checkpoint
from ifpn.training.metrics_log import keep_rows_before
from ifpn.training.module import DetectionModule
from ifpn.training.randomness import derive
from ifpn.training.recipe import Plan, Recipe

Build = Callable[[DictConfig, int], nn.Module]


def train(cfg: DictConfig, build: Build = build_detector) -> dict[str, float]:
    """Build, train, evaluate, report. Returns the 12 COCO numbers of the last validation.

    build: (configuration, number of classes) -> detector; another one trains a foreign detector under our conditions.
    """
    quiet()
    console = Console(highlight=False)
    run_dir = Path(cfg.run_dir)
    ckpt = resume_path(cfg)
    check_run_dir(run_dir, resuming=ckpt is not None)
    data: DetectionData = instantiate(cfg.data)
    trainer = build_trainer(cfg, run_dir)
    data.prepare_data()
    data.setup("fit")
    recipe: Recipe = instantiate(cfg.schedule)
    plan = recipe.plan(trainer.world_size, trainer.accumulate_grad_batches, data.batches_per_epoch(trainer.world_size))
    module = build_module(cfg, build, data, recipe, plan)
    data.position = lambda: module.batches_seen
    # Known only now: the number of steps depends on the devices that the trainer found.
    trainer.fit_loop.epoch_loop.max_steps = plan.max_steps
    if trainer.is_global_zero:
        run_dir.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, run_dir / "config.yaml")
        say_header(console, cfg, data, module, run_dir)
    if ckpt is not None and trainer.is_global_zero:
        keep_rows_before(run_dir / "metrics.csv", int(read_checkpoint(ckpt)["global_step"]))
    trainer.fit(module, datamodule=data, ckpt_path=str(ckpt) if ckpt else None, weights_only=True)
    summary = dict(module.result.summary) if module.result else {}
    if trainer.is_global_zero and trainer.state.finished:
        say_result(console, module, run_dir)
    return summary


def resume_path(cfg: DictConfig) -> Path | None:
    """Where to continue from; refused at once when it cannot be read."""
    if cfg.ckpt is None:
        return None
    if cfg.ckpt == "last":
        return newest_valid(cfg.run_dir)
    read_checkpoint(cfg.ckpt)
    return Path(cfg.ckpt)


def check_run_dir(run_dir: Path, *, resuming: bool) -> None:
    """Raises ConfigError if a new run would write over an old one."""
    if not resuming and ((run_dir / "last.ckpt").exists() or (run_dir / "result.json").exists()):
        raise ConfigError(
            f"run_dir={run_dir} holds a run already: continue it with ckpt=last, or give another run_dir."
        )


def build_trainer(cfg: DictConfig, run_dir: Path) -> pl.Trainer:
    """Lightning's Trainer with the schedule's clipping and validation interval, our callbacks and checkpoint files."""
    every = cfg.schedule.val_every
    trainer: pl.Trainer = instantiate(
        cfg.trainer,
        default_root_dir=str(run_dir),
        max_epochs=-1,
        gradient_clip_val=cfg.schedule.gradient_clip,
        val_check_interval=None if every is None else every * cfg.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=1 if every is None else None,
        callbacks=build_list(cfg.callbacks),
        logger=build_list(cfg.logger),
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=True,
        # The batch sampler knows its rank and world itself, and every image is validated once.
        use_distributed_sampler=False,
    )
    return trainer


def build_module(cfg: DictConfig, build: Build, data: DetectionData, recipe: Recipe, plan: Plan) -> DetectionModule:
    """The detector with weights drawn from the seed alone, and what evaluates and describes it."""
    pl.seed_everything(derive(cfg.seed, 0) % 2**32, verbose=False)
    detector = build(cfg, data.num_classes)
    config = OmegaConf.to_container(cfg, resolve=True)
    facts: dict[str, Any] = {
        "format": FORMAT,
        "config": config,
        "class_names": list(data.class_names),
        "category_ids": list(data.category_ids),
    }
    evaluator = CocoEvaluator(data.val_ground_truth(), data.category_ids)
    return DetectionModule(detector, recipe, plan, evaluator, facts, cfg.seed)


def say_header(console: Console, cfg: DictConfig, data: DetectionData, module: DetectionModule, run_dir: Path) -> None:
    trainable = sum(p.numel() for p in module.detector.parameters() if p.requires_grad)
    total = sum(p.numel() for p in module.detector.parameters())
    console.print(f"[bold]data[/]      {data}")
    console.print(f"[bold]detector[/]  {total / 1e6:.2f} M parameters, {trainable / 1e6:.2f} M trained")
    console.print(f"[bold]schedule[/]  {module.plan.words}", soft_wrap=True)
    console.print(f"[bold]run[/]       {run_dir}", soft_wrap=True)


def say_result(console: Console, module: DetectionModule, run_dir: Path) -> None:
    if module.result is not None:
        for table in module.result.tables(module.facts["class_names"]):
            console.print(table)
    files = Table(title=f"In {run_dir}", show_header=False, title_justify="left")
    for name, meaning in {
        "samples.png": "validation images, truth beside prediction",
        "curves.png": "losses, AP, learning rate",
        "convergence.png": "the solver's residual, forward and backward",
        "result.json": "every number of this run",
        "best.ckpt": "for evaluate.py and predict.py",
    }.items():
        if (run_dir / name).exists():
            files.add_row(name, meaning)
    console.print(files)


def quiet() -> None:
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
)

"""`python train.py`: from a checked configuration to a finished run folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import BatchSizeFinder, Callback, Checkpoint, LearningRateFinder
from rich.console import Console
from torch import nn

from ifpn.cli.command import choices
from ifpn.cli.cores import limit_threads
from ifpn.cli.header import config_changes, print_header, print_result, say
from ifpn.cli.warnings import silence_known_warnings
from ifpn.config.build import build_detector, build_list, build_part, without_weights
from ifpn.config.checks import check_buildable
from ifpn.data import DetectionData
from ifpn.errors import ConfigError
from ifpn.evaluation import CocoEvaluator
from ifpn.runs.checkpoint import FORMAT, SafeCheckpointIO
from ifpn.runs.files import write_text
from ifpn.runs.folder import COMPLETE, CONFIG, METRICS, check_run_dir, completion, mark_complete
from ifpn.runs.lock import folder_lock
from ifpn.runs.restore import read_trained
from ifpn.training.callbacks.early_stopping import EarlyStopping
from ifpn.training.loggers import keep_rows
from ifpn.training.loops import install_loops
from ifpn.training.module import DetectionModule
from ifpn.training.randomness import derive_seed
from ifpn.training.recipe import Plan, Recipe
from ifpn.training.start import Start, check_fits, class_layers, find_start, initialise

Build = Callable[[DictConfig, int], nn.Module]


def train(cfg: DictConfig, build: Build = build_detector) -> dict[str, float]:
    """Build, train, evaluate, report.

    Args:
        cfg: the composed, resolved and checked configuration.
        build: (configuration, number of classes) -> detector; another one trains a foreign detector under our
            conditions.

    Returns:
        The 12 COCO numbers of the last validation; empty if there was none.

    Raises:
        UserError: what a user can mend, before data are read where that is possible.
    """
    silence_known_warnings()
    if build is build_detector:
        check_buildable(cfg)
    run_dir = Path(cfg.run_dir)
    trainer = build_trainer(cfg, run_dir)
    limit_threads(trainer.num_devices, cfg.data.get("workers") or 0)
    with folder_lock(run_dir, "run_dir") if trainer.is_global_zero else nullcontext():
        return _train(cfg, build, trainer, run_dir)


def _train(cfg: DictConfig, build: Build, trainer: pl.Trainer, run_dir: Path) -> dict[str, float]:
    console = Console(highlight=False)
    start = find_start(cfg.ckpt, run_dir)
    trained = _weights_to_start_from(cfg, start)
    check_run_dir(run_dir, resuming=start.own)
    data: DetectionData = build_part(cfg.data, "data")
    recipe: Recipe = build_part(cfg.schedule, "schedule")
    data.prepare_data()
    data.setup("fit")
    check_validation(trainer, data)
    world_size, accumulate = trainer.world_size, trainer.accumulate_grad_batches
    plan = recipe.plan(data.batch_size, world_size, accumulate, data.batches_per_epoch(world_size))
    module = build_module(cfg, build, data, recipe, plan)
    check_fits(start, module.detector, recipe.build(module.detector, plan)[0], data.class_names)
    taken = ""
    if trained is not None:
        layers = class_layers(lambda classes: build(without_weights(cfg), classes), module.detector, data.num_classes)
        taken = initialise(module.detector, trained, cfg.init, data.class_names, layers)
    done = nothing_left(cfg, start, plan.max_steps, run_dir)
    if done:
        say(console, "complete", done)
        return dict((start.metadata.get("scores") or {}).get("summary") or {})
    data.position = lambda: module.batches_seen
    # Known only now: the number of steps depends on the devices that the trainer found.
    install_loops(trainer, plan.max_steps)
    if trainer.is_global_zero:
        print_header(console, cfg, data, module, trainer, own=build is build_detector)
        if taken:
            say(console, "init", taken)
        prepare_run_dir(console, cfg, run_dir, start)
    trainer.fit(module, datamodule=data, ckpt_path=str(start.path) if start.path else None, weights_only=True)
    if trainer.is_global_zero and trainer.state.finished:
        if module.complete:
            mark_complete(run_dir, module.metadata["config"], trainer.global_step, module.stopped_early)
        print_result(console, module, run_dir)
    return dict(module.scores["summary"]) if module.scores else {}


def _weights_to_start_from(cfg: DictConfig, start: Start) -> dict[str, Any] | None:
    """What `init=` names; None without it, and where a checkpoint of the run itself holds newer weights."""
    if cfg.init is None:
        return None
    if cfg.ckpt not in (None, "last"):
        raise ConfigError(
            f"init={cfg.init} with ckpt={cfg.ckpt}: must be one of them. ckpt= continues a training exactly, init= "
            "starts one at step 0 from weights alone."
        )
    return None if start.path else read_trained(cfg.init, "init")


def check_validation(trainer: pl.Trainer, data: DetectionData) -> None:
    """Refuse a validation set that cannot do what it is asked for."""
    if data.has_validation:
        check_ranks(trainer.world_size, len(data.val_dataset))
    elif any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        raise ConfigError(
            "callbacks=early_stopping with data.val_share=0: without validation there is nothing to stop at. Hold "
            "images back with data.val_share=0.1, or leave callbacks=early_stopping out."
        )


def check_ranks(ranks: int, images: int) -> None:
    """Refuse more processes than validation images: some would have nothing to evaluate."""
    if images < ranks:
        raise ConfigError(
            f"trainer.devices: {ranks} processes for a validation set of {images} image{'s' if images != 1 else ''}, "
            "must be at most one each. Use fewer devices, or a larger validation set."
        )


def nothing_left(cfg: DictConfig, start: Start, max_steps: int, run_dir: Path) -> str:
    """Say so if `start` is the end of a complete run; empty if there is something left to do.

    Raises:
        ConfigError: it is the end of another run, which has measured these weights already.
    """
    limit = "max_epochs" if cfg.schedule.max_steps is None else "max_steps"
    more = f"For more: schedule.{limit}=… (now {cfg.schedule[limit]})"
    if start.path is not None and not start.own and start.steps >= max_steps:
        raise ConfigError(
            f"ckpt={start.path} has done {start.steps} of the {max_steps} steps of this schedule: no step is left. "
            f"{more}; to start anew from its weights: init={start.path}."
        )
    done = completion(run_dir) if start.own else None
    if done is None:  # or killed before its report was written, which is what is left to do
        return ""
    if done["stopped"]:
        node = (cfg.callbacks or {}).get("early_stopping")
        same = (start.metadata["config"].get("callbacks") or {}).get("early_stopping")
        if node is None or OmegaConf.to_container(node) != same:
            return ""
        return f"{start.steps} steps are done, no step left ({done['stopped']}). For more: ~callbacks.early_stopping"
    return f"{start.steps} of {max_steps} steps are done, no step left. {more}." if start.steps >= max_steps else ""


def prepare_run_dir(console: Console, cfg: DictConfig, run_dir: Path, start: Start) -> None:
    """Leave in the folder what belongs to the run up to `start`, and say where it goes on and with which changes."""
    metrics = run_dir / METRICS
    (run_dir / COMPLETE).unlink(missing_ok=True)
    if not start.own or start.path is None:
        metrics.unlink(missing_ok=True)  # of an attempt that was killed before its first checkpoint
    if start.path is not None:
        if start.own:
            keep_rows(metrics, int(start.metadata.get("metrics_rows", 0)))
        say(console, "resumed", f"{start.path.name}, {start.steps} steps done")
        for change in config_changes(start.metadata["config"], OmegaConf.to_container(cfg, resolve=True)):
            say(console, "changed", change)
    write_text(run_dir / CONFIG, OmegaConf.to_yaml(cfg))


def build_trainer(cfg: DictConfig, run_dir: Path) -> pl.Trainer:
    """Lightning's Trainer with the schedule's clipping and validation interval, our callbacks and checkpoint files."""
    every = cfg.schedule.val_every
    callbacks = build_list(cfg.callbacks, "callbacks")
    check_callbacks(callbacks)
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


def check_callbacks(callbacks: Sequence[Callback]) -> None:
    """Refuse Lightning's callbacks that would change what the schedule and the plan of the run are made from."""
    remedies = {
        LearningRateFinder: "Sweep a few rates instead: python train.py -m schedule.optimizer.lr=0.0002,0.0005,0.001",
        BatchSizeFinder: "Set data.batch_size to what fits, and trainer.accumulate_grad_batches for larger steps",
    }
    for callback in callbacks:
        for kind, remedy in remedies.items():
            if isinstance(callback, kind):
                raise ConfigError(
                    f"callbacks: {type(callback).__name__} is not supported: the length of the run, its learning rates "
                    f"and its batches are planned, and resumed, from the configuration. {remedy}."
                )


def build_module(cfg: DictConfig, build: Build, data: DetectionData, recipe: Recipe, plan: Plan) -> DetectionModule:
    """The detector with weights drawn from the seed alone, and what evaluates and describes it."""
    pl.seed_everything(derive_seed(cfg.seed, 0) % 2**32, verbose=False)
    detector = build(cfg, data.num_classes)
    config = OmegaConf.to_container(cfg, resolve=True)
    metadata: dict[str, Any] = {
        "format": FORMAT,
        "config": config,
        "class_names": list(data.class_names),
        "category_ids": list(data.category_ids),
        "choices": choices(),
    }
    evaluator = CocoEvaluator(data.val_dataset.annotations, data.category_ids, max_detections=data.max_detections)
    return DetectionModule(detector, recipe, plan, evaluator, metadata, cfg.seed)

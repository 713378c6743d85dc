"""`python evaluate.py`: the numbers of a checkpoint, or of anybody's predictions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from ifpn.cli.cores import limit_threads
from ifpn.config.build import build_part
from ifpn.config.stored import check_stored_data
from ifpn.data import ClassMismatch, DetectionData
from ifpn.errors import ConfigError
from ifpn.evaluation import (
    CocoEvaluator,
    CocoResult,
    confusion_matrix,
    match_classes,
    read_predictions,
    submission_name,
    write_predictions,
    write_submission,
)
from ifpn.plots.evaluation import draw_confusion, draw_precision_recall, draw_sizes
from ifpn.predictor import Predictor, load
from ifpn.runs.files import write_json
from ifpn.runs.folder import SCORES
from ifpn.solvers import Equilibrium


def evaluate(cfg: DictConfig) -> CocoResult | None:
    """Score `cfg.ckpt` or `cfg.predictions` on a validation set; print the numbers, write them to `cfg.run_dir`.

    None is returned for a data set without boxes (test-dev): there is nothing to score, only files to write.
    """
    if (cfg.ckpt is None) == (cfg.predictions is None):
        raise ConfigError("give exactly one of ckpt=…/best.ckpt (a detector) and predictions=FILE.json (its boxes).")
    if cfg.submission is not None:
        submission_name(cfg.submission)
    limit_threads()
    console, out = Console(highlight=False), Path(cfg.run_dir)
    out.mkdir(parents=True, exist_ok=True)
    if cfg.predictions is not None:
        if cfg.get("data") is None:
            raise ConfigError("predictions=… needs the data set they belong to: data=coco data.root=FOLDER.")
        data, _ = _data(cfg.data, None)
        evaluator = CocoEvaluator(data.val_dataset.annotations, data.category_ids, max_detections=data.max_detections)
        evaluator.update_records(read_predictions(Path(cfg.predictions), evaluator))
    else:
        predictor = load(cfg.ckpt, cfg.device, size=cfg.size, flip=cfg.flip)
        if cfg.test_evals is not None:
            set_test_evals(predictor, cfg.test_evals)
        data, labels = _data(_asked_or_trained_on(cfg, predictor), predictor)
        evaluator = CocoEvaluator(data.val_dataset.annotations, data.category_ids, max_detections=data.max_detections)
        _detect(predictor, data, evaluator, labels, console)
    _say_what_was_found(evaluator, console)
    write_predictions(evaluator.predictions(), out / "predictions.json")
    if cfg.submission is not None:
        path = write_submission(evaluator.predictions(), out, algorithm=cfg.submission)
        console.print(f"For the evaluation server: {path}", soft_wrap=True)
    if data.val_dataset.annotations.has_boxes:
        result = evaluator.compute()
        _report(result, evaluator, data.class_names, cfg, console)
    else:
        result = None
        console.print(
            f"{data.val_annotation_file} holds no box to be found, so that there are no numbers.", soft_wrap=True
        )
    console.print(f"In {out}: {', '.join(sorted(f.name for f in out.iterdir() if f.is_file()))}", soft_wrap=True)
    return result


def _say_what_was_found(evaluator: CocoEvaluator, console: Console) -> None:
    found = evaluator.predictions()
    images = len({record["image_id"] for record in found})
    console.print(f"{len(found)} predicted boxes, in {images} of {len(evaluator.image_ids)} images", soft_wrap=True)


def _report(
    result: CocoResult, evaluator: CocoEvaluator, class_names: Sequence[str], cfg: DictConfig, console: Console
) -> None:
    """Print the tables; write scores.json and the pictures."""
    out = Path(cfg.run_dir)
    for table in result.tables(class_names):
        console.print(table)
    scores = {"summary": result.summary, "per_class": result.per_class, "per_size": result.per_size}
    scores |= {"ckpt": cfg.ckpt, "predictions": cfg.predictions}
    write_json(out / SCORES, scores)
    draw_precision_recall(result, out / "precision_recall.png")
    draw_sizes(result, out / "sizes.png")
    matrix = confusion_matrix(
        evaluator.ground_truth,
        evaluator.predictions(),
        iou_threshold=cfg.confusion.iou_threshold,
        score_threshold=cfg.confusion.score_threshold,
    )
    draw_confusion(matrix, out / "confusion.png")


def _asked_or_trained_on(cfg: DictConfig, predictor: Predictor) -> DictConfig:
    """The data set that was asked for, or else the one the checkpoint was trained on."""
    if cfg.get("data") is not None:
        return OmegaConf.create({**cfg.data, "batch_size": cfg.batch_size})
    stored = check_stored_data(predictor.config.get("data"))
    return OmegaConf.create({**stored, "batch_size": cfg.batch_size})


def _data(node: DictConfig, predictor: Predictor | None) -> tuple[DetectionData, torch.Tensor]:
    """The validation set, read without the training file, and its label for each label of the detector (K,) int64.

    The classes are the detector's if the file's are among them, by id and name; otherwise the file's own, which the
    detector's must then be among, by name.
    """
    if predictor is not None:
        data: DetectionData = build_part(node, "data")
        data.use_categories(predictor.category_ids, predictor.class_names)
        try:
            data.setup("validate")
            return data, torch.arange(data.num_classes)
        except ClassMismatch:
            pass
    data = build_part(node, "data")
    data.use_validation_categories()
    data.setup("validate")
    return data, match_classes([] if predictor is None else predictor.class_names, data.class_names)


@torch.no_grad()
def _detect(
    predictor: Predictor, data: DetectionData, evaluator: CocoEvaluator, labels: torch.Tensor, console: Console
) -> None:
    for images, targets in track(data.val_dataloader(), "evaluating", console=console, transient=True):
        found = predictor.detect([image.float() / 255 for image in images])
        found = [{**{k: v.cpu() for k, v in d.items()}, "labels": labels[d["labels"].cpu()]} for d in found]
        evaluator.update([int(t["image_id"]) for t in targets], found)


def set_test_evals(predictor: Predictor, evals: int) -> None:
    """Let every equilibrium solve inside the detector use `evals` evaluations per image, no fewer.

    Raises:
        ConfigError: the detector solves nothing, or `evals` is not positive.
    """
    if evals < 1:
        raise ConfigError(f"test_evals={evals} is not allowed: it must be a whole number, 1 or more.")
    changed = False
    for part in predictor.detector.modules():
        solver = getattr(part, "solver", None)
        if isinstance(solver, Equilibrium):
            exact = dataclasses.replace(solver, test_evals=evals, rtol=0.0, test_rtol=None, test_error=None)
            setattr(part, "solver", exact)  # noqa: B010  # Module types loosely
            changed = True
    if not changed:
        raise ConfigError(f"test_evals={evals} has no meaning: this checkpoint's neck solves no fixed point.")

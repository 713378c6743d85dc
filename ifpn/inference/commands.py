"""`python evaluate.py` and `python predict.py`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track

from ifpn.config.errors import ConfigError
from ifpn.config.targets import check_targets
from ifpn.data import DetectionData, ImageFolder
from ifpn.evaluation import (
    CocoEvaluator,
    CocoResult,
    confusion_matrix,
    read_predictions,
    write_predictions,
    write_submission,
)
from ifpn.evaluation.figures import draw_confusion, draw_precision_recall, draw_sizes
from ifpn.inference.predictor import Predictor, load
from ifpn.reports.samples import draw_detections
from ifpn.solvers import Equilibrium


def evaluate(cfg: DictConfig) -> CocoResult:
    """Score `cfg.ckpt` or `cfg.predictions` on a validation set; print the numbers, write them to `cfg.run_dir`."""
    if (cfg.ckpt is None) == (cfg.predictions is None):
        raise ConfigError("give exactly one of ckpt=…/best.ckpt (a detector) and predictions=FILE.json (its boxes).")
    console, out = Console(highlight=False), Path(cfg.run_dir)
    if cfg.predictions is not None:
        data = _data(cfg, None)
        evaluator = CocoEvaluator(data.val_ground_truth(), data.category_ids)
        evaluator.update_records(read_predictions(Path(cfg.predictions), evaluator))
    else:
        predictor = load(cfg.ckpt, cfg.device)
        if cfg.test_evals is not None:
            set_test_evals(predictor, cfg.test_evals)
        data = _data(cfg, predictor.config)
        evaluator = CocoEvaluator(data.val_ground_truth(), data.category_ids)
        labels = match_classes(predictor.class_names, data.class_names)
        _detect(predictor, data, evaluator, labels, console)
    out.mkdir(parents=True, exist_ok=True)
    write_predictions(evaluator.predictions(), out / "predictions.json")
    if cfg.submission is not None:
        path = write_submission(evaluator.predictions(), out, algorithm=cfg.submission)
        console.print(f"For the evaluation server: {path}", soft_wrap=True)
    result = evaluator.compute()
    for table in result.tables(data.class_names):
        console.print(table)
    facts = {"summary": result.summary, "per_class": result.per_class, "per_size": result.per_size}
    facts |= {"ckpt": cfg.ckpt, "predictions": cfg.predictions}
    (out / "result.json").write_text(json.dumps(facts, indent=1) + "\n")
    draw_precision_recall(result, out / "precision_recall.png")
    draw_sizes(result, out / "sizes.png")
    matrix = confusion_matrix(
        evaluator.ground_truth,
        evaluator.predictions(),
        iou_threshold=cfg.confusion.iou_threshold,
        score_threshold=cfg.confusion.score_threshold,
    )
    draw_confusion(matrix, out / "confusion.png")
    console.print(f"In {out}: {', '.join(sorted(f.name for f in out.iterdir() if f.is_file()))}", soft_wrap=True)
    return result


def _data(cfg: DictConfig, trained: dict[str, Any] | None) -> DetectionData:
    """The data set that was asked for, or else the one the checkpoint was trained on."""
    node = cfg.get("data")
    if node is None:
        if trained is None:
            raise ConfigError("predictions=… needs the data set they belong to: data=coco data.root=FOLDER.")
        node = OmegaConf.create({**trained["data"], "batch_size": cfg.schedule.batch_size})
        check_targets(node)
    data: DetectionData = instantiate(node)
    data.prepare_data()
    data.setup("validate")
    return data


@torch.no_grad()
def _detect(
    predictor: Predictor, data: DetectionData, evaluator: CocoEvaluator, labels: torch.Tensor, console: Console
) -> None:
    for images, targets in track(data.val_dataloader(), "evaluating", console=console, transient=True):
        found = predictor.detector([image.to(predictor.device).float() / 255 for image in images])
        found = [{**{k: v.cpu() for k, v in d.items()}, "labels": labels[d["labels"].cpu()]} for d in found]
        evaluator.update([int(t["image_id"]) for t in targets], found)


def match_classes(model: Sequence[str], data: Sequence[str]) -> torch.Tensor:
    """For each label of the model, the label of the data set with the same name: (K,) int64.

    Raises:
        ConfigError: a class of the model is not in the data set.
    """
    unknown = [name for name in model if name not in data]
    if unknown:
        raise ConfigError(
            f"the checkpoint knows classes {unknown} that the data set does not have (it has {list(data)}): "
            "evaluate on a data set with the same class names."
        )
    return torch.tensor([list(data).index(name) for name in model])


def set_test_evals(predictor: Predictor, evals: int) -> None:
    """Let every equilibrium solve inside the detector use `evals` evaluations per image.

    Raises:
        ConfigError: the detector solves nothing, or `evals` is not positive.
    """
    if evals < 1:
        raise ConfigError(f"test_evals={evals} is not allowed: it must be a whole number, 1 or more.")
    changed = False
    for part in predictor.detector.modules():
        solver = getattr(part, "solver", None)
        if isinstance(solver, Equilibrium):
            setattr(part, "solver", dataclasses.replace(solver, test_evals=evals))  # noqa: B010  # Module types loosely
            changed = True
    if not changed:
        raise ConfigError(f"test_evals={evals} has no meaning: this checkpoint's neck solves no fixed point.")


def predict(cfg: DictConfig) -> None:
    """Draw boxes on one image or on each image of a folder, and write them all as one COCO-format JSON."""
    console, out = Console(highlight=False), Path(cfg.run_dir)
    predictor = load(cfg.ckpt, cfg.device)
    folder = ImageFolder(cfg.source)
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    files: list[dict[str, Any]] = []
    for index in track(range(len(folder)), "predicting", console=console, transient=True):
        path, image = folder[index]
        found = predictor(image)
        files.append({"id": index, "file_name": path.name, "height": image.shape[1], "width": image.shape[2]})
        records += coco_records(index, found, predictor.category_ids)
        picture = draw_detections(image, found, predictor.class_names, score_threshold=cfg.score_threshold)
        picture.save(out / f"{path.stem}{'' if path.suffix.lower() == '.jpg' else path.suffix.replace('.', '_')}.jpg")
    names = [{"id": i, "name": n} for i, n in zip(predictor.category_ids, predictor.class_names, strict=True)]
    content = {"images": files, "categories": names, "annotations": records}
    (out / "predictions.json").write_text(json.dumps(content) + "\n")
    drawn = sum(r["score"] >= cfg.score_threshold for r in records)
    console.print(
        f"{len(folder)} images, {drawn} boxes with a score of at least {cfg.score_threshold:g} drawn; "
        f"pictures and predictions.json in {out}",
        soft_wrap=True,
    )


def coco_records(image_id: int, found: dict[str, torch.Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one image as COCO results: official category ids, boxes as x, y, width, height."""
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
        for box, score, label in zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    ]

"""Pictures of a run while it trains: the first batch as the network sees it, and what every validation shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from ifpn.bounds import Count, Ge, Le, Probability, check
from ifpn.evaluation import confusion_matrix
from ifpn.evaluation.operating import operating_points
from ifpn.evaluation.predictions import write_predictions
from ifpn.plots.evaluation import draw_confusion, draw_operating_points, draw_precision_recall
from ifpn.plots.samples import draw_batch, draw_samples
from ifpn.runs.folder import BATCH, CONFUSION, OPERATING, PRECISION_RECALL, PREDICTIONS, SAMPLES
from ifpn.training.loggers import log_pictures
from ifpn.training.module import DetectionModule
from ifpn.training.wandb_media import log_boxes, log_evaluation


@check
class Pictures(Callback):
    """Draws into the run folder and into every logger that shows pictures; the first rank does.

    After the first batch: `train_batch.png`. After every `every`-th validation, and the last: `samples.png`,
    `precision_recall.png`, `operating_points.png`, `confusion.png`. After every validation: `predictions.json`, all
    detections in COCO's format, so that runs can be compared image by image; and the score with the highest F1 becomes
    the detector's threshold in checkpoints and exports.

    Args:
        every: validations from one set of pictures to the next.
        samples: validation images in samples.png, spread evenly over the set.
        score_threshold: of the boxes drawn, and of the confusion matrix.
    """

    def __init__(self, every: Count, samples: Annotated[int, Ge(1), Le(64)], score_threshold: Probability) -> None:
        self.every = every
        self.samples = samples
        self.score_threshold = score_threshold
        self.validations = 0

    def state_dict(self) -> dict[str, Any]:
        """The number of validations so far: a resumed run draws at the same ones."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue counting."""
        self.validations = int(state_dict["validations"])

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Draw the very first batch. The module seeds the step after this: what is drawn here changes no bit."""
        transform = getattr(getattr(pl_module, "detector", None), "transform", None)
        first = trainer.global_step == 0 and batch_idx == 0 and trainer.is_global_zero
        if first and transform is not None and isinstance(pl_module, DetectionModule):
            images, targets = batch
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                copies = [{k: v for k, v in t.items() if k in ("boxes", "labels")} for t in targets]
                padded, resized = transform(list(images), copies)
            mean, std = (
                padded.tensors.new_tensor(v)[:, None, None] for v in (transform.image_mean, transform.image_std)
            )
            path = Path(trainer.default_root_dir) / BATCH
            names = pl_module.metadata["class_names"]
            draw_batch(padded.tensors * std + mean, padded.image_sizes, resized, names, path)
            log_pictures(trainer.loggers, [path], step=0)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw, if it is the turn of this validation or the run is at its end."""
        if trainer.sanity_checking or not isinstance(pl_module, DetectionModule) or pl_module.result is None:
            return
        self.validations += 1
        evaluator = pl_module.evaluator
        points = operating_points(evaluator.ground_truth, evaluator.predictions())
        # On every rank, from the same detections: any of them may write the checkpoint.
        pl_module.metadata["score_threshold"] = points.best
        if not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        write_predictions(evaluator.predictions(), folder / PREDICTIONS)
        if self.validations % self.every and trainer.global_step < pl_module.plan.max_steps:
            return
        draw_precision_recall(pl_module.result, folder / PRECISION_RECALL)
        draw_operating_points(points, folder / OPERATING)
        limits = {"iou_threshold": 0.5, "score_threshold": self.score_threshold}
        matrix = confusion_matrix(evaluator.ground_truth, evaluator.predictions(), **limits)
        draw_confusion(matrix, folder / CONFUSION)
        self._draw_samples(trainer, pl_module, folder / SAMPLES)
        drawn = [folder / name for name in (SAMPLES, PRECISION_RECALL, OPERATING, CONFUSION)]
        log_pictures(trainer.loggers, drawn, step=trainer.global_step)
        log_evaluation(trainer.loggers, pl_module.result, matrix, trainer.global_step)

    def _draw_samples(self, trainer: pl.Trainer, module: DetectionModule, path: Path) -> None:
        dataset = trainer.datamodule.val_dataset  # type: ignore[attr-defined]
        count = min(self.samples, len(dataset))
        items = [dataset[i * len(dataset) // count] for i in range(count)]
        images, truths = [image for image, _ in items], [target for _, target in items]
        was_training = module.detector.training
        module.detector.eval()
        with torch.no_grad():
            found = [_detected(module, image) for image in images]
        module.detector.train(was_training)
        names: Sequence[str] = module.metadata["class_names"]
        draw_samples(images, truths, found, names, path, score_threshold=self.score_threshold)
        log_boxes(trainer.loggers, images, truths, found, names, trainer.global_step)


def _detected(module: DetectionModule, image: Tensor) -> dict[str, Tensor]:
    found: dict[str, Tensor] = module.detector([image.to(module.device).float() / 255])[0]
    return {name: value.cpu() for name, value in found.items()}

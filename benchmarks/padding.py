"""What padding does to AP: each image padded to its own size alone, as evaluation does, and a batch padded together.

    python -m benchmarks.padding runs/a/last.ckpt runs/b/last.ckpt

Images are those that the checkpoint was validated with, in the file's order, eight to a batch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch
from omegaconf import OmegaConf

import ifpn
from ifpn.config.build import build_part
from ifpn.config.stored import check_stored_data
from ifpn.data import DetectionData
from ifpn.evaluation import CocoEvaluator
from reproduce.starts import detect_together

BATCH = 8


@torch.no_grad()
def compare(ckpt: str) -> dict[str, dict[str, float]]:
    """COCO's numbers of a checkpoint, alone and padded together."""
    predictor = ifpn.load(ckpt, "cpu")
    node = {**check_stored_data(predictor.config["data"]), "workers": 0, "batch_size": BATCH}
    data: DetectionData = build_part(OmegaConf.create(node), "data")
    data.use_categories(predictor.category_ids, predictor.class_names)
    data.setup("validate")
    evaluators = {how: CocoEvaluator(data.val_dataset.annotations, data.category_ids) for how in ("alone", "together")}
    for images, targets in data.val_dataloader():
        ids, inputs = [int(t["image_id"]) for t in targets], [image.float() / 255 for image in images]
        evaluators["alone"].update(ids, predictor.detector(inputs))
        evaluators["together"].update(ids, detect_together(predictor.detector, inputs))
    return {how: evaluator.compute().summary for how, evaluator in evaluators.items()}


def main(checkpoints: Sequence[str]) -> None:
    """Print a line for each checkpoint."""
    for ckpt in checkpoints:
        found = compare(ckpt)
        numbers = [f"{name} {found['alone'][name]:.4f} {found['together'][name]:.4f}" for name in ("AP", "AR100")]
        print(f"{ckpt}: alone and together {', '.join(numbers)}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""An exported file at work: the same interface as a detector in PyTorch, so that one code evaluates and predicts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ifpn.errors import ConfigError
from ifpn.export.write import FACTS, LAYOUT, OUTPUTS, needed

MOST_CLASSES = 100_000


class OnnxDetector(nn.Module):
    """An ONNX file in onnxruntime, called like a detector: a list of images to a list of detections.

    Args:
        path: the file.
        threads: of onnxruntime within an operation; 0: its own choice.

    Raises:
        ConfigError: it cannot be read as a detector exported by ifpn.
    """

    resizes_itself = True  # to the size that it was exported with

    def __init__(self, path: Path, threads: int = 0) -> None:
        super().__init__()
        runtime = needed("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime raises classes of its own for each kind of damage
            raise ConfigError(f"{path} cannot be read by onnxruntime: {str(error).splitlines()[0]}") from error
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        names = tuple(output.name for output in self.session.get_outputs())
        if names != OUTPUTS or self.metadata.get("input") != LAYOUT:
            raise ConfigError(f"{path} is no detector that ifpn exported: it gives {', '.join(names)}.")
        self.shape: list[Any] = self.session.get_inputs()[0].shape

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detections of images (3, H, W), floating point in 0..1: `boxes`, `scores`, `labels` of each."""
        return [self._one((image * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()) for image in images]

    def _one(self, image: np.ndarray) -> dict[str, Tensor]:
        fixed = [size for size in self.shape[2:] if isinstance(size, int)]
        if fixed and list(image.shape[1:]) != fixed:
            raise ConfigError(
                f"an image of {image.shape[2]} x {image.shape[1]} px: this file takes {fixed[1]} x {fixed[0]} only. "
                "Scale or pad it to that size; or export with dynamic=true, which most detectors take (docs/export.md)."
            )
        batch = self.shape[0] if isinstance(self.shape[0], int) else 1
        boxes, scores, labels, count = self.session.run(None, {"images": np.repeat(image[None], batch, axis=0)})
        found = int(count[0])
        parts = {"boxes": boxes, "scores": scores, "labels": labels}
        return {name: torch.from_numpy(part[0, :found].copy()) for name, part in parts.items()}


def read_onnx(path: Path) -> tuple[OnnxDetector, dict[str, Any]]:
    """The detector of a file, and its facts: `class_names`, `category_ids`, `score_threshold`, `data`.

    Raises:
        ConfigError: the file is missing, damaged or foreign.
    """
    if not path.is_file():
        raise ConfigError(f"ckpt={path}: there is no such file.")
    detector = OnnxDetector(path)
    try:
        facts = {name: json.loads(detector.metadata[name]) for name in FACTS}
    except (KeyError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: its metadata cannot be read ({error}).") from error
    names, ids, threshold = facts["class_names"], facts["category_ids"], facts["score_threshold"]
    if not _are(names, str) or not _are(ids, int) or len(names) != len(ids):
        raise ConfigError(f"{path}: its metadata names no classes, or not as many as ids.")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ConfigError(f"{path}: its metadata names a threshold of {threshold}.")
    return detector, {**facts, "data": facts["data"] if isinstance(facts["data"], dict) else None}


def _are(values: object, kind: type) -> bool:
    return isinstance(values, list) and 0 < len(values) <= MOST_CLASSES and all(type(v) is kind for v in values)

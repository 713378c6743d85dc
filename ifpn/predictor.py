"""From a checkpoint to boxes in two lines: `detector = ifpn.load("best.ckpt")`, `detector("photo.jpg")`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ifpn.config.build import rebuild_detector
from ifpn.data import decode_image
from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import read_checkpoint
from ifpn.runs.export import read_export


class Predictor:
    """A detector in evaluation mode with the names of its classes.

    detector: torchvision's contract. class_names, category_ids: by label 0..K-1. config: what it was trained with.
    """

    def __init__(
        self,
        detector: nn.Module,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        config: dict[str, Any],
        device: torch.device,
    ) -> None:
        self.detector = detector.to(device).eval()
        self.class_names = list(class_names)
        self.category_ids = list(category_ids)
        self.config = config
        self.device = device

    @torch.no_grad()
    def __call__(self, image: str | Path | Image.Image | Tensor) -> dict[str, Tensor]:
        """Boxes of one image, highest score first.

        Args:
            image: a file, a Pillow image, or a tensor (3, H, W), uint8 or float in 0..1.

        Returns:
            boxes (M, 4) xyxy float32 in pixels of the image, scores (M,), labels (M,) int64, on the CPU.

        Raises:
            ValueError: the file cannot be decoded, or the tensor has another shape or type.
        """
        detections: dict[str, Tensor] = self.detector([self._prepare(image).to(self.device)])[0]
        return {name: value.cpu() for name, value in detections.items()}

    def _prepare(self, image: str | Path | Image.Image | Tensor) -> Tensor:
        if isinstance(image, str | Path | Image.Image):
            image = decode_image(image)
        if image.ndim != 3 or image.shape[0] != 3:
            raise ValueError(f"an image of shape {tuple(image.shape)}: expected (3, H, W), RGB.")
        if image.dtype == torch.uint8:
            return image.float() / 255
        if image.is_floating_point():
            return image.float()
        raise ValueError(f"an image of {image.dtype}: expected uint8, or floating point in 0..1.")


def load(path: str | Path, device: str | torch.device = "auto") -> Predictor:
    """Load a checkpoint that a run wrote, ready to predict. Loading never executes code from the file.

    Args:
        path: a .ckpt file, or the folder `export` of a run (or its model.safetensors).
        device: `auto` takes a GPU if there is one.

    Raises:
        ConfigError: missing, damaged, or foreign file.
    """
    # A folder or .safetensors file was exported at the end of a run; anything else must be a checkpoint.
    exported = Path(path).is_dir() or Path(path).suffix == ".safetensors"
    checkpoint = read_export(Path(path)) if exported else read_checkpoint(path)
    facts = checkpoint["ifpn"]
    detector = rebuild_detector(facts["config"], len(facts["class_names"]))
    prefix = "detector."
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        detector.load_state_dict(weights)
    except RuntimeError as error:
        raise ConfigError(f"ckpt={path} does not fit the detector its configuration describes: {error}") from error
    return Predictor(detector, facts["class_names"], facts["category_ids"], facts["config"], pick_device(device))


def pick_device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")

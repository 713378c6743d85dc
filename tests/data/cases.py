"""Annotation entries and pictures that the tests of this folder are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]


def entry(number: int, image: int, box: Any, category: Any = 3, **more: Any) -> dict[str, Any]:
    """One annotation."""
    return {"id": number, "image_id": image, "category_id": category, "bbox": box, **more}


def document(images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    """A whole annotation file."""
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def picture(path: Path, width: int = 64, height: int = 48, seed: int = 0) -> None:
    """A smooth random JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(grid).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)

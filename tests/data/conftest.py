"""Small COCO-format folders for the tests of this folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ifpn.data.shapes import write_shapes
from tests.data.cases import document, entry, picture


@pytest.fixture
def coco_folder(tmp_path: Path) -> Callable[..., Path]:
    """Function that writes a folder with 4 training and 2 validation images in the layout asked for."""

    def write(annotation_name: str = "annotations/instances_{}.json", image_folder: str = "images") -> Path:
        root = tmp_path / "set"
        for split, numbers in (("train", (1, 2, 3, 4)), ("val", (5, 6))):
            images = []
            for number in numbers:
                width, height = (64, 48) if number % 2 else (48, 64)
                picture(root / image_folder.format(split) / f"{number}.jpg", width, height, number)
                images.append({"id": number, "file_name": f"{number}.jpg", "width": width, "height": height})
            boxes = [entry(10 * n, n, [4 + n, 5, 20, 30], 3 if n % 2 else 17) for n in numbers]
            path = root / annotation_name.format(split)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(document(images, boxes)))
        return root

    return write


@pytest.fixture(scope="session")
def small_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in data set with 30 training and 7 validation images."""
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, num_train=30, num_val=7, seed=0)
    return root

"""The small COCO-format folder of the data's tests, here too."""

from tests.data.conftest import coco_folder

__all__ = ["coco_folder"]

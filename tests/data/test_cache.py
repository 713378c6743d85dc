"""Decoded images kept in one mapped file: the same pixels, decoded once for all who read them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ifpn.data import DetectionData, Shapes, cache
from ifpn.data.cache import ImageCache
from ifpn.data.coco.defects import DataError
from ifpn.data.dataset import CocoDataset


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def files(folder: Path, count: int = 3) -> tuple[list[Path | None], np.ndarray]:
    sizes = np.array([[20 + i, 10] for i in range(count)])
    paths: list[Path | None] = []
    for i, (width, height) in enumerate(sizes):
        paths.append(folder / f"{i}.png")
        Image.new("RGB", (width, height), (i, 2 * i, 3)).save(folder / f"{i}.png")
    return paths, sizes


def test_a_second_process_finds_what_the_first_has_decoded(tmp_path: Path) -> None:
    paths, sizes = files(tmp_path)
    first = ImageCache(paths, sizes, limit=1)
    image = torch.randint(0, 256, (3, 10, 21), dtype=torch.uint8)
    assert first.get(1) is None
    first.put(1, image)
    for other in (ImageCache(paths, sizes, limit=1), pickle.loads(pickle.dumps(first))):
        found = other.get(1)
        assert found is not None
        assert torch.equal(found, image)
        assert other.get(0) is None
        found.zero_()  # a copy: what a reader does to it stays with the reader
    again = first.get(1)
    assert again is not None
    assert torch.equal(again, image)


def test_a_changed_file_is_another_image(tmp_path: Path) -> None:
    paths, sizes = files(tmp_path)
    first = ImageCache(paths, sizes, limit=1)
    first.put(0, torch.zeros(3, 10, 20, dtype=torch.uint8))
    Image.new("RGB", (20, 10), (255, 0, 0)).save(tmp_path / "0.png", compress_level=0)
    assert ImageCache(paths, sizes, limit=1).get(0) is None


def test_what_has_no_known_size_or_another_one_is_not_kept(tmp_path: Path) -> None:
    paths, sizes = files(tmp_path)
    sizes[0] = 0
    paths[1] = None
    kept = ImageCache(paths, sizes, limit=1)
    for i, shape in enumerate([(3, 10, 20), (3, 10, 21), (3, 9, 22)]):
        kept.put(i, torch.zeros(shape, dtype=torch.uint8))
        assert kept.get(i) is None


def test_bounded_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths, sizes = files(tmp_path)
    with pytest.raises(DataError, match=r"data.cache_gib=1e-07 allows less"):
        ImageCache(paths, sizes, limit=1e-7)
    kept = ImageCache(paths, sizes, limit=1)
    assert kept.path.parent.stat().st_mode & 0o077 == 0
    monkeypatch.setattr(cache, "KEPT_DAYS", -1)
    ImageCache(paths[:1], sizes[:1], limit=1)
    assert not kept.path.exists()
    folder = kept.path.parent
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(DataError, match="belongs to another"):
        ImageCache(paths, sizes, limit=1)


def test_a_data_set_gives_the_same_pixels_and_reads_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Shapes(num_train=4, num_val=2)(tmp_path / "data")
    plain, kept = (
        DetectionData(tmp_path / "data", batch_size=1, seed=0, workers=0, cache=how).train_dataset
        for how in (None, "memory")
    )
    expected = [plain[(3, i)] for i in range(len(plain))]
    for _ in range(2):
        for i, (image, target) in enumerate(expected):
            found, its = kept[(3, i)]
            assert torch.equal(found, image)
            assert torch.equal(torch.as_tensor(its["boxes"]), torch.as_tensor(target["boxes"]))
        monkeypatch.setattr(CocoDataset, "_decode", None)  # everything is there by now

"""The built-in data set: deterministic, exact, and never half written."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image, ImageOps

from ifpn.data import scenes, shapes
from ifpn.data.figures import CLASSES, SUPERSAMPLE
from ifpn.data.shapes import ensure_shapes, write_shapes
from tests.config.composing import unresolved

# of the annotations of the first 25 scenes of seed 0: they must be the same on every machine
ANNOTATIONS_SHA256 = "04b12c457e51c7061ecd5eaa58825798f4e65abd4b0e779d7e3aa2acf1d134de"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_same_seed_same_bytes_and_another_seed_differs(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        (tmp_path / name).mkdir()
        write_shapes(tmp_path / name, num_train=3, num_val=2, seed=seed)
    first, second, other = (files(tmp_path / name) for name in "abc")
    assert first == second
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)


def test_annotations_are_pinned() -> None:
    placed = [[(item.category, item.box) for item in scenes.draw_scene(0, i)[1]] for i in range(25)]
    assert hashlib.sha256(json.dumps(placed).encode()).hexdigest() == ANNOTATIONS_SHA256


def test_validation_does_not_depend_on_the_number_of_training_images(tmp_path: Path) -> None:
    for name, train in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write_shapes(tmp_path / name, num_train=train, num_val=1, seed=0)
    assert (tmp_path / "a/images/val_000000.jpg").read_bytes() == (tmp_path / "b/images/val_000000.jpg").read_bytes()


def test_boxes_fit_what_was_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    painted: list[np.ndarray] = []
    paint = scenes._paint

    def spy(picture, figure, at, rng):
        before = np.asarray(picture, dtype=np.int64)
        paint(picture, figure, at, rng)
        painted.append(np.abs(np.asarray(picture, dtype=np.int64) - before).max(axis=2))

    monkeypatch.setattr(scenes, "_paint", spy)
    for number in range(10):
        painted.clear()
        _, placed = scenes.draw_scene(1, number)
        assert len(painted) == len(placed)
        for change, item in zip(painted, placed, strict=True):
            x, y, w, h = item.box
            rows, columns = np.flatnonzero((change > 8).any(axis=1)), np.flatnonzero((change > 8).any(axis=0))
            # left and top: the figure's edge, a pixel for antialiasing and one for the blurred shadow;
            # right and bottom: the shadow falls 2 and 3 pixels further, and its blur of 2 fades over 4 more
            assert x - 2 <= columns[0] <= x + 1.5
            assert y - 2 <= rows[0] <= y + 1.5
            assert x + w - 1.5 <= columns[-1] + 1 <= x + w + 6
            assert y + h - 1.5 <= rows[-1] + 1 <= y + h + 7


@pytest.mark.slow
def test_sizes_overlap_and_number_of_figures() -> None:
    sides, shares, counts = [], [], []
    for number in range(50):
        picture, placed = scenes.draw_scene(0, number)
        counts.append(len(placed))
        boxes = [item.box for item in placed]
        for i, box in enumerate(boxes):
            assert box[0] >= 0
            assert box[1] >= 0
            assert box[0] + box[2] <= picture.width
            assert box[1] + box[3] <= picture.height
            assert all(scenes._iou(box, other) <= scenes.MAX_BOX_IOU for other in boxes[:i])
            sides.append(max(box[2:]))
            shares.append(max(box[2] / picture.width, box[3] / picture.height))
    assert 12 <= min(sides) <= 16  # the smallest figures are 12 px
    assert max(shares) > 0.85  # the largest nearly fill the picture
    assert min(counts) >= 2
    assert max(counts) <= 9


def test_later_figures_leave_enough_of_earlier_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    laid = []
    find = scenes._find_spot

    def spy(*arguments):
        spot = find(*arguments)
        if spot is not None:
            laid.append(spot[1])
        return spot

    monkeypatch.setattr(scenes, "_find_spot", spy)
    for number in range(30):
        scenes.draw_scene(2, number)
    seen = [item.free.sum() / item.whole.sum() for item in laid]
    assert min(seen) >= 1 - scenes.MAX_COVERED
    assert min(seen) < 1  # there is overlap


def masks(name: str, count: int = 20, size: float = 120) -> list[np.ndarray]:
    draw = {kind.name: kind.draw for kind in CLASSES}[name]
    return [np.asarray(draw(size, Random(seed)).whole().reduce(SUPERSAMPLE)) > 127 for seed in range(count)]


def crop(mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@pytest.mark.parametrize(("name", "sign"), [("ring_gap_up", 1), ("ring_gap_down", -1)])
def test_ring_classes_survive_a_mirror(name: str, sign: int) -> None:
    for mask in masks(name):
        for seen in (mask, mask[:, ::-1]):
            part = crop(seen)
            centre = np.flatnonzero(part)
            offset = (centre // part.shape[1]).mean() - (part.shape[0] - 1) / 2
            assert sign * offset > 1  # the mass lies opposite to the gap


def test_dumbbells_differ_by_their_ends_alone() -> None:
    for name, equal in (("dumbbell_equal", True), ("dumbbell_unequal", False)):
        for mask in masks(name):
            part = crop(mask)
            turned = part[::-1, ::-1]
            overlap = (part & turned).sum() / (part | turned).sum()
            # an equal pair is its own half turn, but for the pixels of the edge
            assert overlap > 0.9 if equal else overlap < 0.8


def test_frames_differ_by_the_colour_of_their_marks_alone() -> None:
    draw = {kind.name: kind.draw for kind in CLASSES}
    same, different = draw["frame_same"](100, Random(1)), draw["frame_different"](100, Random(1))
    assert same.whole().tobytes() == different.whole().tobytes()
    assert (same.mark_colours, different.mark_colours) == ((0, 0), (0, 1))


def test_folder_is_drawn_once_and_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "shapes"
    drawn = []
    write = shapes.write_shapes
    monkeypatch.setattr(shapes, "write_shapes", lambda *a, **k: (drawn.append(1), write(*a, **k)))
    for _ in range(2):
        assert ensure_shapes(root, num_train=2, num_val=1, seed=0) == root
    before = files(root)
    with pytest.raises(ValueError, match=r"drawn with .*num_train=2.* and .*num_train=3.* was asked for"):
        ensure_shapes(root, num_train=3, num_val=1, seed=0)
    monkeypatch.setattr(shapes, "GENERATOR_VERSION", shapes.GENERATOR_VERSION + 1)
    with pytest.raises(ValueError, match="remove that folder"):
        ensure_shapes(root, num_train=2, num_val=1, seed=0)
    assert (len(drawn), files(root)) == (1, before)
    assert {path.name for path in tmp_path.iterdir()} == {"shapes", ".shapes.lock"}


def test_each_setting_has_a_folder_of_its_own_whose_name_says_which() -> None:
    def root(*overrides: str) -> str:
        return str(OmegaConf.to_container(unresolved(*overrides)[0], resolve=True)["data"]["root"])

    assert root() == "data/shapes_224_80_0"
    assert root("data.generate.num_train=48", "data.generate.seed=3") == "data/shapes_48_80_3"
    named = root("data=wires")
    for setting in ("num_train", "num_val", "seed", "size", "shortest", "longest", "val_longest"):
        assert root("data=wires", f"data.generate.{setting}=77") != named


def test_interrupted_drawing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_a: object, **_k: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_draw_split", fail)
    with pytest.raises(KeyboardInterrupt):
        ensure_shapes(tmp_path / "shapes", num_train=2, num_val=1, seed=0)
    assert {path.name for path in tmp_path.iterdir()} == {".shapes.lock"}


def test_a_foreign_folder_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"data=coco data\.root=.*mine"):
        ensure_shapes(tmp_path / "mine", num_train=2, num_val=1, seed=0)
    assert files(tmp_path / "mine") == {"photo.jpg": b"x"}


@pytest.mark.parametrize("wrong", [{"num_train": 0}, {"num_val": -1}, {"seed": -1}])
def test_impossible_numbers_are_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}=.*: must be"):
        ensure_shapes(tmp_path / "s", **{"num_train": 1, "num_val": 1, "seed": 0, **wrong})


def test_several_askers_at_once_draw_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    write = shapes.write_shapes
    monkeypatch.setattr(shapes, "write_shapes", lambda *a, **k: (drawn.append(1), write(*a, **k)))
    # threads stand for processes: the lock belongs to the open file, so that each thread takes its own
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(ensure_shapes, tmp_path / "s", num_train=4, num_val=2, seed=0) for _ in range(4)]
        assert {run.result() for run in runs} == {tmp_path / "s"}
    assert len(drawn) == 1
    assert len(list((tmp_path / "s" / "images").iterdir())) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"s", ".s.lock"}


def test_pictures_are_upright_rgb_jpeg(small_shapes: Path) -> None:
    for path in (small_shapes / "images").iterdir():
        with Image.open(path) as picture:
            assert (picture.format, picture.mode) == ("JPEG", "RGB")
            assert ImageOps.exif_transpose(picture).size == picture.size

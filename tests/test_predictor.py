"""A detector in Python: every common kind of image, refusals in a sentence, and a result that is easy to use."""

from __future__ import annotations

import copy
import io
import pickle
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ifpn.detections import Box, Detections
from ifpn.errors import UserError
from ifpn.necks import ImplicitFPN
from ifpn.predictor import Predictor, pick_device
from ifpn.solvers import Anderson, Equilibrium
from tests.detectors.cases import make_detector

CPU = torch.device("cpu")


class Corner(nn.Module):
    """Two boxes per image; the score of the second is the mean of its red channel."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        return [
            {
                "boxes": torch.tensor([[0.0, 0, 4, 3], [1, 1, 2, 2]]),
                "scores": torch.stack([torch.tensor(0.9), image[0].mean()]),
                "labels": torch.tensor([1, 0]),
            }
            for image in images
        ]


@pytest.fixture
def detector() -> Predictor:
    return Predictor(Corner(), ["cat", "dog"], [3, 17], {}, torch.device("cpu"))


@pytest.fixture
def array() -> np.ndarray:
    pixels = np.zeros((6, 8, 3), dtype=np.uint8)
    pixels[..., 0] = 51  # red: 0.2 of 255
    pixels[..., 2] = 255
    return pixels


def test_every_kind_of_image_gives_the_same_boxes(detector: Predictor, array: np.ndarray, tmp_path: Path) -> None:
    picture, file = Image.fromarray(array), tmp_path / "a.png"
    picture.save(file)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    kinds = [file, str(file), buffer.getvalue(), picture, array, tensor, tensor.float() / 255, tensor.double() / 255]
    found = detector(kinds)
    assert [one.scores.tolist() for one in found] == [pytest.approx([0.9, 0.2])] * len(kinds)
    assert all(torch.equal(one.image, tensor) for one in found)
    assert detector(array[..., ::-1], bgr=True).scores[1] == pytest.approx(0.2)
    assert detector([]) == []
    assert found[0].source == file


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            lambda a: a.transpose(2, 0, 1),
            r"shape \(3, 6, 8\): must be uint8 \(H, W, 3\).*transpose\(1, 2, 0\)",
        ),
        (lambda a: a[..., 0], r"must be uint8 \(H, W, 3\).*np\.stack"),
        (lambda a: a / 255, r"array of float64 .*must be uint8 .*\(x \* 255\)"),
        (lambda a: a.astype(np.float32), r"array of float32 and shape \(6, 8, 3\): must be uint8 \(H, W, 3\), RGB\.$"),
        (lambda a: a[None], r"shape \(1, 6, 8, 3\): .*list\(x\)"),
        (lambda a: a[..., [0, 1, 2, 0]], r"shape \(6, 8, 4\): .*x\[:, :, :3\]"),
        (lambda a: "https://example.org/a.jpg", r"a\.jpg: must be a file\. Download it"),
        (lambda a: torch.rand(3, 4, 4) - 1, r"values from -.*must be in 0\.\.1\.$"),
        (lambda a: torch.rand(3, 4, 4).to_sparse(), "dense"),
        (lambda a: a[:0], r"shape \(0, 8, 3\)"),
        (lambda a: torch.from_numpy(a), r"tensor of shape \(6, 8, 3\): must be \(3, H, W\)"),
        (
            lambda a: torch.from_numpy(a).permute(2, 0, 1).float(),
            r"values from 0 to 255: must be in 0..1",
        ),
        (lambda a: torch.full((3, 4, 4), torch.nan), "must be in 0..1"),
        (lambda a: torch.zeros(2, 3, 4, 4), r"list\(x\)"),
        (lambda a: torch.zeros(3, 4, 4, dtype=torch.int64), "int64: must be uint8"),
        (lambda a: b"no picture", "an image of 10 bytes cannot be decoded"),
        (lambda a: 5, "type int: must be a path"),
        (lambda a: [a, None], "type NoneType"),
    ],
)
def test_everything_else_is_refused_in_a_sentence(
    detector: Predictor, array: np.ndarray, wrong: Any, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        detector(wrong(array))


def test_a_result_is_indexed_like_a_list_a_mask_and_a_dictionary(detector: Predictor, array: np.ndarray) -> None:
    found = detector(array)
    assert len(found) == 2
    assert found.names == ["dog", "cat"]
    assert found[0] == Box((0.0, 0.0, 4.0, 3.0), pytest.approx(0.9), 1, "dog")
    assert [box.name for box in found] == ["dog", "cat"]
    assert found[found.scores > 0.5].names == found[:1].names == found[[0]].names == ["dog"]
    assert set(dict(found)) == {"boxes", "scores", "labels"}
    assert torch.equal(found["boxes"], found.boxes)
    assert found[found.scores.argmax()] == found[np.argmax(found.labels.numpy())] == found[np.int64(0)] == found[0]
    assert len(found[[]]) == len(found[np.zeros(2, bool)]) == 0
    assert copy.deepcopy(found) != found  # of tensors there is no single answer, and no exception
    with pytest.raises(KeyError, match="must be one of boxes"):
        found["mask"]
    assert repr(found) == "<2 detections in 8 x 6: 1 dog, 1 cat, best score 0.90>"
    assert found.draw().size == (640, 480)  # small pictures are enlarged
    entry = found.to_coco(7)[0]
    assert (entry["image_id"], entry["category_id"], entry["bbox"], entry["area"]) == (7, 17, [0, 0, 4, 3], 12)


def test_thresholds_at_load_and_per_call(array: np.ndarray) -> None:
    detector = Predictor(Corner(), ["cat", "dog"], [3, 17], {}, torch.device("cpu"), score_threshold=0.5)
    assert len(detector(array)) == 1
    assert len(detector(array, score_threshold=0.0)) == 2
    assert isinstance(detector(array, score_threshold=1.0), Detections)
    for wrong in (-1, 2, float("nan"), True, "0.5"):
        with pytest.raises(UserError, match=r"score_threshold=.*must be a number from 0 to 1"):
            detector(array, score_threshold=wrong)  # type: ignore[arg-type]
    assert len(detector(array, score_threshold=np.float32(0.5), size=np.int64(32))) == 1  # type: ignore[arg-type]
    with pytest.raises(UserError, match="size=0: must be a whole number"):
        detector(array, size=0)


def test_several_sizes_and_mirror_images_at_load_and_per_call(array: np.ndarray) -> None:
    detector = Predictor(Corner(), ["cat", "dog"], [3, 17], {}, torch.device("cpu"), size=[32, 64], flip=True)
    merged, plain = detector(array), detector(array, size=32, flip=False)
    # the mirrored box of the dog overlaps the box itself by 0, that of the cat too: both are other places
    assert (len(plain), len(merged)) == (2, 4)
    assert [len(found["scores"]) for found in detector.detect([torch.zeros(3, 6, 8)])] == [4]
    for wrong in ([], [0], [32, True], "32", 1.5):
        with pytest.raises(UserError, match=r"size=.*must"):
            detector(array, size=wrong)  # type: ignore[arg-type]


def test_every_image_knows_its_solve_also_beside_images_of_other_shapes() -> None:
    torch.manual_seed(0)
    solver = Equilibrium(forward=Anderson(m=3), rtol=1e-2, test_evals=6)

    def neck(**sizes: Any) -> nn.Module:
        return ImplicitFPN(**sizes, output_norm=True, solver=solver)

    model = make_detector("fcos", neck=neck).eval()
    detector = Predictor(model, [str(k) for k in range(model.num_classes)], list(range(model.num_classes)), {}, CPU)
    images = [torch.rand(3, *size) for size in ((60, 90), (64, 64), (60, 90))]
    together = [found.solver for found in detector(images)]
    for facts, image in zip(together, images, strict=True):
        alone = detector(image).solver
        # 1e-4: kernels of another batch size add in another order
        assert facts.residual == pytest.approx(alone.residual, rel=1e-4)
        assert 1 <= facts.evals == alone.evals <= 6
    both = detector(images[0], flip=True).solver
    assert both.evals > together[0].evals
    assert both.residual >= together[0].residual * (1 - 1e-4)


def test_a_result_keeps_what_was_looked_at(detector: Predictor, array: np.ndarray) -> None:
    """Cameras write the next frame into the same memory."""
    planes = np.ascontiguousarray(array.transpose(2, 0, 1))
    for frame in (array.copy(), planes.transpose(1, 2, 0), torch.from_numpy(planes.copy())):
        before = torch.as_tensor(frame).clone()
        found = detector(frame)
        frame[:] = 7
        seen = before if isinstance(frame, Tensor) else before.permute(2, 0, 1)
        assert torch.equal(found.image, seen)


def test_bytes_are_read_by_the_rules_of_files(detector: Predictor, array: np.ndarray) -> None:
    """An EPS would start an interpreter; a picture that claims too many pixels is no reason for Pillow's own error."""
    for kind in ("EPS", "PCX", "ICO"):
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, kind)
        with pytest.raises(UserError, match=r"an image of \d+ bytes cannot be decoded: it is no picture in JPEG"):
            detector(buffer.getvalue())
    with pytest.raises(UserError, match="0 bytes cannot be decoded: it is empty"):
        detector(b"")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    bomb = bytearray(buffer.getvalue())
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    with pytest.raises(UserError, match="decompression bomb"):
        detector(bytes(bomb))


def test_threads_take_turns() -> None:
    """A size of one call must not be that of another, nor stay, nor one's evaluations be counted for another."""
    torch.manual_seed(0)
    model = make_detector("fcos", neck=lambda **sizes: ImplicitFPN(**sizes, output_norm=True)).eval()
    names = [str(k) for k in range(model.num_classes)]
    detector = Predictor(model, names, list(range(model.num_classes)), {}, CPU)
    before = model.transform.min_size, model.transform.max_size
    image = torch.rand(3, 60, 90)
    alone = {size: detector(image, size=size) for size in (None, 48, 80)}
    with ThreadPoolExecutor(4) as pool:
        many = list(pool.map(lambda size: (size, detector(image, size=size)), [None, 48, 80] * 4))
    for size, found in many:
        assert torch.equal(found.boxes, alone[size].boxes)
        assert found.solver == alone[size].solver
    assert (model.transform.min_size, model.transform.max_size) == before


def test_a_detector_can_be_copied(detector: Predictor, array: np.ndarray) -> None:
    for again in (copy.deepcopy(detector), pickle.loads(pickle.dumps(detector))):
        assert torch.equal(again(array).boxes, detector(array).boxes)


@pytest.mark.parametrize(
    "device", ["cuda:77", "meta", "gpu", "mps" if not torch.backends.mps.is_available() else "cuda:77"]
)
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(UserError, match=f"^device={device}: "):
        pick_device(device)


def test_a_missing_package_is_named(detector: Predictor, array: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match="pip install supervision"):
        detector(array).to_supervision()

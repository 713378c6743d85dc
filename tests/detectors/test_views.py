"""Test-time augmentation: what only a mirror image or another size shows is found, and found once."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ifpn.detectors.views import detect_views
from tests.detectors.cases import DETECTORS, make_detector

Found = dict[str, Tensor]


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> Found:
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "scores": torch.tensor(scores), "labels": torch.tensor(labels)}


class LeftHalf(nn.Module):
    """Sees one box around the bright pixels of the left half; what it says about a size is the size."""

    def __init__(self) -> None:
        super().__init__()
        self.transform = SimpleNamespace(min_size=(64,), max_size=128)

    def forward(self, images: list[Tensor]) -> list[Found]:
        seen = []
        for image in images:
            rows, columns = torch.nonzero(image[0, :, : image.shape[2] // 2], as_tuple=True)
            sure = self.transform.min_size[0] / 100
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []
            seen.append(found([float(v) for v in box], [sure] * bool(box), [0] * bool(box)))
        return seen


def picture(*boxes: tuple[int, int, int, int]) -> Tensor:
    image = torch.zeros(3, 40, 100)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 1
    return image


def test_one_view_is_the_detectors_own_answer() -> None:
    (one,) = detect_views(LeftHalf(), [picture((5, 6, 20, 30))])
    assert one["boxes"].tolist() == [[5, 6, 20, 30]]


def test_a_mirror_image_shows_the_other_half_in_pixels_of_the_image() -> None:
    both, none = detect_views(LeftHalf(), [picture((5, 6, 20, 30), (70, 1, 90, 9)), picture()], flip=True)
    assert sorted(both["boxes"].tolist()) == [[5, 6, 20, 30], [70, 1, 90, 9]]
    assert len(none["scores"]) == 0


def test_a_box_that_several_sizes_show_is_kept_once_with_its_best_score_and_the_size_is_put_back() -> None:
    detector = LeftHalf()
    (one,) = detect_views(detector, [picture((5, 6, 20, 30))], [32, 80, None])
    assert one["boxes"].tolist() == [[5, 6, 20, 30]]
    assert one["scores"].tolist() == pytest.approx([0.8])
    assert (detector.transform.min_size, detector.transform.max_size) == ((64,), 128)


def test_classes_are_merged_apart_and_no_more_is_kept_than_the_detector_keeps() -> None:
    class Alternating(nn.Module):
        max_detections = 3
        calls = 0

        def forward(self, images: list[Tensor]) -> list[Found]:
            self.calls += 1
            shift = 50.0 * (self.calls - 1)
            boxes = [[shift, 0, shift + 9, 9], [shift, 0, shift + 9, 9]]
            return [found(boxes, [0.9 / self.calls, 0.8 / self.calls], [0, 1]) for _ in images]

    (one,) = detect_views(Alternating(), [picture()], [None, None])
    assert one["labels"].tolist() == [0, 1, 0]
    assert one["scores"].tolist() == pytest.approx([0.9, 0.8, 0.45])


@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_finds_the_same_in_a_picture_and_in_its_mirror_image(name: str) -> None:
    """With both looked at, the answer to a mirrored picture is the mirrored answer."""
    torch.manual_seed(0)
    sure = {} if name == "faster_rcnn" else {"initial_probability": 0.3}
    model = make_detector(name, score_threshold=0.05, **sure).eval()
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        (straight,), (mirrored,) = (detect_views(model, [i], flip=True) for i in (image, image.flip(-1)))
    assert 10 < len(straight["boxes"]) <= model.max_detections
    back = mirrored["boxes"].clone()
    back[:, [0, 2]] = 96 - back[:, [2, 0]]
    # sets of boxes, since equal scores come in any order; 1e-3 px: 96 - x is rounded
    assert_close(straight["scores"], mirrored["scores"], atol=1e-5, rtol=0)
    distance = (straight["boxes"][:, None] - back[None]).abs().amax(-1)
    assert distance.amin(1).max() < 1e-3

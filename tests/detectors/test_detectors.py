"""The five detectors whole: contract, hard batches, mixed precision, and learning."""

import math
import re
from collections.abc import Sequence

import pytest
import torch
from hydra.errors import InstantiationException
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.ops import box_iou

from ifpn.detectors.boxes import BoxCoder, DeltaCoder, LTRBCoder
from ifpn.detectors.heads import PointHead, Prediction, RetinaHead
from ifpn.errors import UserError
from tests.detectors.cases import (
    DENSE,
    DETECTORS,
    ROOT,
    STRIDES,
    TorchvisionFPN,
    make_detector,
    make_target,
)

EMPTY = make_target([], [])
POINT = {"box_coder": LTRBCoder(), "initial_probability": 0.01, "deformable": False}
RETINA = {"box_coder": DeltaCoder((1, 1, 1, 1)), "initial_probability": 0.01, "deformable": False}
BATCHES = {
    "boxes and none": [make_target([[5, 5, 40, 40], [20, 10, 60, 50]], [0, 0]), EMPTY],
    "no box at all": [EMPTY, EMPTY],
    "one pixel": [make_target([[20, 20, 21, 21]], [0]), make_target([[7.5, 7.5, 8.5, 8.5]], [0])],
    "whole image": [make_target([[0, 0, 90, 60]], [0]), make_target([[0, 0, 64, 64]], [0])],
    "duplicates": [make_target([[5, 5, 40, 40]] * 3, [0, 0, 0]), EMPTY],
    "crowd": [make_target([[i, i, i + 20, i + 25] for i in range(30)], [0] * 30), EMPTY],
}


def images() -> list[Tensor]:
    """Two images of different sizes: resized to a common side, padded to 64 x 96, so P7 has one cell."""
    return [torch.rand(3, 60, 90), torch.rand(3, 64, 64)]


def touched(model: nn.Module) -> None:
    """Every parameter has a finite gradient."""
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", DETECTORS)
def test_hard_batches(name: str, batch: str) -> None:
    model = make_detector(name)
    losses = model(images(), BATCHES[batch])
    for loss in losses.values():
        assert loss.shape == ()
        assert loss.isfinite()
    sum(losses.values()).backward()
    touched(model)


@pytest.mark.parametrize("num_classes", [1, 1000])
@pytest.mark.parametrize("name", DETECTORS)
def test_numbers_of_classes(name: str, num_classes: int) -> None:
    model = make_detector(name, num_classes)
    targets = [make_target([[5, 5, 40, 40], [10, 5, 50, 60]], [0, num_classes - 1]), EMPTY]
    losses = model(images(), targets)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    touched(model)
    for found in model.eval()(images()):
        assert ((found["labels"] >= 0) & (found["labels"] < num_classes)).all()


@pytest.mark.parametrize("changes", [{"deformable": True}, {"box_coder": "delta"}])
def test_options_of_atss(changes: dict[str, object]) -> None:
    model = make_detector("atss", **changes)
    sum(model(images(), BATCHES["boxes and none"]).values()).backward()
    touched(model)
    assert len(model.eval()(images())) == 2


@pytest.mark.parametrize("name", DENSE)
def test_head_and_criterion_share_the_coder(name: str) -> None:
    model = make_detector(name)
    assert model.head.box_coder is model.criterion.coding is model.box_coder


@pytest.mark.parametrize("coder", [LTRBCoder(), DeltaCoder((10, 10, 5, 5))])
def test_codes_of_boxes_decode_to_them(coder: BoxCoder) -> None:
    boxes = torch.tensor([[3.0, 4.0, 50.0, 20.0], [0.0, 0.0, 8.0, 90.0]])
    points, sizes = torch.tensor([[20.0, 10.0], [4.0, 60.0]]), torch.tensor([[64.0, 64.0], [32.0, 16.0]])
    assert_close(coder.decode(coder.encode(boxes, points, sizes), points, sizes), boxes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_step_in_half_precision(name: str, dtype: torch.dtype) -> None:
    """Losses and boxes are float32 whatever the body computes in, and not far from the float32 ones."""
    # a running mean would move between the two calls
    model = make_detector(name, **({"momentum": 1.0} if name == "retina" else {}))
    targets = BATCHES["boxes and none"]
    pictures = images()
    torch.manual_seed(0)
    exact = model(pictures, targets)
    torch.manual_seed(0)  # Faster R-CNN samples at random
    with torch.autocast("cpu", dtype=dtype):
        losses = model(pictures, targets)
    for key, loss in losses.items():
        assert loss.dtype == torch.float32
        assert_close(loss, exact[key], rtol=0.1, atol=0.02)  # bfloat16 has 8 bits, some layers deep
    sum(losses.values()).backward()
    touched(model)
    with torch.autocast("cpu", dtype=dtype):
        for found in model.eval()(pictures):
            assert found["boxes"].dtype == found["scores"].dtype == torch.float32


def test_predictions_are_float32_under_autocast() -> None:
    """Distances are scaled in float32: 0.7 times some bfloat16 numbers is not a bfloat16 number."""
    head = PointHead(8, 2, (8,), **POINT, num_convs=0, box_bias=1.0)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        head.scales.fill_(0.7)
        prediction = head([torch.zeros(1, 8, 2, 2)])
    assert all(t.dtype == torch.float32 for t in prediction if t is not None)
    assert_close(prediction.box_code, torch.full((1, 4, 4), 5.6))


class OneBox(nn.Module):
    """A head that is sure of one box: class 2 at the P3 point (16, 24), at the given distances in px."""

    def __init__(self, distances: Sequence[float]) -> None:
        super().__init__()
        self.distances = distances

    def forward(self, pyramid: list[Tensor]) -> Prediction:
        cells = sum(level.shape[-1] * level.shape[-2] for level in pyramid)
        cls, box = torch.full((1, cells, 3), -20.0), torch.zeros(1, cells, 4)
        location = 3 * pyramid[0].shape[-1] + 2
        cls[0, location, 2] = 20.0
        box[0, location] = torch.tensor(self.distances)
        return Prediction(cls, box, torch.full((1, cells, 1), 20.0))


def test_detections_are_in_pixels_of_the_given_image() -> None:
    """An 80 x 160 image is shrunk to 64 x 128: coordinates come back times 1.25, clipped to the image."""
    model = make_detector("fcos").eval()
    model.head = OneBox([6.0, 4.0, 10.0, 8.0])
    (found,) = model([torch.rand(3, 80, 160)])
    assert_close(found["boxes"], 1.25 * torch.tensor([[10.0, 20.0, 26.0, 32.0]]))
    assert found["labels"].tolist() == [2]
    assert found["labels"].dtype == torch.int64
    model.head = OneBox([600.0, 4.0, 10.0, 800.0])
    (found,) = model([torch.rand(3, 80, 160)])
    assert_close(found["boxes"], torch.tensor([[0.0, 25.0, 32.5, 80.0]]))
    model.head = OneBox([-20.0, 4.0, 10.0, 8.0])  # turned inside out: nothing to show
    (found,) = model([torch.rand(3, 80, 160)])
    assert len(found["boxes"]) == 0


@pytest.mark.parametrize("name", DETECTORS)
def test_input_errors_say_what_is_wrong(name: str) -> None:
    model = make_detector(name)
    picture = [torch.rand(3, 64, 64)]

    def refused(error: type[Exception], match: str, images: list[Tensor], targets: object) -> None:
        with pytest.raises(error, match=match):
            model(images, targets)

    refused(ValueError, "needed in training", picture, None)
    refused(ValueError, "2 targets for 1 images", picture, [EMPTY, EMPTY])
    refused(ValueError, "empty", [], [])
    refused(ValueError, "no pixels", [torch.rand(3, 0, 64)], [EMPTY])
    refused(ValueError, "target 0 has no 'labels'", picture, [{"boxes": torch.zeros(0, 4)}])
    refused(ValueError, r"expected \(3, H, W\)", [torch.rand(1, 64, 64)], [EMPTY])
    refused(TypeError, "divide by 255", [torch.zeros(3, 64, 64, dtype=torch.uint8)], [EMPTY])
    for bad in ([5, 5, 5, 9], [9, 5, 5, 9], [0, 0, math.inf, 5], [math.nan, 0, 4, 5]):
        refused(ValueError, "target 0: box", picture, [make_target([bad], [0])])
    refused(ValueError, r"label 3.*0\.\.2", picture, [make_target([[1, 1, 5, 9]], [3])])
    refused(ValueError, "label -1", picture, [make_target([[1, 1, 5, 9]], [-1])])
    flat = {"boxes": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.int64)}
    refused(ValueError, r"expected \(M, 4\)", picture, [flat])
    real = {"boxes": torch.rand(1, 4), "labels": torch.zeros(1)}
    refused(TypeError, "integer labels", picture, [real])


def test_targets_are_not_changed() -> None:
    target = make_target([[5.0, 5.0, 40.0, 40.0]], [1])
    for name in DETECTORS:
        make_detector(name, image_size=96)([torch.rand(3, 64, 64)], [target])
    assert target["boxes"].tolist() == [[5, 5, 40, 40]]
    assert target["labels"].tolist() == [1]


class PenalisedFPN(TorchvisionFPN):
    auxiliary_losses = {"loss_jacobian": torch.tensor(0.5)}  # noqa: RUF012  # a constant of this test


@pytest.mark.parametrize("name", DETECTORS)
def test_auxiliary_losses_of_the_neck_are_reported(name: str) -> None:
    model = make_detector(name, neck=PenalisedFPN)
    assert model(images(), BATCHES["no box at all"])["loss_jacobian"] == 0.5


def test_sizes_of_the_heads() -> None:
    """256 channels, 80 classes: the published numbers of parameters, plus one scale per level."""
    point = PointHead(256, 80, STRIDES, **{**POINT, "initial_probability": 0.02}, num_convs=4, box_bias=4.0)
    retina = RetinaHead(256, 80, STRIDES, **RETINA, anchors_per_cell=9, num_convs=4)
    assert sum(p.numel() for p in point.parameters()) == 4_920_661 + 5
    assert sum(p.numel() for p in retina.parameters()) == 6_463_220
    assert_close(point.cls.bias, torch.full((80,), -3.891820))
    assert_close(retina.cls.bias, torch.full((720,), -4.595120))
    assert_close(point.box.bias, torch.full((4,), 4.0))
    for conv in (point.cls, point.box, retina.box, point.cls_tower[0]):
        assert_close(conv.weight.std().item(), 0.01, rtol=0.05, atol=0)  # 2000 samples at least
    assert all(m.num_groups == 32 for m in point.modules() if isinstance(m, nn.GroupNorm))


def test_deformable_towers_start_without_offsets() -> None:
    head = RetinaHead(16, 3, STRIDES, **{**RETINA, "deformable": True}, anchors_per_cell=1, num_convs=2)
    offsets = [p for name, p in head.named_parameters() if ".offset." in name]
    assert len(offsets) == 4
    assert all(p.abs().max() == 0 for p in offsets)


def test_distances_never_exceed_their_scale_and_sign() -> None:
    head = PointHead(8, 2, (8, 16), **POINT, num_convs=0, box_bias=1.0)
    pyramid = [torch.zeros(1, 8, 2, 2), torch.zeros(1, 8, 1, 1)]
    with torch.no_grad():
        head.scales.copy_(torch.tensor([2.0, -1.0]))
    # bias 1: scale 2 at stride 8 is 16 px; a negative scale is cut off at 0
    assert head(pyramid).box_code[0, :, 0].tolist() == [16, 16, 16, 16, 0]


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("fcos", {"initial_probability": 0}, "must be a number above 0 and below 1"),
        ("fcos", {"initial_probability": 1}, "must be a number above 0 and below 1"),
        ("fcos", {"size_limits": [64, 128]}, "one between each two of the 5 levels"),
        ("fcos", {"size_limits": [64, 256, 128, 512]}, "rising"),
        ("fcos", {"score": "best"}, "class, sqrt_quality or quality"),
        ("atss", {"box_coder": "delta", "weights": [10, 5]}, "of 4, each a number"),
        ("retina", {"scales": []}, r"scales=\[\]: must be a list"),
        ("retina", {"ratios": [0.5, -1]}, r"ratios=\[0.5, -1\]: must be a list .* each a number above 0"),
        ("faster_rcnn", {"rpn_pre_nms": [2000]}, r"rpn_pre_nms=\[2000\]: must be a list .* of 2"),
        ("faster_rcnn", {"box_coder_weights": [10, 10]}, r"box_coder_weights=\[10, 10\]: must be a list .* of 4"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(name: str, changes: dict[str, object], words: str) -> None:
    """When the detector is built, by the kind of error that the command line prints without a traceback."""
    with pytest.raises((UserError, InstantiationException), match=words):
        make_detector(name, **changes)


@pytest.mark.parametrize("name", DETECTORS)
def test_every_number_of_the_configuration_names_its_source(name: str) -> None:
    text = (ROOT / "conf" / "detector" / f"{name}.yaml").read_text()
    lines = [line for line in text.splitlines() if re.match(r" *\w+: *[\[\d]", line)]
    assert len(lines) > 5
    for line in lines:
        if not line.startswith("  in_levels: [c3, c4, c5]"):
            assert re.search(r"# .*\w", line), line


def shapes() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Four 64 px pictures of one or two bright rectangles, red or green."""
    boxes = [
        ([[8, 8, 40, 36]], [0]),
        ([[20, 24, 60, 60]], [1]),
        ([[4, 30, 30, 60], [34, 4, 60, 34]], [0, 1]),
        ([[10, 6, 56, 30]], [1]),
    ]
    pictures = []
    for corners, labels in boxes:
        picture = torch.full((3, 64, 64), 0.2)
        for (x1, y1, x2, y2), label in zip(corners, labels, strict=True):
            picture[label, y1:y2, x1:x2] = 1.0
        pictures.append(picture)
    return pictures, [make_target(*target) for target in boxes]


def all_found(model: nn.Module, pictures: list[Tensor], targets: list[dict[str, Tensor]]) -> bool:
    """Whether the best boxes of each picture are its rectangles: one each, right class, IoU above 0.5."""
    model.eval()
    for found, target in zip(model(pictures), targets, strict=True):
        count = len(target["labels"])
        best, index = box_iou(found["boxes"][:count], target["boxes"]).max(dim=1)
        if sorted(index.tolist()) != list(range(count)) or best.min() < 0.5:
            return False
        if not torch.equal(found["labels"][:count], target["labels"][index]):
            return False
    return True


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.slow
def test_overfits_four_pictures(name: str) -> None:
    """Within 120 steps; each detector took 20 to 60 when this was written."""
    changes = {"rpn_post_nms": (60, 60), "batch_size": 64} if name == "faster_rcnn" else {}
    model = make_detector(name, 2, channels=32, **changes)
    pictures, targets = shapes()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0)
    for step in range(120):
        if step % 20 == 19 and all_found(model, pictures, targets):
            return
        model.train()
        loss = sum(model(pictures, targets).values())
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimiser.step()
    pytest.fail("some rectangle is not found after 120 steps")


@pytest.mark.parametrize("name", ["atss", "faster_rcnn"])
def test_a_stream_of_frames_gives_the_detections_of_the_frames(name: str) -> None:
    """The neck of these detectors is explicit: nothing is saved, and nothing changes."""
    model = make_detector(name).eval()
    with torch.no_grad(), model.stream() as stream:
        for image in images():
            for key, value in model([image])[0].items():
                assert torch.equal(stream([image])[0][key], value)

"""Images that shrink to strips keep a pixel; all others are torchvision's, to the bit."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from ifpn.detectors.transform import ImageTransform

OPTIONS = {"min_size": [64], "max_size": 128, "image_mean": [0.0] * 3, "image_std": [1.0] * 3}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((16, 8000), (1, 128)), ((8000, 16), (128, 1)), ((1, 4000), (1, 128)), ((62, 8000), (1, 128))],
)
def test_a_strip_keeps_a_pixel_and_its_boxes(shape: tuple[int, int], expected: tuple[int, int]) -> None:
    height, width = shape
    box = torch.tensor([[0.0, 0.0, width / 2, height]])
    images, targets = ImageTransform(**OPTIONS)([torch.rand(3, *shape)], [{"boxes": box.clone()}])
    assert images.image_sizes == [expected]
    assert targets is not None
    assert targets[0]["boxes"].tolist() == [[0.0, 0.0, expected[1] / 2, float(expected[0])]]
    back = ImageTransform(**OPTIONS).eval().postprocess(targets, images.image_sizes, [shape])
    assert torch.allclose(back[0]["boxes"], box)  # float32 ratios of whole numbers


@pytest.mark.parametrize("shape", [(48, 64), (640, 480), (64, 8000), (63, 8000), (5, 5)])
def test_other_images_are_torchvisions(shape: tuple[int, int]) -> None:
    image = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (kind(**OPTIONS).eval()([image])[0].tensors for kind in (ImageTransform, GeneralizedRCNNTransform))
    assert torch.equal(ours, theirs)

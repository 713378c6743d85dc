"""What a detector finds in an image does not depend on the images beside it."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from ifpn.necks import ImplicitFPN
from ifpn.solvers import Anderson, Equilibrium
from tests.detectors.cases import DETECTORS, TorchvisionFPN, make_detector

# Shorter sides become 64 px; padded: 64 x 96, 64 x 64, 96 x 64, 64 x 128 and 64 x 96 again.
SIZES = [(60, 90), (64, 64), (90, 60), (64, 128), (64, 90)]


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, *size, generator=generator) for size in SIZES]


def implicit(**sizes: object) -> nn.Module:
    solver = Equilibrium(forward=Anderson(m=3), rtol=1e-2, test_evals=6)
    return ImplicitFPN(**sizes, input_norm=True, output_norm=True, solver=solver)


def eager(name: str, neck: object = TorchvisionFPN) -> nn.Module:
    """A detector with random weights that finds many boxes in noise."""
    torch.manual_seed(0)
    sure = {} if name == "faster_rcnn" else {"initial_probability": 0.3, "nms_threshold": 0.9}
    return make_detector(name, neck=neck, score_threshold=0.05, **sure).eval()


@pytest.mark.parametrize("neck", [TorchvisionFPN, implicit], ids=["fpn", "implicit"])
@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.slow
def test_the_same_boxes_alone_and_in_a_batch(name: str, neck: object) -> None:
    """To 1e-4 px and probability: kernels of another batch size add in another order."""
    model = eager(name, neck)
    with torch.no_grad():
        together = model(pictures())
        for picture, found in zip(pictures(), together, strict=True):
            (alone,) = model([picture])
            assert len(alone["boxes"]) > 10
            assert_close(found["scores"], alone["scores"], atol=1e-4, rtol=0)
            # Boxes of scores that differ by a rounding may come in another order.
            rows = [torch.cat([d["boxes"], d["labels"][:, None]], dim=1) for d in (found, alone)]
            rows = [r[sorted(range(len(r)), key=lambda i: r[i].round(decimals=2).tolist())] for r in rows]
            assert_close(*rows, atol=1e-4, rtol=0)


def test_images_of_one_padded_size_go_through_the_network_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = eager("fcos"), []
    forward = model.body.forward
    monkeypatch.setattr(model.body, "forward", lambda batch: (seen.append(tuple(batch.shape)), forward(batch))[1])
    with torch.no_grad():
        model(pictures())
    assert seen == [(2, 3, 64, 96), (1, 3, 64, 64), (1, 3, 96, 64), (1, 3, 64, 128)]

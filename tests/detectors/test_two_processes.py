"""Two processes with a part of the batch each have the gradients of one process with all of it."""

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tests.detectors.cases import DETECTORS, make_detector, make_target
from tests.processes import in_processes

pytestmark = pytest.mark.process

BATCHES = {
    "boxes everywhere": [
        make_target([[5, 5, 40, 40], [20, 10, 60, 50]], [0, 2]),
        make_target([[8, 20, 30, 60]], [1]),
        make_target([[30, 3, 55, 40], [2, 2, 20, 20], [10, 10, 50, 60]], [2, 2, 0]),
        make_target([[0, 0, 64, 64]], [1]),
    ],
    "the second process has none": [
        make_target([[5, 5, 40, 40], [20, 10, 60, 50]], [0, 2]),
        make_target([[8, 20, 30, 60]], [1]),
        make_target([], []),
        make_target([], []),
    ],
}
# Faster R-CNN samples at random: let it take everything there is
ALL = {"rpn_batch_size": 4096, "batch_size": 512, "rpn_post_nms": (40, 40)}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return make_detector(name, **(ALL if name == "faster_rcnn" else {}))


def pictures() -> list[Tensor]:
    """Of equal size: padding must not depend on who else is in the batch."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 64, 64, generator=generator) for _ in range(4)]


def gradients(model: nn.Module, images: list[Tensor], targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Of two steps: the second sees RetinaNet's running mean after the first."""
    model.zero_grad()
    for _ in range(2):
        sum(model(images, targets).values()).backward()
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters()}


def half(rank: int, folder: str) -> None:
    """One of the two processes: its half of each batch, through DistributedDataParallel."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    part = slice(2 * rank, 2 * rank + 2)
    found = {}
    for name in DETECTORS:
        for case, targets in BATCHES.items():
            model = DistributedDataParallel(build(name))  # raises where a parameter has no gradient
            found[name, case] = gradients(model, pictures()[part], targets[part])
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("ranks")
    assert in_processes(half, 2, str(folder)) == [0, 0]
    return torch.load(folder / "gradients.pt")


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("name", DETECTORS)
def test_gradients_of_two_processes_are_those_of_one(
    name: str, case: str, found: dict[tuple[str, str], dict[str, Tensor]]
) -> None:
    alone = gradients(build(name), pictures(), BATCHES[case])
    shared = found[name, case]
    assert alone.keys() == shared.keys()
    largest = max(float(g.abs().max()) for g in alone.values())
    assert largest > 0
    for key, gradient in alone.items():
        # sums in another order: relative to the tensor's own size, and for tiny ones to the largest of all
        error = float((shared[key] - gradient).norm())
        assert error <= 1e-5 * float(gradient.norm()) + 1e-7 * largest, key

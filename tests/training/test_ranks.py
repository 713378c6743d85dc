"""Two processes with half of the batch each have the gradients of one process with all of it, to 1e-10 in float64."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ifpn.csc import PyramidConv
from ifpn.necks import ImplicitFPN
from ifpn.solvers import GMRES, Anderson, Equilibrium, Implicit
from tests.detectors.cases import DETECTORS, make_detector, make_target
from tests.processes import in_processes

pytestmark = [pytest.mark.slow, pytest.mark.process]

BATCHES: dict[str, list[list[list[float]]]] = {
    "boxes everywhere": [
        [[5.0, 5, 40, 40], [20, 10, 60, 50]],
        [[8.0, 20, 30, 60]],
        [[30.0, 3, 55, 40], [2, 2, 20, 20], [10, 10, 50, 60]],
        [[0.0, 0, 64, 64]],
    ],
    "the second process has none": [[[5.0, 5, 40, 40]], [[8.0, 20, 30, 60], [1, 2, 30, 40]], [], []],
    "nobody has any": [[], [], [], []],
}
# Faster R-CNN samples at random: let it take everything there is.
ALL = {"rpn_batch_size": 4096, "batch_size": 512, "rpn_post_nms": (40, 40)}
IMPLICIT = "atss with an implicit neck"
NAMES = (*DETECTORS, IMPLICIT)


def detector(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name != IMPLICIT:
        return make_detector(name, **(ALL if name == "faster_rcnn" else {}))
    solver = Equilibrium(
        forward=Anderson(m=5, beta=1.0), train_evals=5, test_evals=7, rtol=0.0, atol=0.0,
        backward=Implicit(GMRES(), max_vjps=3, rtol=0.0),
    )  # fmt: skip
    neck = partial(
        ImplicitFPN, csc=PyramidConv, solver=solver, residual_block=True, weight_norm=True, dropout=0.0,
        output_norm=True, jacobian_penalty=0.0,
    )  # fmt: skip
    return make_detector("atss", channels=32, neck=neck)


def gradients(model: nn.Module, case: str, part: slice) -> dict[str, Tensor]:
    """Of the second of two steps: it sees RetinaNet's running mean after the first."""
    generator = torch.Generator().manual_seed(1)
    # Of equal size: padding must not depend on who else is in the batch.
    images = [torch.rand(3, 64, 64, generator=generator, dtype=torch.float64) for _ in range(4)]
    targets: list[Any] = [make_target(boxes, [i % 3 for i in range(len(boxes))]) for boxes in BATCHES[case]]
    for _ in range(2):
        model.zero_grad()
        sum(model(images[part], targets[part]).values()).backward()
    return {name.removeprefix("module."): p.grad for name, p in model.named_parameters()}


def work(rank: int, folder: Path, ranks: int) -> None:
    # Losses are computed in float32 whatever comes in; for this comparison that is float64, too.
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=ranks)
    found = {}
    for name in NAMES:
        for case in BATCHES:
            model = detector(name)
            # Raises in the next forward pass where a parameter has no gradient.
            wrapped = DistributedDataParallel(model) if ranks > 1 else model
            found[name, case] = gradients(wrapped, case, slice(4 // ranks * rank, 4 // ranks * (rank + 1)))
    if rank == 0:
        torch.save(found, folder / f"{ranks}.pt")
    if ranks > 1:
        dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    for ranks in (1, 2):
        assert in_processes(work, ranks, folder, ranks) == [0] * ranks
    return {n: torch.load(folder / f"{n}.pt") for n in (1, 2)}


@pytest.mark.parametrize("case", ["boxes everywhere", "the second process has none"])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_two_processes_are_those_of_one(name: str, case: str, found: dict[int, Any]) -> None:
    alone, shared = found[1][name, case], found[2][name, case]
    assert alone.keys() == shared.keys()
    largest = max(float(g.abs().max()) for g in alone.values())
    assert largest > 0
    for key, gradient in alone.items():
        assert gradient.dtype == torch.float64
        # Sums in another order, and a solve that hands rounding on: 1e-10 of the largest gradient of all.
        assert float((shared[key] - gradient).abs().max()) <= 1e-10 * largest, key


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_finite_gradient_without_a_box_anywhere(name: str, found: dict[int, Any]) -> None:
    """There one and two processes differ: the losses are divided by at least one box per process."""
    for ranks in (1, 2):
        for key, gradient in found[ranks][name, "nobody has any"].items():
            assert gradient is not None, key
            assert torch.isfinite(gradient).all(), key

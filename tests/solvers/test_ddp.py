"""Two processes under DistributedDataParallel, without find_unused_parameters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ifpn.solvers import Broyden, Forward, Implicit, fixed_point, spectral_radius
from tests.processes import in_processes
from tests.solvers.problems import ConvBlock

pytestmark = pytest.mark.process

WORLD = 2


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = ConvBlock(gain=0.5)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        b = self.stem(x)
        # A tolerance, so that the ranks need different numbers of evaluations and of products.
        z, stats = fixed_point(
            lambda z: self.block(z + b),
            torch.zeros_like(b),
            forward=Forward(Broyden(), 40, rtol=1e-6),
            backward=Implicit(max_vjps=30, rtol=1e-6),
        )
        self.evals = stats.forward.evals
        out: Tensor = self.head(z)
        return out


def images() -> Tensor:
    x = torch.randn(WORLD, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    x[1] *= 1e-3  # an easier problem: nearly linear, from near its solution
    return x


def rank_main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    try:
        torch.manual_seed(0)
        net = Net()
        model = DistributedDataParallel(net, find_unused_parameters=False)
        fired: dict[str, int] = {}
        for name, p in net.named_parameters():
            p.register_post_accumulate_grad_hook(lambda _, n=name: fired.__setitem__(n, fired.get(n, 0) + 1))
        for _ in range(2):  # the second step fails if the first left a reduction unfinished
            net.zero_grad()
            model(images()[rank : rank + 1]).square().mean().backward()
            spectral_radius(net.block, torch.zeros(1, 8, 6, 6), 2)  # as a monitor does: no hook may fire
        grads = {name: p.grad for name, p in net.named_parameters()}
        torch.save({"grads": grads, "fired": fired, "evals": net.evals}, os.path.join(folder, f"{rank}.pt"))
        dist.barrier()  # gloo may abort a process whose partner has gone
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")
def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    assert in_processes(rank_main, WORLD, str(tmp_path)) == [0] * WORLD
    results = [torch.load(tmp_path / f"{rank}.pt") for rank in range(WORLD)]
    torch.manual_seed(0)
    net = Net()
    for rank in range(WORLD):
        (net(images()[rank : rank + 1]).square().mean() / WORLD).backward()
    assert results[0]["evals"] != results[1]["evals"], "the ranks were meant to differ"
    for result in results:
        assert result["fired"] == {name: 2 for name, _ in net.named_parameters()}
        for name, p in net.named_parameters():
            assert p.grad is not None
            assert float((result["grads"][name] - p.grad).norm() / p.grad.norm()) <= 1e-5

"""Networks converted as a whole: `half()`, `bfloat16()`, `double()`, channels last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import pytest
import torch

from ifpn.necks import ImplicitFPN, MDEQNeck, Neck, StackedFPN
from ifpn.solvers import Unroll
from tests.necks.cases import features

NECKS: dict[str, Callable[..., Neck]] = {
    "implicit": partial(ImplicitFPN, output_norm=True, input_norm=True, dropout=0.0),
    "input added": partial(ImplicitFPN, add_input=True),
    "unroll": partial(ImplicitFPN, solver=Unroll(2)),
    "mdeq": partial(MDEQNeck, solver=Unroll(1), dropout=0.0),
    "stack": partial(StackedFPN, inject=True, repeats=2),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", NECKS)
def test_a_converted_neck_answers_in_its_own_type(name: str, dtype: torch.dtype) -> None:
    """And learns: every gradient is finite. 5 % is some 10 roundings of bfloat16, whose eps is 0.8 %."""
    torch.manual_seed(0)
    neck = NECKS[name]([6, 8], 16).eval()
    with torch.no_grad():
        expected = neck(features())
    neck = neck.to(dtype)
    outputs = neck(OrderedDict((key, level.to(dtype)) for key, level in features().items()))
    for key, level in outputs.items():
        assert level.dtype == dtype
        other = expected[key].to(torch.float64)
        assert float((level.detach() - other).norm() / other.norm()) < 0.05
    torch.stack([level.float().square().mean() for level in outputs.values()]).sum().backward()
    assert all(p.grad.isfinite().all() for p in neck.parameters() if p.grad is not None)
    assert sum(p.grad is not None for p in neck.parameters()) > 10


@pytest.mark.parametrize("name", NECKS)
def test_channels_last_changes_the_order_in_memory_only(name: str) -> None:
    torch.manual_seed(0)
    neck = NECKS[name]([6, 8], 16).eval()
    with torch.no_grad():
        expected = neck(features())
        neck = neck.to(memory_format=torch.channels_last)
        x = OrderedDict((k, level.to(memory_format=torch.channels_last)) for k, level in features().items())
        for key, level in neck(x).items():
            # other kernels, another order of the sums
            torch.testing.assert_close(level, expected[key], rtol=1e-4, atol=1e-5)

"""A compiled G gives the same pyramid and gradients, and is left out where a gradient is recorded.

With the ``eager`` backend: what G is turned into, guarded and called again, without minutes of C++ compilation.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from ifpn.csc import PyramidConv
from ifpn.necks import ImplicitFPN
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.solvers import Anderson, Equilibrium
from tests.necks.cases import features

Make = Callable[..., EquilibriumNeck]
NECKS: dict[str, Make] = {
    "implicit": functools.partial(ImplicitFPN, dropout=0.5),
    "batch norm": functools.partial(ImplicitFPN, csc=lambda c, n: PyramidConv(c, n, ibn=True)),
}


@pytest.fixture(autouse=True)
def front_end_only(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def build(make: Make, compile: bool) -> EquilibriumNeck:
    torch.manual_seed(0)
    solver = Equilibrium(Anderson(), train_evals=8)
    return make([6, 8], 16, extra_levels="none", solver=solver, compile=compile)


def step(neck: EquilibriumNeck, x: OrderedDict[str, Tensor]) -> list[Tensor]:
    """Pyramid, gradients and buffers of a training forward with masks of seed 7; then the weights move."""
    torch.manual_seed(7)
    outputs = list(neck(x).values())
    neck.zero_grad()
    torch.stack([level.square().mean() for level in outputs]).sum().backward()
    found = [*outputs, *[p.grad for p in neck.parameters() if p.grad is not None], *neck.buffers()]
    copies = [t.detach().clone() for t in found]
    with torch.no_grad():
        for p in neck.parameters():
            p.add_(p.grad if p.grad is not None else 0, alpha=-0.1)
    return copies


# torch.compile itself looks at .grad of an input that is not a leaf, for any module inside a network.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("name", NECKS)
def test_a_compiled_g_changes_nothing(name: str) -> None:
    """Two steps, the weights and the image size changing between them, then evaluation."""
    eager, compiled = build(NECKS[name], False), build(NECKS[name], True)
    for side in (8, 12):
        x = features(sizes=((side, side), (side // 2, side // 2)))
        for a, b in zip(step(eager, x), step(compiled, x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert compiled._compiled is not None
    with torch.inference_mode():
        for a, b in zip(eager.eval()(features()).values(), compiled.eval()(features()).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_the_adjoint_runs_through_the_eager_graph() -> None:
    """So a product towards the state cannot cost more than without compilation."""
    neck = build(NECKS["implicit"], True)
    outputs = neck(features())
    seen, waiting = set(), [level.grad_fn for level in outputs.values()]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [parent for parent, _ in node.next_functions]
    names = {node.name() for node in seen}
    assert "CompiledFunctionBackward" not in names
    assert "ConvolutionBackward0" in names


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_a_copy_compiles_its_own_weights() -> None:
    """As a moving average of the weights does."""
    neck = build(NECKS["implicit"], True).eval()
    with torch.no_grad():
        before = neck(features())
        twin = copy.deepcopy(neck)
        assert twin._compiled is None
        assert list(twin.state_dict()) == list(build(NECKS["implicit"], False).state_dict())
        for part in twin.g.modules():
            if parametrize.is_parametrized(part):
                part.parametrizations.weight.original0.mul_(0.5)  # type: ignore[union-attr]
        changed = twin(features())
    assert not any(torch.allclose(before[name], changed[name], rtol=1e-3) for name in before)

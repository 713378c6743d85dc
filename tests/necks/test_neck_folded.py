"""Weight norm folded into a copy of G for inference: the same bits, in step with the weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ifpn.csc import PyramidConv
from ifpn.necks import ImplicitFPN, MDEQNeck, Stream
from ifpn.necks.folded import FoldedCopy
from ifpn.solvers import Anderson, Equilibrium

FEATURES = {str(i): torch.randn(2, 4, 16 >> i, 12 >> i, generator=torch.Generator().manual_seed(i)) for i in range(3)}


def make(kind: type[ImplicitFPN | MDEQNeck] = ImplicitFPN, fold: bool = True, **settings: object) -> ImplicitFPN:
    torch.manual_seed(0)
    solver = Equilibrium(Anderson(3), 4, 3)
    neck = kind([4, 4, 4], 8, solver=solver, **settings).eval()  # type: ignore[arg-type]
    neck.fold_weights = fold
    return neck  # type: ignore[return-value]


@torch.no_grad()
def values(neck: nn.Module) -> list[Tensor]:
    return list(neck(FEATURES).values())


def assert_same_bits(a: list[Tensor], b: list[Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("settings", [{}, {"kind": MDEQNeck}, {"csc": lambda c, n: PyramidConv(c, n, ibn=True)}])
def test_same_bits_with_and_without(settings: dict[str, object]) -> None:
    assert_same_bits(values(make(**settings)), values(make(fold=False, **settings)))  # type: ignore[arg-type]


def test_weight_norm_is_computed_once_for_many_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    neck, calls = make(), []
    original = torch._weight_norm
    monkeypatch.setattr(torch, "_weight_norm", lambda *a: (calls.append(1), original(*a))[1])
    values(neck)
    first = len(calls)
    values(neck)
    with torch.inference_mode():
        neck(FEATURES)
    assert first == len([m for m in neck.g.modules() if parametrize.is_parametrized(m)]) == len(calls)


def changed_by_optimiser(neck: nn.Module) -> None:
    optimiser = torch.optim.SGD(neck.parameters(), lr=0.5)
    sum(v.square().mean() for v in neck.train()(FEATURES).values()).backward()
    optimiser.step()
    neck.eval()


def changed_by_loading(neck: nn.Module) -> None:
    neck.load_state_dict({k: v * 1.5 if v.is_floating_point() else v for k, v in neck.state_dict().items()})


def changed_by_average(neck: nn.Module) -> None:
    with torch.no_grad():
        for p in neck.parameters():
            p.lerp_(torch.ones_like(p), 0.1)


def changed_in_type(neck: nn.Module) -> None:
    neck.double().float()
    neck.load_state_dict(neck.state_dict())


@pytest.mark.parametrize("change", [changed_by_optimiser, changed_by_loading, changed_by_average, changed_in_type])
def test_changed_weights_are_seen(change: object) -> None:
    torch.manual_seed(1)
    neck, plain = make(dropout=0.0), make(fold=False, dropout=0.0)
    before = values(neck)
    for one in (neck, plain):
        torch.manual_seed(2)
        change(one)  # type: ignore[operator]
    assert_same_bits(values(neck), values(plain))
    assert change is changed_in_type or not torch.equal(before[0], values(neck)[0])


def test_gradients_and_training_use_g_itself() -> None:
    neck, plain = make(dropout=0.0), make(fold=False, dropout=0.0)
    values(neck)
    for training in (False, True):
        grads = []
        for one in (neck, plain):
            one.zero_grad()
            sum(v.sum() for v in one.train(training)(FEATURES).values()).backward()
            grads.append([p.grad for p in one.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True) if a is not None and b is not None)


def test_a_hook_in_g_is_called() -> None:
    neck, seen = make(), []
    values(neck)
    neck.g.residual[0].register_forward_hook(lambda *_: seen.append(1))
    values(neck)
    assert len(seen) == 3


def test_a_part_that_trains_goes_on_training() -> None:
    neck = make(dropout=0.5)
    values(neck)
    neck.g.residual[0].train()
    assert not torch.equal(values(neck)[0], values(neck)[0])  # its dropout draws


def test_the_copy_belongs_to_nobody_else() -> None:
    neck = make()
    values(neck)
    assert neck.state_dict().keys() == make().state_dict().keys()
    other = copy.deepcopy(neck)
    changed_by_average(other)
    assert not torch.equal(values(other)[0], values(neck)[0])


def test_weights_made_in_inference_mode_are_used_as_they_are() -> None:
    with torch.inference_mode():
        neck = make()
    folded = FoldedCopy()
    assert folded.of(neck.g) is neck.g


def test_streams_fold_and_put_it_back() -> None:
    neck = make(fold=False)
    with torch.no_grad():
        plain = list(neck(FEATURES).values())
        with Stream(neck) as stream:
            assert_same_bits(plain, list(stream(FEATURES).values()))
    assert not neck.fold_weights
    assert neck._folded._folded is not None

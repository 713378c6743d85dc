"""A solve that starts from a known state: the same fixed point for fewer evaluations, per image."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ifpn.necks import FPN, EquilibriumNeck, ImplicitFPN, Stream
from ifpn.necks.neck import Levels
from ifpn.predictor import Predictor
from ifpn.solvers import Equilibrium, Unroll
from tests.necks.cases import features

CHANNELS = [6, 8]
SOLVER = Equilibrium(test_evals=30, rtol=1e-3)


def build(solver: Equilibrium | Unroll = SOLVER, **options: Any) -> EquilibriumNeck:
    torch.manual_seed(0)
    return ImplicitFPN(CHANNELS, 16, solver=solver, **options).eval()


def held(neck: EquilibriumNeck, x: OrderedDict[str, Tensor]) -> Levels:
    """The neck's P* of x."""
    neck.keep_state = True
    with torch.no_grad():
        neck(x)
    neck.keep_state, state = False, neck.state
    assert state is not None
    return state


@pytest.mark.parametrize("add_input", [False, True])
@torch.no_grad()
def test_at_the_fixed_point_one_evaluation_is_enough(add_input: bool) -> None:
    neck = build(add_input=add_input)
    cold = neck(features())
    assert bool((neck.evals() > 2).all())
    state = held(neck, features())
    calls: list[int] = []
    neck.g.register_forward_hook(lambda *_: calls.append(1))
    warm = neck(features(), start=state)
    assert neck.evals().tolist() == [1, 1]
    assert len(calls) == 1
    assert neck.restarted is not None
    assert not neck.restarted.any()
    for name, level in cold.items():
        # Two states whose residuals are both below 1e-3, at a contraction of about a half.
        assert float((warm[name] - level).norm() / level.norm()) < 4e-3


@torch.no_grad()
def test_another_scene_starts_cold_and_alone() -> None:
    """A state with a residual above that of zero is of no use: this image, and only this one, starts from zero."""
    neck = build()
    cold = neck(features())
    alone = neck.evals()
    state = held(neck, features())
    for fill in (100.0, float("nan")):
        spoilt = [level.clone() for level in state]
        spoilt[0][1] = fill
        calls: list[int] = []
        hook = neck.g.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        warm = neck(features(), start=spoilt)
        hook.remove()
        assert neck.restarted is not None
        assert neck.restarted.tolist() == [False, True]
        assert neck.evals().tolist()[1] == alone.tolist()[1] + 1
        assert len(calls) == int(neck.evals().max())
        for name, level in cold.items():
            # The batch may be cut to one image on the way, which rounds differently in float32.
            torch.testing.assert_close(warm[name][1], level[1], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_another_size_starts_cold() -> None:
    neck = build()
    state = held(neck, features())
    for x in (features(sizes=((16, 16), (8, 8))), features(batch=3)):
        expected = neck(x)
        found = neck(x, start=state)
        assert neck.restarted is None
        assert all(torch.equal(found[name], level) for name, level in expected.items())


def test_unrolled_steps_go_on_from_the_start() -> None:
    """P^2 from P^1 is P^3, with the gradients of two steps."""
    torch.manual_seed(0)
    three = list(build(solver=Unroll(3))(features()).values())
    state = held(build(solver=Unroll(1)), features())
    neck = build(solver=Unroll(2))
    with torch.no_grad():
        without = list(neck(features(), start=state).values())
    found = list(neck(features(), start=state).values())
    for a, b, c in zip(found, three, without, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(c, b)
    torch.stack([level.square().mean() for level in found]).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in neck.g.parameters())


def test_the_state_belongs_to_the_neck() -> None:
    neck = build()
    neck.keep_state = True
    outputs = neck(OrderedDict((name, level[:1]) for name, level in features().items()))
    assert neck.state is not None
    before = [level.clone() for level in neck.state]
    for level in outputs.values():
        level.detach().zero_()
    assert all(torch.equal(a, b) for a, b in zip(neck.state, before, strict=True))
    assert not any(level.requires_grad for level in neck.state)
    assert copy.deepcopy(neck).state is None
    neck.keep_state = False
    neck(features())
    assert neck.state is None


def test_no_start_in_training() -> None:
    neck = build().train()
    with pytest.raises(ValueError, match="start is for evaluation"):
        neck(features(), start=held(build(), features()))
    neck.keep_state = True
    neck(features())
    assert neck.state is None


def moving(frame: int) -> OrderedDict[str, Tensor]:
    """A scene that changes by a percent per frame."""
    a, b = features(seed=3), features(seed=4)
    return OrderedDict((name, a[name] + 0.01 * frame * b[name]) for name in a)


@torch.no_grad()
def test_a_stream_needs_fewer_evaluations_and_finds_the_same() -> None:
    neck = build()
    with Stream(neck) as stream:
        for frame in range(4):
            warm = stream(moving(frame))
            cold = neck(moving(frame))  # between the frames: the stream has a state of its own
            for name, level in cold.items():
                assert float((warm[name] - level).norm() / level.norm()) < 4e-3
            cold_evals = neck.evals()
            assert bool((stream.evals[-1] < cold_evals).all()) == (frame > 0)
    assert neck.state is None
    with stream:
        stream(moving(4))  # entered again: cold
        neck(moving(4))
        assert torch.equal(stream.evals[-1], neck.evals())


@torch.no_grad()
def test_an_explicit_neck_streams_as_it_is() -> None:
    neck = FPN(CHANNELS, 16).eval()
    with Stream(neck) as stream:
        for name, level in stream(features()).items():
            assert torch.equal(level, neck(features())[name])
    assert stream.evals == []


class OneBox(nn.Module):
    """A neck on the pooled image, and the box (0, 0, 4, 4) whose score is a mean of the pyramid."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = build()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        batch = torch.stack(images).repeat(1, 3, 1, 1)[:, :8]
        x = OrderedDict(c3=batch[:, :6], c4=nn.functional.avg_pool2d(batch, 2))
        scores = self.neck(x)["c3"].mean(dim=(1, 2, 3)).sigmoid()
        box, label = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0])
        return [{"boxes": box, "scores": score[None], "labels": label} for score in scores]


def test_a_predictor_tells_the_evaluations_of_each_frame() -> None:
    predictor = Predictor(OneBox(), ["thing"], [1], {}, torch.device("cpu"))
    image = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with predictor.stream() as stream:
        found = [stream(image), stream(image), stream(1 - image)]
    evals = [one.solver.evals for one in found]
    assert evals[0] > evals[1] == 1 < evals[2]
    assert found[0].scores == pytest.approx(found[1].scores, abs=1e-3)  # both to a residual of 1e-3
    assert predictor(image).solver == found[0].solver
    assert [rows.tolist() for rows in stream.evals] == [[n] for n in evals]

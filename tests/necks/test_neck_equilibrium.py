"""The implicit pyramid and its gradient are limits of the unrolled ones; G is one function in a solve."""

from collections import OrderedDict
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ifpn.csc import BiFPNLayer, NoFusion, PyramidConv
from ifpn.layers.solve_scope import VariationalDropout, solve_scope
from ifpn.necks import ImplicitFPN, MDEQNeck, NoFPN
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.necks.pyramid_layout import PyramidLayout
from ifpn.solvers import GMRES, Anderson, Broyden, Equilibrium, Implicit, Picard, Unroll

CHANNELS = [8, 12, 16]


def features(batch: int = 2, grad: bool = False) -> "OrderedDict[str, Tensor]":
    generator = torch.Generator().manual_seed(3)
    sizes = [(13, 10), (7, 5), (4, 3)]
    return OrderedDict(
        (f"c{level + 3}", (3 * torch.randn(batch, c, *size, generator=generator)).requires_grad_(grad))
        for level, (c, size) in enumerate(zip(CHANNELS, sizes, strict=True))
    )


def exact(forward: Anderson | Broyden | Picard, evals: int = 60) -> Equilibrium:
    return Equilibrium(forward=forward, train_evals=evals, test_evals=evals, backward=Implicit(GMRES(), max_vjps=60))


def run(neck: nn.Module, x: "OrderedDict[str, Tensor]") -> tuple[list[Tensor], dict[str, Tensor]]:
    """Outputs, and the gradients of a fixed random functional in parameters and inputs. Masks by seed 7."""
    torch.manual_seed(7)
    outputs = list(neck(x).values())
    generator = torch.Generator().manual_seed(5)
    loss = sum((out * torch.randn(out.shape, generator=generator)).sum() for out in outputs)
    assert isinstance(loss, Tensor)
    named = dict(neck.named_parameters()) | dict(x)
    gradients = torch.autograd.grad(loss, list(named.values()))
    return [out.detach() for out in outputs], dict(zip(named, gradients, strict=True))


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp_min(1e-12))


@pytest.mark.slow
@pytest.mark.parametrize("solver", [Anderson(), Broyden()], ids=["anderson", "broyden"])
def test_implicit_is_200_unrolled_iterations(solver: Anderson | Broyden) -> None:
    """In training mode: same dropout masks and weight norm on both sides. fp32; bars 1e-5 and 1e-4."""
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, solver=exact(solver), dropout=0.2).train()
    implicit, gradients = run(neck, features(grad=True))
    neck.solver = Unroll(200)
    unrolled, expected = run(neck, features(grad=True))
    for a, b in zip(implicit, unrolled, strict=True):
        assert relative(a, b) < 1e-5
    scale = max(float(g.norm()) for g in expected.values())
    for name, gradient in expected.items():
        # one below 1e-3 of the largest is measured against that: it is a difference of large terms
        size = max(float(gradient.norm()), 1e-3 * scale)
        assert float((gradients[name] - gradient).norm()) < 1e-4 * size, name


def test_fixed_point_equation_holds() -> None:
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, solver=exact(Anderson())).eval()
    x = features()
    with torch.no_grad():
        p = list(neck(x).values())
        b = neck.projection(list(x.values()))
        g = neck.g([p_l + b_l for p_l, b_l in zip(p, b, strict=True)])
    for level, expected in zip(g, p, strict=True):
        assert relative(level, expected) < 1e-5


def test_unroll_counts_evaluations_from_zero() -> None:
    """P^1 = G(B), P^2 = G(G(B) + B)."""
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, solver=Unroll(2)).eval()
    x = features()
    b = neck.projection(list(x.values()))
    first = neck.g(b)
    second = neck.g([p + q for p, q in zip(first, b, strict=True)])
    for out, expected in zip(neck(x).values(), second, strict=True):
        torch.testing.assert_close(out, expected)


def test_unroll_zero_is_the_neck_without_pyramid() -> None:
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, solver=Unroll(0))
    none = NoFPN(CHANNELS, 16)
    none.projection.load_state_dict(neck.projection.state_dict())
    x = features()
    for out, expected in zip(neck(x).values(), none(x).values(), strict=True):
        assert torch.equal(out, expected)
    assert neck.stats is None


def test_images_of_a_batch_do_not_meet() -> None:
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16).eval()
    x = features(batch=3)
    together = neck(x)
    alone = neck(OrderedDict((name, level[1:2]) for name, level in x.items()))
    for name, level in alone.items():
        torch.testing.assert_close(together[name][1:2], level, rtol=1e-4, atol=1e-5)


# -- once per solve --


@pytest.mark.parametrize("solver", [Equilibrium(), Unroll(3)], ids=["equilibrium", "unroll"])
def test_weight_norm_is_computed_once(solver: Equilibrium | Unroll) -> None:
    neck = ImplicitFPN(CHANNELS, 16, solver=solver).train()
    calls: list[str] = []
    for name, module in neck.g.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            rule = module.get_submodule("parametrizations.weight.0")
            rule.register_forward_hook(lambda *_, name=name: calls.append(name))
    outputs = neck(features())
    sum((out.sum() for out in outputs.values()), torch.zeros(())).backward()
    assert len(calls) == len(set(calls)) == 23


def test_masks_are_held_during_a_forward_and_new_in_the_next() -> None:
    neck = ImplicitFPN(CHANNELS, 16, dropout=0.5).train()
    dropout = neck.g.get_submodule("residual.0.dropout")
    assert isinstance(dropout, VariationalDropout)
    masks: list[Tensor] = []

    def note(module: nn.Module, _: object, __: object) -> None:
        assert isinstance(module, VariationalDropout)
        assert module._mask is not None
        masks.append(module._mask)

    dropout.register_forward_hook(note)
    neck(features())
    first, evaluations = masks[0], len(masks)
    assert evaluations == 16  # 15 to search, 1 for the value
    assert all(mask is first for mask in masks)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    neck(features())
    assert masks[evaluations] is not first
    assert not torch.equal(masks[evaluations], first)
    assert dropout._mask is None


def test_dropout_is_off_in_evaluation() -> None:
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, dropout=0.5).eval()
    first, second = neck(features()), neck(features())
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("solver", [Equilibrium(), Unroll(4)], ids=["equilibrium", "unroll"])
@pytest.mark.parametrize("grad", [True, False], ids=["grad", "no_grad"])
def test_batch_norm_statistics_move_once(solver: Equilibrium | Unroll, grad: bool) -> None:
    """One update per forward, by the batch of the last evaluation."""
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, csc=lambda c, n: PyramidConv(c, n, ibn=True), solver=solver).train()
    norm = neck.g.get_submodule("csc.ibn")
    assert isinstance(norm, nn.BatchNorm2d)
    seen: list[Tensor] = []
    norm.register_forward_pre_hook(
        lambda _, inputs: seen.append(torch.cat([level.detach().flatten(2) for level in inputs[0]], dim=2))
    )
    mean_buffer = norm.running_mean
    with torch.set_grad_enabled(grad):
        outputs = neck(features())
    if grad:
        sum((out.sum() for out in outputs.values()), torch.zeros(())).backward()
    assert len(seen) > 1
    assert norm.running_mean is mean_buffer  # distributed wrappers hold the buffer itself
    assert norm.running_mean is not None
    assert int(norm.num_batches_tracked or 0) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[-1].mean(dim=(0, 2)))


def test_an_error_inside_a_solve_leaves_nothing_behind() -> None:
    neck = ImplicitFPN(CHANNELS, 16, csc=lambda c, n: BiFPNLayer(c, n, norm="bn"), dropout=0.5).train()
    before = {name: value.clone() for name, value in neck.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), solve_scope(neck.g):  # noqa: PT012
        neck.g(neck.projection(list(features().values())))
        raise RuntimeError("stop")
    assert all(torch.equal(before[name], value) for name, value in neck.state_dict().items())
    assert not any(m._mask is not None for m in neck.modules() if isinstance(m, VariationalDropout))
    neck(features())


# -- memory --


def saved_bytes(neck: EquilibriumNeck) -> int:
    """Bytes that autograd keeps after a training forward, each storage once, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in neck.parameters()}
    kept: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = neck.train()(features())
    assert outputs
    return sum(kept.values())


Make = Callable[..., EquilibriumNeck]


@pytest.mark.parametrize("make", [ImplicitFPN, lambda c, n, **kw: MDEQNeck(c, n, groups=2, **kw)])
def test_activation_memory_does_not_grow_with_evaluations(make: Make) -> None:
    few = saved_bytes(make(CHANNELS, 16, solver=Equilibrium(train_evals=5)))
    many = saved_bytes(make(CHANNELS, 16, solver=Equilibrium(train_evals=25)))
    assert many <= 1.05 * few


def test_activation_memory_of_unrolling_grows_linearly() -> None:
    b5, b15, b25 = (saved_bytes(ImplicitFPN(CHANNELS, 16, solver=Unroll(steps))) for steps in (5, 15, 25))
    assert b25 - b15 == pytest.approx(b15 - b5, rel=0.02)
    assert b25 - b5 > 2.5 * b5  # what does not grow: the weights of weight norm, saved once


# -- state --


def test_layout_round_trip() -> None:
    levels = [torch.randn(2, 3, h, w) for h, w in [(5, 4), (3, 2), (1, 1)]]
    layout = PyramidLayout.of(levels)
    with torch.no_grad():
        z = layout.flatten(levels, torch.float32)
    assert torch.equal(z, layout.flatten([level.requires_grad_() for level in levels], torch.float32))
    assert z.shape == (2, 3 * 27)
    for view, level in zip(layout.views(z), levels, strict=True):
        assert torch.equal(view, level)
        assert view.untyped_storage().data_ptr() == z.untyped_storage().data_ptr()
    assert layout.zeros(levels[0].bfloat16()).dtype == torch.float32
    assert layout.zeros(levels[0].double()).dtype == torch.float64


def test_no_cross_scale_block_has_no_fixed_point() -> None:
    """csc=none: the shortcut makes P = P + B + f(P + B); each evaluation adds to the state."""
    torch.manual_seed(0)
    x = features()
    norms = []
    for steps in (10, 20, 40):
        torch.manual_seed(0)
        neck = ImplicitFPN(CHANNELS, 16, csc=NoFusion, solver=Unroll(steps)).eval()
        norms.append(float(neck(x)["c3"].detach().norm()))
    assert norms[1] > 1.7 * norms[0]
    assert norms[2] > 1.7 * norms[1]

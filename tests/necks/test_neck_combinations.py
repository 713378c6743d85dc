"""Every neck x csc x solver takes a step; what has no meaning is refused; defaults agree with the YAML."""

import copy
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from ifpn.csc import BiFPNLayer, DenseFusion, NASFPNCell, NoFusion, PyramidConv
from ifpn.errors import UserError
from ifpn.necks import FPN, PAFPN, ImplicitFPN, MDEQNeck, Neck, NoFPN, StackedFPN
from ifpn.solvers import Broyden, Equilibrium, Implicit, OneStep, Phantom, Picard, Unroll, Unrolled
from tests.necks import cases

CONF = Path(__file__).parents[2] / "conf"
CHANNELS = [8, 12, 16]
# 25 -> 13 -> 7 rows; P6 and P7 have 4 and 2.
features = partial(cases.features, CHANNELS, [(25, 10), (13, 5), (7, 3)], seed=1)
MDEQ = partial(MDEQNeck, groups=2)
CSC: dict[str, Callable[[int, int], nn.Module]] = {
    "pyramid": PyramidConv,
    "shared": partial(PyramidConv, share=True),
    "ibn": partial(PyramidConv, ibn=True),
    "deform": partial(PyramidConv, deform=True),
    "dense": DenseFusion,
    "bifpn": BiFPNLayer,
    "bifpn bn": partial(BiFPNLayer, norm="bn"),
    "nasfpn": NASFPNCell,
    "none": NoFusion,
}
SOLVERS = {
    "anderson": Equilibrium(train_evals=4),
    "broyden": Equilibrium(forward=Broyden(), train_evals=4, backward=Implicit(Broyden(), max_vjps=3)),
    "picard": Equilibrium(forward=Picard(), train_evals=4, backward=OneStep()),
    "truncated": Equilibrium(train_evals=4, backward=Unrolled(steps=2)),
    "phantom": Equilibrium(train_evals=4, backward=Phantom(steps=2, tau=0.5)),
    "unroll": Unroll(2),
}
NECKS: dict[str, Callable[..., Neck]] = {"none": NoFPN, "fpn": FPN, "pafpn": PAFPN}
NECKS |= {"pafpn all": partial(PAFPN, bottom_up="all"), "c5": partial(NoFPN, extra_levels="c5")}
NECKS |= {f"stack {c}": partial(StackedFPN, csc=CSC[c], repeats=2) for c in CSC if c != "none"}
NECKS |= {f"implicit {c} {s}": partial(ImplicitFPN, csc=CSC[c], solver=SOLVERS[s]) for c in CSC for s in SOLVERS}
NECKS |= {f"mdeq {s}": partial(MDEQ, solver=SOLVERS[s]) for s in SOLVERS}
NECKS |= {
    "output norm": partial(ImplicitFPN, output_norm=True),
    "post norm": partial(ImplicitFPN, block="post_norm"),
    "no residual block": partial(ImplicitFPN, residual_block=False),
    "no weight norm": partial(ImplicitFPN, weight_norm=False, dropout=0.0),
    "lateral norm": partial(ImplicitFPN, norm_layer=nn.BatchNorm2d),
    "jacobian": partial(ImplicitFPN, jacobian_penalty=0.1),
    "mdeq jacobian": partial(MDEQ, jacobian_penalty=0.1, expansion=2),
}


STEPS = [(name, "fp32") for name in NECKS]
# under autocast the csc matters and which forward solver does not: they see an fp32 state
STEPS += [(name, "bf16") for name in NECKS if not name.endswith((" broyden", " picard", " truncated", " phantom"))]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), STEPS)
def test_a_training_step(name: str, precision: str) -> None:
    """Every parameter gets a finite gradient, and most of them one that is not zero."""
    torch.manual_seed(0)
    neck = NECKS[name](CHANNELS, 16).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        outputs = neck(features())
    sizes = [(25, 10), (13, 5), (7, 3), (4, 2), (2, 1)]
    assert [tuple(out.shape) for out in outputs.values()] == [(2, 16, *size) for size in sizes]
    assert list(outputs) == ["c3", "c4", "c5", "p6", "p7"]
    terms = [(out.float() * torch.randn(out.shape)).mean() for out in outputs.values()]
    loss = sum(terms + list(neck.auxiliary_losses.values()), torch.zeros(()))
    loss.backward()
    gradients = {name: p.grad for name, p in neck.named_parameters()}
    assert [name for name, grad in gradients.items() if grad is None or not grad.isfinite().all()] == []
    nonzero = [name for name, grad in gradients.items() if grad is not None and grad.any()]
    assert len(nonzero) > 0.9 * len(gradients)


@pytest.mark.parametrize("name", ["implicit pyramid anderson", "mdeq anderson", "jacobian", "fpn", "stack bifpn bn"])
def test_copies_and_saved_states_answer_alike(name: str) -> None:
    """After a training forward too, whose traces hold a graph."""
    torch.manual_seed(0)
    neck = NECKS[name](CHANNELS, 16).train()
    neck(features())
    copied = copy.deepcopy(neck).eval()
    file = io.BytesIO()
    torch.save(neck.state_dict(), file)
    file.seek(0)
    loaded = NECKS[name](CHANNELS, 16).eval()
    loaded.load_state_dict(torch.load(file, weights_only=True))
    expected = neck.eval()(features())
    for other in (copied, loaded):
        for key, level in other(features()).items():
            assert torch.equal(level, expected[key])
    with torch.no_grad():  # a copy owns its weights
        for p in copied.parameters():
            p.zero_()
    assert torch.equal(neck(features())["c3"], expected["c3"])


def test_fpn_is_torchvisions() -> None:
    torch.manual_seed(0)
    neck, theirs = FPN(CHANNELS, 16, extra_levels="none"), FeaturePyramidNetwork(CHANNELS, 16)
    theirs.load_state_dict(neck.fpn.state_dict())
    for key, level in theirs(features()).items():
        assert torch.equal(neck(features())[key], level)


@pytest.mark.parametrize(("norm", "layer"), [("gn", partial(nn.GroupNorm, 2)), ("bn", nn.BatchNorm2d)])
def test_fpn_with_norms_is_torchvisions(norm: str, layer: Callable[[int], nn.Module]) -> None:
    """16 channels in two groups of eight; the state loads only if there are no biases before the norms."""
    torch.manual_seed(0)
    neck = FPN(CHANNELS, 16, extra_levels="none", norm=norm)
    theirs = FeaturePyramidNetwork(CHANNELS, 16, norm_layer=layer)
    theirs.load_state_dict(neck.fpn.state_dict())
    expected = theirs(features())
    for key, level in neck(features()).items():
        assert torch.equal(level, expected[key])


def test_jacobian_penalty_lowers_the_jacobian_and_is_absent_in_evaluation() -> None:
    """A few steps on the penalty alone must reduce it: its gradient reaches G."""
    torch.manual_seed(0)
    neck = ImplicitFPN(CHANNELS, 16, jacobian_penalty=1.0, dropout=0.0).train()
    optimizer = torch.optim.Adam(neck.g.parameters(), lr=2e-2)
    values = []
    for _ in range(8):
        neck(features())
        penalty = neck.auxiliary_losses["jacobian"]
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        values.append(penalty.item())
    assert sum(values[-3:]) < 0.7 * sum(values[:3])
    neck.eval()(features())
    assert neck.auxiliary_losses == {}


def test_stats_tell_of_the_last_forward() -> None:
    neck = ImplicitFPN(CHANNELS, 16)
    neck.train()(features())
    assert neck.stats is not None
    assert neck.stats.forward.evals == 15
    neck.eval()(features())
    assert neck.stats.forward.evals == 7
    assert NoFPN(CHANNELS, 16).stats is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: ImplicitFPN(CHANNELS, 16, csc=NoFusion, residual_block=False),
            "leaves G without parameters",
        ),
        (lambda: StackedFPN(CHANNELS, 16, csc=NoFusion), "^csc=none: must be another one with neck=stack"),
        (lambda: ImplicitFPN(CHANNELS, 16, block="pre"), "^block=pre: must be basic or post_norm"),
        (
            lambda: ImplicitFPN(CHANNELS, 16, residual_block=False, block="post_norm"),
            "^block=post_norm: must be basic with residual_block=false",
        ),
        (lambda: StackedFPN(CHANNELS, 16, repeats=0), "^repeats=0: must be a whole number from 1 to 100"),
        (
            lambda: ImplicitFPN(CHANNELS, 16, csc=CSC["deform"], jacobian_penalty=0.1),
            "^jacobian_penalty=0.1: must be 0 with deformable",
        ),
        (
            lambda: ImplicitFPN(CHANNELS, 16, jacobian_penalty=-1.0),
            "^jacobian_penalty=-1.0: must be a number from 0 to",
        ),
        (lambda: ImplicitFPN(CHANNELS, 16, dropout=1.0), "^dropout=1.0: must be a number from 0 to below 1"),
        (lambda: ImplicitFPN(CHANNELS, 16, extra_levels="p6"), "^extra_levels=p6: must be p5, c5 or none"),
        (
            lambda: ImplicitFPN(CHANNELS, 16, LastLevelMaxPool(), extra_levels="c5"),
            "^extra_levels=c5: must be left",
        ),
        (
            lambda: ImplicitFPN(CHANNELS, 16, csc=NASFPNCell, extra_levels="none"),
            "^csc=nasfpn: must be another one for 3 levels.*P3..P7",
        ),
        (lambda: ImplicitFPN([], 16), r"in_channels_list=\[\]: must be positive, with"),
        (lambda: ImplicitFPN(CHANNELS, 0), "^out_channels=0: must be a whole number from 1"),
        (
            lambda: MDEQNeck(CHANNELS, 16, groups=5),
            "^groups=5: must be even and divide the 16 channels..*2, 4, 8, 16",
        ),
        (lambda: MDEQNeck(CHANNELS, 16, groups=2, expansion=0), "^expansion=0: must be a whole number from 1"),
        (lambda: PAFPN(CHANNELS, 16, bottom_up="both"), "^bottom_up=both: must be backbone or all"),
        (lambda: FPN(CHANNELS, 16, norm="ln"), "^norm=ln: must be none, gn or bn"),
        (
            lambda: FPN(CHANNELS, 16, norm_layer=nn.BatchNorm2d, norm="gn"),
            "^norm=gn: must be left out",
        ),
    ],
)
def test_what_a_user_can_set_is_refused_by_name(make: Callable[[], object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make()


def test_wrong_features_are_refused() -> None:
    with pytest.raises(ValueError, match="built for levels of"):
        FPN([8, 12], 16)(features())
    with pytest.raises(ValueError, match="half"):
        ImplicitFPN([8, 8], 16)({"a": torch.zeros(1, 8, 9, 9), "b": torch.zeros(1, 8, 4, 4)})


def test_extra_blocks_must_be_torchvisions() -> None:
    with pytest.raises(TypeError, match="ExtraFPNBlock"):
        FPN(CHANNELS, 16, nn.Identity())

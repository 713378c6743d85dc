"""Images that are done leave the neck's computation, in evaluation only."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor

from ifpn.necks import ImplicitFPN, MDEQNeck
from ifpn.solvers import Equilibrium
from tests.necks import cases


def features() -> OrderedDict[str, Tensor]:
    """Four images of very different contrast, so that they need different numbers of evaluations."""
    contrast = torch.tensor([1e-3, 1.0, 30.0, 0.1])[:, None, None, None]
    return OrderedDict((name, contrast * level) for name, level in cases.features(batch=4).items())


@pytest.mark.parametrize(("make", "rtol"), [(ImplicitFPN, 0.2), (MDEQNeck, 0.3)])
def test_a_batch_is_its_images(make: Any, rtol: float) -> None:
    torch.manual_seed(0)
    neck = make([6, 8], 16, extra_levels="none", solver=Equilibrium(test_evals=30, rtol=rtol)).double().eval()
    sizes: list[int] = []
    neck.g.register_forward_hook(lambda module, args, out: sizes.append(len(out[0])))
    x = OrderedDict((name, level.double()) for name, level in features().items())
    with torch.no_grad():
        together = neck(x)
        used = neck.stats.forward.sample_evals.tolist()
        assert len(set(used)) > 1
        assert sum(used) <= sum(sizes) < 4 * max(used)
        for i in range(4):
            alone = neck(OrderedDict((name, level[i : i + 1]) for name, level in x.items()))
            assert neck.stats.forward.sample_evals.tolist() == used[i : i + 1]
            for name, level in alone.items():
                # float64, another batch size in the convolutions, carried through 30 evaluations
                torch.testing.assert_close(together[name][i : i + 1], level, rtol=1e-9, atol=1e-9)


def test_not_in_training() -> None:
    torch.manual_seed(0)
    neck = ImplicitFPN([6, 8], 8, solver=Equilibrium(train_evals=30, rtol=0.02))
    sizes: list[int] = []
    neck.g.register_forward_hook(lambda module, args, out: sizes.append(len(out[0])))
    with torch.no_grad():
        neck(features())
    assert set(sizes) == {4}

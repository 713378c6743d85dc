"""The residual block of G, against its formula."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ifpn.necks import ImplicitFPN
from ifpn.necks.transformation import ResidualBlock


def test_post_norm_is_a_group_norm_behind_the_block() -> None:
    """GN(ReLU(x + GN(conv(ReLU(GN(conv x)))))): each group of an image has mean 0 and variance 1."""
    torch.manual_seed(0)
    block, basic = ResidualBlock(16, 0.0, post_norm=True), ResidualBlock(16, 0.0)
    basic.load_state_dict({name: value for name, value in block.state_dict().items() if "norm3" not in name})
    x = torch.randn(2, 16, 5, 4)
    inner = F.relu(F.group_norm(F.conv2d(x, block.conv1.weight, padding=1), 2))
    out = F.relu(x + F.group_norm(F.conv2d(inner, block.conv2.weight, padding=1), 2))
    torch.testing.assert_close(basic(x), out)
    torch.testing.assert_close(block(x), F.group_norm(out, 2))
    for scale in (1.0, 1000.0):
        groups = block(scale * x).unflatten(1, (2, 8)).flatten(2)
        torch.testing.assert_close(groups.mean(dim=2), torch.zeros(2, 2), rtol=0, atol=1e-5)
        torch.testing.assert_close(groups.var(dim=2, correction=0), torch.ones(2, 2), rtol=1e-3, atol=0)


def test_the_basic_block_keeps_its_parameters() -> None:
    names = {name for name in ImplicitFPN([6, 8], 16).state_dict() if name.startswith("g.residual.0.norm")}
    assert names == {f"g.residual.0.norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}

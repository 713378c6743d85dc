"""No cross-scale connection (paper Table 3 without CSC, Table 4 "no CSC")."""

from __future__ import annotations

from torch import Tensor, nn

from ifpn.layers.init import check_levels, check_sizes


class NoFusion(nn.Module):
    """O_i = Z_i: no level sees another, and the block has no parameters.

    Inside an implicit G this leaves P = R(P + B), which has no fixed point at random initialisation: the
    shortcut of R makes it P = P + B + f(P + B), and the state grows by about ||B|| in each evaluation. A
    relative residual ||G - P|| / ||G|| then falls with the size of P alone: Broyden's method ends a thousand
    times ||B|| away with a residual below 1e-3. GroupNorm on G's output (`output_norm`) gives it a fixed
    point; a few unrolled steps need none.

    Args:
        channels: C of every level.
        num_levels: number of levels L.
    """

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__()
        check_sizes("NoFusion", channels, num_levels)
        self.num_levels = num_levels

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Levels (N, C, H_l, W_l), fine to coarse, in and out."""
        check_levels("NoFusion", levels, self.num_levels)
        return list(levels)

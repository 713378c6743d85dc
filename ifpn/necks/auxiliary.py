"""Losses of an implicit neck itself, which shape G; all are off unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ifpn.solvers import jacobian_penalty
from ifpn.solvers.repeat import repeat

if TYPE_CHECKING:
    from ifpn.necks.equilibrium_options import EquilibriumOptions


def jacobian_losses(f: Callable[[Tensor], Tensor], p: Tensor, options: EquilibriumOptions) -> dict[str, Tensor]:
    """The weighted penalty on the Jacobian of f at P* (N, D), by name; empty in a step that is left out.

    Whether it is left out is drawn from torch's generator, which training seeds anew for every step, so a resumed
    run draws the same.
    """
    if options.jacobian_penalty == 0:
        return {}
    if options.jacobian_every < 1 and float(torch.rand(())) >= options.jacobian_every:
        return {}
    z = p.detach().requires_grad_()
    none = torch.zeros(len(p), dtype=torch.bool, device=p.device)
    y, _ = repeat(f, z, 1, none)  # an image whose f is not finite adds nothing
    return {"jacobian": options.jacobian_penalty * jacobian_penalty(y, z)}

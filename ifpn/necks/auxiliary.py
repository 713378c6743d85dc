"""Losses of an implicit neck itself, which shape G; all are off unless asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ifpn.solvers import contraction_penalty, jacobian_penalty
from ifpn.solvers.repeat import repeat

if TYPE_CHECKING:
    from ifpn.necks.equilibrium_options import EquilibriumOptions


def jacobian_losses(f: Callable[[Tensor], Tensor], p: Tensor, options: EquilibriumOptions) -> dict[str, Tensor]:
    """The weighted penalties on the Jacobian of f at P* (N, D), by name; empty in a step that is left out.

    Whether it is left out is drawn from torch's generator, which training seeds anew for every step, so a resumed
    run draws the same.
    """
    if not options.differentiated_twice:
        return {}
    if options.jacobian_every < 1 and float(torch.rand(())) >= options.jacobian_every:
        return {}
    z = p.detach().requires_grad_()
    none = torch.zeros(len(p), dtype=torch.bool, device=p.device)
    y, _ = repeat(f, z, 1, none)  # an image whose f is not finite adds nothing
    losses = {}
    if options.jacobian_penalty > 0:
        losses["jacobian"] = options.jacobian_penalty * jacobian_penalty(y, z)
    if options.contraction_penalty > 0:
        losses["contraction"] = options.contraction_penalty * contraction_penalty(y, z, options.contraction_margin)
    return losses

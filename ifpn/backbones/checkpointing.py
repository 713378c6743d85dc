"""Gradient checkpointing: a part's activations are computed again in the backward pass instead of kept."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def run(part: nn.Module, x: Tensor, *, checkpointing: bool) -> Any:
    """Return `part(x)`; with `checkpointing`, keep `x` alone for the backward pass.

    Numbers, gradients, random masks and the running statistics of batch norms are the same either way. Costs a
    second forward of the part.
    """
    kept = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in part.parameters()))
    if not checkpointing or not kept:
        return part(x)
    norms = [m for m in part.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    if not norms:
        return checkpoint(part, x, use_reentrant=False)
    return checkpoint(part, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(norms)))


@contextmanager
def _statistics_kept(norms: list[_BatchNorm]) -> Iterator[None]:
    """Let the second forward update copies of the running statistics: the first has updated them already."""
    own = [(norm, dict(norm._buffers)) for norm in norms]
    try:
        for norm, buffers in own:
            norm._buffers = {name: None if b is None else b.clone() for name, b in buffers.items()}
        yield
    finally:
        for norm, buffers in own:
            norm._buffers = buffers

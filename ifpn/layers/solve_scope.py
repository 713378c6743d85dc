"""Once per solve: weight norm, dropout masks and BatchNorm statistics of a G that is evaluated many times."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from ifpn.errors import UserError
from ifpn.layers.deform import DeformableConv


@contextmanager
def solve_scope(g: nn.Module) -> Iterator[None]:
    """Make all evaluations of `g` inside the block evaluations of one and the same function.

    * Weight norm: w = g v / ||v|| is computed once, with a graph if gradients are on; every evaluation uses
      it, so that each parameter receives one gradient.
    * Variational dropout: each mask is drawn at the first evaluation and kept to the last one.
    * BatchNorm in training: every evaluation normalises with its own batch statistics; the running statistics
      (and the counter) are those before the solve updated once, with the LAST evaluation, which is the one at
      the returned state. SyncBatchNorm needs a fixed budget (rtol = 0): its collectives must match between
      processes.
    """
    with ExitStack() as stack:
        stack.enter_context(parametrize.cached())
        for module in g.modules():
            if isinstance(module, VariationalDropout):
                stack.enter_context(module.held())
            if isinstance(module, _BatchNorm) and module.training and module.track_running_stats:
                stack.enter_context(_statistics_of_last_call(module))
            if parametrize.is_parametrized(module):
                for name in module.parametrizations:  # type: ignore[union-attr]
                    getattr(module, name)  # fills the cache here: the solver's evaluations build no graph
        yield


class VariationalDropout(nn.Module):
    """Channel dropout with a mask (N, C, 1, 1) that stays the same within `solve_scope`.

    Gal and Ghahramani 2016; identity in evaluation. Kept channels are scaled by 1 / (1 - p).

    Raises:
        UserError: unless 0 <= p < 1.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise UserError(f"dropout={p}: must be in [0, 1).")
        self.p = p
        self._hold = self._was_held = False
        self._mask: Tensor | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the first mask drawn inside the block until its end."""
        self._hold = self._was_held = True
        try:
            yield
        finally:
            self._hold, self._mask = False, None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training or self.p == 0:
            return x
        mask = self._mask
        if mask is None and self._was_held and not self._hold and torch._C._current_graph_task_id() != -1:
            raise RuntimeError(
                "variational dropout was recomputed in the backward pass, after the solve that its mask belongs to. "
                "Checkpoint the whole neck instead of a part of G, or set neck.dropout=0"
            )
        if mask is None:
            mask = x.new_empty((x.shape[0], x.shape[1], 1, 1)).bernoulli_(1 - self.p).div_(1 - self.p)
            self._mask = mask if self._hold else None
        return x * mask

    def extra_repr(self) -> str:
        """The rate."""
        return f"p={self.p}"


def apply_weight_norm(module: nn.Module) -> None:
    """Reparametrise every convolution as w = g v / ||v|| per output channel (Salimans and Kingma 2016), in place.

    g starts at ||v||, so that the function is unchanged. Offset convolutions of deformable kernels are left
    out: they start at zero, where v / ||v|| does not exist.
    """
    offsets = {id(m.offset) for m in module.modules() if isinstance(m, DeformableConv)}
    for conv in [m for m in module.modules() if isinstance(m, nn.Conv2d) and id(m) not in offsets]:
        weight_norm(conv, "weight", dim=0)


@contextmanager
def _statistics_of_last_call(norm: _BatchNorm) -> Iterator[None]:
    """Each call starts from the running statistics before the block; the last call's update is kept.

    The calls write into fresh tensors: the graph of an earlier call may have saved the ones it was given.
    """
    own = {name: buffer for name, buffer in norm.named_buffers(recurse=False) if buffer is not None}

    def start_afresh(module: nn.Module, _: object) -> None:
        for name, buffer in own.items():
            module._buffers[name] = buffer.clone()

    hook = norm.register_forward_pre_hook(start_afresh)
    try:
        yield
        for name, buffer in own.items():
            last = norm._buffers[name]
            if last is not None:
                buffer.copy_(last)
    finally:
        hook.remove()
        for name, buffer in own.items():
            norm._buffers[name] = buffer

"""Plain evaluations of f whose gradient is wanted; a sample that fails in one keeps its state and gives no gradient.

A sample with a non-finite activation has a gradient of 0 · NaN = NaN, in every weight that it shares with the others,
even if nothing of it is used. So where a sample fails, f is evaluated again, and the non-finite values that autograd
saves of that sample are replaced: its gradient is then a plain zero.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ifpn.solvers.batched import sample_norms
from ifpn.solvers.per_sample import any_or_device
from ifpn.solvers.solution import Map
from ifpn.solvers.state import evaluate, flatten, own_copy, state_dtype


@contextmanager
def without_samples(failed: Tensor) -> Iterator[None]:
    """Keep the samples `failed` (B,) out of the gradients of what is computed inside: their values are not finite.

    Of every tensor with B rows that autograd saves, the non-finite numbers in the rows of these samples become 0.
    """

    def pack(saved: Tensor) -> Tensor:
        if saved.dim() == 0 or saved.shape[0] != len(failed) or not saved.is_floating_point():
            return saved
        return saved.masked_fill(rows(failed, saved) & ~torch.isfinite(saved), 0.0)

    with saved_tensors_hooks(pack, lambda saved: saved):
        yield


def rows(mask: Tensor, like: Tensor) -> Tensor:
    """View mask (B,) as (B, 1, ...), to be broadcast over `like`."""
    return mask.view(-1, *[1] * (like.dim() - 1))


def repeat(
    f: Map,
    start: Tensor,
    steps: int,
    failed: Tensor,
    *,
    tau: float = 1.0,
    original: Tensor | None = None,
    residuals: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Evaluate f `steps` times, z <- z + tau (f(z) - z).

    Args:
        f: see `solve`; called a second time per step only where a sample fails under autograd.
        start: first state (B, ...).
        steps: evaluations; all are made under autograd if it is on.
        failed: (B,) samples known to have no finite value.
        tau: damping.
        original: see `evaluate`.
        residuals: filled with that of every z at which f was evaluated, (B,).

    Returns:
        The last state, and (B,) the samples that have failed. A sample whose evaluation is not finite keeps its state.
    """
    transformed = torch._C._are_functorch_transforms_active()  # Unroll alone comes here then; no value can be looked at
    failures: list[Tensor] = []
    while True:
        z, bad, found, careful = start, failed, [], bool(failures)
        for i in range(steps):
            z = own_copy(z) if z.is_inference() else z
            with without_samples(failures[i]) if careful else nullcontext():
                y = evaluate(f, z, original).to(state_dtype(z))
            bad, original = bad | _nonfinite(y), None
            if careful:
                bad = bad | failures[i]
            if not careful:
                failures.append(bad)
            if not transformed and any_or_device(bad):
                y = torch.where(rows(bad, y), z.detach(), y)
            if residuals is not None:
                found.append(_residual(z, y, bad))
            z = y if tau == 1 else torch.lerp(z, y, tau)
        # This waits for the device, once, and only where there is a graph to protect.
        if careful or transformed or not torch.is_grad_enabled() or not bool(bad.any()):
            break
    if residuals is not None:
        residuals += found
    return z, bad


def _nonfinite(y: Tensor) -> Tensor:
    return ~(sample_norms(flatten(y)) < torch.inf)  # true for NaN, too


@torch.no_grad()
def _residual(z: Tensor, y: Tensor, failed: Tensor) -> Tensor:
    """|y - z| / |y| per sample; inf where f failed and z was kept."""
    flat = flatten(y)
    size = sample_norms(flat)
    residual = sample_norms(flat - flatten(z)) / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(failed, torch.inf, residual)

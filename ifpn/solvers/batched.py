"""The two kernels of every solver here, on a history of vectors (B, K, N), and helpers on flat states (B, N).

A state of a real pyramid is tens of megabytes, so a solver's cost is the number of times it reads and writes
such vectors. Both kernels read each stored vector once.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """Precision of everything of size B, K or K x K: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


# Longer vectors are summed in parts, and the parts in float64: one float32 sum over 2e7 numbers keeps three digits.
LONG = 1 << 18
_PART, _NORM_PART = 512, 1024


def inner_products(history: Tensor, x: Tensor) -> Tensor:
    """Inner products of x (B, N) with every row of history (B, K, N): (B, K), in accumulation precision."""
    exact = accumulation_dtype(x.device)
    if x.shape[1] <= LONG:
        # This orientation: `history @ x[..., None]` can fall into a kernel ten times slower on CPUs.
        return (x.unsqueeze(1) @ history.transpose(1, 2)).squeeze(1).to(exact)
    parts, whole = x.shape[1] // _PART, x.shape[1] // _PART * _PART
    sums = []
    for vector, rows in zip(x, history, strict=True):  # per sample, so that both operands are views
        by_part = rows[:, :whole].view(-1, parts, _PART).permute(1, 2, 0)
        product = vector[:whole].view(parts, 1, _PART) @ by_part
        sums.append(product.to(exact).sum(dim=0)[0] + (rows[:, whole:] @ vector[whole:]).to(exact))
    return torch.stack(sums)


def weighted_sum(history: Tensor, weights: Tensor, out: Tensor) -> Tensor:
    """Set out (B, N) to the sum over k of weights (B, K) times rows of history (B, K, N). `out`: contiguous."""
    torch.bmm(weights.to(history.dtype).unsqueeze(1), history, out=out.unsqueeze(1))
    return out


def add_weighted_sum_(row: Tensor, history: Tensor, weights: Tensor) -> Tensor:
    """Add to row (B, N), in place, the sum over k of weights (B, K) times rows of history (B, K, N).

    `row` may be another row of the buffer that `history` is a slice of.
    """
    row.unsqueeze(1).baddbmm_(weights.to(history.dtype).unsqueeze(1), history)
    return row


def sample_norms(x: Tensor) -> Tensor:
    """Euclidean norm of every sample of x (B, N), in accumulation precision; half precision is summed in float32."""
    exact = accumulation_dtype(x.device)
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.shape[1] <= LONG:
        size: Tensor = torch.linalg.vector_norm(x, dim=1, dtype=dtype)
        return size.to(exact)
    parts, whole = x.shape[1] // _NORM_PART, x.shape[1] // _NORM_PART * _NORM_PART
    sizes = torch.linalg.vector_norm(x[:, :whole].view(-1, parts, _NORM_PART), dim=2, dtype=dtype)
    rest = torch.linalg.vector_norm(x[:, whole:], dim=1, keepdim=True, dtype=dtype)
    total: Tensor = torch.linalg.vector_norm(torch.cat([sizes, rest], dim=1).to(exact), dim=1)
    return total


def keep_rows(buffer: Tensor, index: Tensor) -> Tensor:
    """The samples `index` (b,), ascending, of `buffer` (B, ...), moved to its front in place: no memory is added."""
    for new, old in enumerate(index.tolist()):
        if new != old:
            buffer[new].copy_(buffer[old])
    return buffer[: len(index)]

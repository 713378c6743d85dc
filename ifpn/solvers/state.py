"""The state as the loop sees it: flat (B, N), at least float32, and the best one so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ifpn.solvers.batched import any_or_device
from ifpn.solvers.solution import Map


def state_dtype(z: Tensor) -> torch.dtype:
    """float64 stays float64; everything shorter is solved in float32."""
    return torch.float64 if z.dtype == torch.float64 else torch.float32


def check_state(z0: Tensor) -> None:
    """Raise TypeError or ValueError unless z0 is a floating-point tensor with a batch dimension."""
    if not isinstance(z0, Tensor) or not z0.is_floating_point():
        what = str(z0.dtype) if isinstance(z0, Tensor) else type(z0).__name__
        raise TypeError(f"z0 must be a floating-point tensor, got {what}; convert it, e.g. z0.float()")
    if z0.dim() == 0:
        raise ValueError("z0 must have a batch dimension, shape (B, ...); got a scalar, use z0.reshape(1)")


def flatten(z: Tensor) -> Tensor:
    """(B, ...) -> (B, N) in state precision, without autograd; shares memory with z where it can."""
    return z.detach().reshape(z.shape[0], math.prod(z.shape[1:])).to(state_dtype(z))


@dataclass(frozen=True)
class FlatMap:
    """f on flat states, with its mistakes caught: (B, N) -> (B, N) in whatever precision f computed."""

    f: Map
    shape: torch.Size

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate f at z (B, N)."""
        tracked = not z.is_inference()
        version = z._version if tracked else 0
        out = self.f(z.reshape(self.shape))
        if tracked and z._version != version:
            raise ValueError("f changed its argument in place; let it work on a new tensor (no inplace=True first)")
        return check_output(out, self.shape).reshape(z.shape)

    @property
    def take(self) -> Callable[[Tensor], FlatMap] | None:
        """(b,) indices -> the map on those samples alone; None if f cannot be restricted."""
        take = getattr(self.f, "take", None)
        if take is None:
            return None
        return lambda index: FlatMap(take(index), torch.Size((len(index), *self.shape[1:])))


def check_output(out: Tensor, shape: torch.Size) -> Tensor:
    """Raise unless `out`, a value of f, is a floating-point tensor of the state's shape."""
    if not isinstance(out, Tensor) or not out.is_floating_point():
        what = str(out.dtype) if isinstance(out, Tensor) else type(out).__name__
        raise TypeError(f"f must return a floating-point tensor, got {what}")
    if out.shape != shape:
        raise ValueError(f"f must keep the shape of its argument: {tuple(shape)} became {tuple(out.shape)}")
    return out


class BestState:
    """The best state of every sample, kept by exchanging buffers, and copied only where samples disagree.

    It owns at most two buffers, the best and the next state, and with `keep_f` a third: f at the best state. Until
    an evaluation of a sample was finite that is z0.
    """

    def __init__(self, z0: Tensor, keep_f: bool) -> None:
        self.value = z0
        self.f_value = z0.clone() if keep_f else None
        self._spare: Tensor | None = None
        self._rows: Tensor | None = None
        self._all: tuple[Tensor, Tensor | None] = self.value, self.f_value

    def update(self, z: Tensor, fz: Tensor, improved: Tensor) -> None:
        """Take z (b, N) and f(z) for the samples in `improved` (b,)."""
        if not any_or_device(improved):
            return
        every = z.device.type == "cpu" and bool(improved.all())
        if self.f_value is not None and every:
            self.f_value.copy_(fz)
        elif self.f_value is not None:
            torch.where(improved[:, None], fz, self.f_value, out=self.f_value)
        if every and z is not self.value:
            self._spare, self.value = self.value, z
        elif z is not self.value:
            torch.where(improved[:, None], z, self.value, out=self.value)

    def next_buffer(self, z: Tensor) -> Tensor:
        """The buffer for the state that follows z: z itself, unless z is still needed."""
        if z is not self.value:
            return z
        spare, self._spare = self._spare, None
        return torch.empty_like(z) if spare is None else spare

    def take(self, index: Tensor) -> None:
        """Go on with the samples `index` of those present; the others keep what they have."""
        self._all = self.result()
        self._rows = index if self._rows is None else self._rows[index]
        self.value = self.value[index]
        self.f_value = None if self.f_value is None else self.f_value[index]
        self._spare = None

    def result(self) -> tuple[Tensor, Tensor | None]:
        """The best state of all samples (B, N), and f there if it was kept."""
        if self._rows is None:
            return self.value, self.f_value
        value, f_value = self._all
        value.index_copy_(0, self._rows, self.value)
        if f_value is not None and self.f_value is not None:
            f_value.index_copy_(0, self._rows, self.f_value)
        return value, f_value

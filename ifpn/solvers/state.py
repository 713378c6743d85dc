"""The state as the loop sees it: flat (B, N), at least float32, and the best one so far."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ifpn.solvers.per_sample import Flags, any_or_device, as_mask
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


def refuse_transforms() -> None:
    """Raise RuntimeError inside torch.func's transforms: the search decides by values, and solves one state."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "a fixed point cannot be searched inside torch.func transforms (vmap, grad, jvp, ...): z0 has a batch "
            "dimension already, and .backward() differentiates; call it outside, or use Unroll(steps)"
        )


def own_copy(z: Tensor) -> Tensor:
    """A copy of z that tracks versions, in inference mode, too; differentiable if autograd is on."""
    graded = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(graded):
        return z.clone()


def evaluate(f: Map, z: Tensor, original: Tensor | None = None) -> Tensor:
    """f(z), with f's mistakes caught.

    Args:
        f: see `solve`.
        z: (B, ...) its argument, a tensor that tracks versions (not made in inference mode).
        original: what z was copied from; compared on the CPU, where looking costs nothing. It shows the changes that
            no version counts, those through `.data` or NumPy.

    Raises:
        ValueError: f changed z in place, or the shape.
        TypeError: f(z) is not a floating-point tensor.
    """
    version = z._version
    out = f(z)
    if z._version != version or (original is not None and z.device.type == "cpu" and not _same_bits(z, original)):
        raise ValueError("f changed its argument in place; let it work on a new tensor (no inplace=True first)")
    return check_output(out, z.shape)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality that holds for NaN, too."""
    bits = torch.int64 if a.dtype == torch.float64 else torch.int32
    return torch.equal(a.view(bits), b.view(bits)) if a.dtype == b.dtype else torch.equal(a, b.to(a.dtype))


class FlatMap:
    """f on flat states: (B, N) -> (B, N) in whatever precision f computed.

    Args:
        f: maps (B, ...) to the same shape.
        shape: (B, ...).
        start: (B, N) what the first argument was copied from.
        inference: call f in inference mode.
    """

    def __init__(self, f: Map, shape: torch.Size, start: Tensor | None, inference: bool) -> None:
        self.f, self.shape, self.start, self.inference = f, shape, start, inference

    def __call__(self, z: Tensor) -> Tensor:
        """Evaluate f at z (B, N)."""
        start, self.start = self.start, None
        with torch.inference_mode() if self.inference else nullcontext():
            out = evaluate(self._reshaped, z, start)
        if forward_ad.unpack_dual(out).tangent is not None:  # type: ignore[no-untyped-call]
            raise RuntimeError("fixed_point has no forward-mode derivative (jvp); use .backward(), or Unroll(steps)")
        return out

    def _reshaped(self, z: Tensor) -> Tensor:
        return check_output(self.f(z.reshape(self.shape)), self.shape).reshape(z.shape)

    @property
    def take(self) -> Callable[[Tensor], FlatMap] | None:
        """(b,) indices -> the map on those samples alone; None if f cannot be restricted."""
        take = getattr(self.f, "take", None)
        if take is None:
            return None
        return lambda index: FlatMap(
            take(index), torch.Size((len(index), *self.shape[1:])), None, inference=self.inference
        )


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

    def update(self, z: Tensor, fz: Tensor, improved: Flags) -> None:
        """Take z (b, N) and f(z) for the samples in `improved` (b,)."""
        if not any_or_device(improved):
            return
        every = not any_or_device(~improved)
        if self.f_value is not None and every:
            self.f_value.copy_(fz)
        elif self.f_value is not None:
            torch.where(as_mask(improved, z)[:, None], fz, self.f_value, out=self.f_value)
        if every and z is not self.value:
            self._spare, self.value = self.value, z
        elif z is not self.value:
            torch.where(as_mask(improved, z)[:, None], z, self.value, out=self.value)

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

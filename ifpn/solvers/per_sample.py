"""Numbers per sample, (B,): in NumPy where they are looked at anyway, else tensors on the device.

A solver decides by residuals after each evaluation. On a CPU, and on an accelerator that it has to wait for (with a
tolerance), one transfer and NumPy cost a fraction of what launching the same operations on tensors does. With a fixed
budget on an accelerator nothing waits, and the numbers stay there. The same expressions serve both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ifpn.solvers.batched import accumulation_dtype

Flags = npt.NDArray[np.bool_] | Tensor
"""One bool per sample, (B,)."""


@dataclass(frozen=True)
class Place:
    """Where the numbers of one solve are kept.

    Args:
        device: of the state.
        host: in NumPy, on the CPU.
    """

    device: torch.device
    host: bool

    @classmethod
    def of(cls, state: Tensor, *, tolerant: bool) -> Place:
        """The place for a solve of `state` (B, N); `tolerant`: it looks at the residuals."""
        return cls(state.device, host=tolerant or state.device.type == "cpu")

    @property
    def xp(self) -> Any:
        """The module whose `where` and the like work on the numbers."""
        return np if self.host else torch

    def take(self, *numbers: Tensor) -> list[Any]:
        """Tensors (B,) of one type, moved there in one transfer."""
        if not self.host:
            return list(numbers)
        if self.device.type == "cpu" or len(numbers) == 1:
            return [x.cpu().numpy() for x in numbers]
        return list(torch.stack(numbers).cpu().numpy())

    def tensor(self, x: Any) -> Tensor:
        """Numbers as a tensor on the device, in a precision that it has."""
        if not self.host:
            return x  # type: ignore[no-any-return]
        known = torch.from_numpy(x)
        return known.to(self.device, accumulation_dtype(self.device) if known.is_floating_point() else known.dtype)

    def full(self, shape: tuple[int, ...], value: float) -> Any:
        """Numbers in accumulation precision, float64 on the host; whole ones for an int."""
        kind = "int64" if isinstance(value, int) else "float64"
        if self.host:
            return np.full(shape, value, dtype=kind)
        exact = torch.int64 if kind == "int64" else accumulation_dtype(self.device)
        return torch.full(shape, value, dtype=exact, device=self.device)

    def eye(self, size: int) -> Any:
        """The identity matrix in accumulation precision."""
        if self.host:
            return np.eye(size)
        return torch.eye(size, dtype=accumulation_dtype(self.device), device=self.device)

    def solve(self, a: Any, b: Any) -> Any:
        """The solution x (B, n, 1) of a x = b for a (B, n, n); not finite for a sample whose matrix is singular."""
        if not self.host:
            return torch.linalg.solve_ex(a, b)[0]  # the _ex form waits for no error flag
        try:
            return np.linalg.solve(a, b)
        except np.linalg.LinAlgError:  # of one sample at least; the others get what they would get alone
            if len(a) == 1:
                return np.full(b.shape, np.nan)
            return np.concatenate([self.solve(a[i : i + 1], b[i : i + 1]) for i in range(len(a))])


def any_or_device(mask: Flags) -> bool:
    """True if any sample of `mask` (B,) is set. On accelerators always True, unless the mask is known on the host.

    Reading the mask would wait for the device, which costs more than the repair it guards. So the repair must be
    a no-op for samples outside the mask.
    """
    on_device = isinstance(mask, Tensor) and mask.device.type != "cpu"
    return on_device or bool(mask.any())


def as_mask(mask: Flags, like: Tensor) -> Tensor:
    """`mask` (B,) as a tensor on the device of `like`."""
    return mask if isinstance(mask, Tensor) else torch.from_numpy(mask).to(like.device)

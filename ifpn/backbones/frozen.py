"""Batch normalisation that never changes, and the freezing of whole stages."""

from collections.abc import Callable, Iterable
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d as TorchvisionFrozenBatchNorm2d

from ifpn.bounds import Ge, Le
from ifpn.errors import UserError

FrozenStages = Annotated[int, Ge(0), Le(5)]  # none, the stem, the stem and c2, …


class FrozenBatchNorm2d(TorchvisionFrozenBatchNorm2d):  # type: ignore[misc]  # torchvision ships no types
    """Batch normalisation with constant statistics and constant affine part (all four are buffers).

    The state-dict names are those of `nn.BatchNorm2d`. An activation can follow, because timm's layers keep
    norm and activation in one module.

    Args:
        num_features: channels C of the input (N, C, H, W).
        eps: added to the variance.
        act: activation applied to the result; identity if None.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, act: nn.Module | None = None) -> None:
        super().__init__(num_features, eps=eps)
        self.act = nn.Identity() if act is None else act

    @classmethod
    def from_batch_norm(cls, norm: nn.BatchNorm2d) -> "FrozenBatchNorm2d":
        """Copy of a batch norm's statistics and affine part (and the activation of timm's layers)."""
        if norm.running_mean is None or norm.running_var is None:
            raise ValueError("a batch norm without running statistics cannot be frozen (track_running_stats=False)")
        act = getattr(norm, "act", None)
        frozen = cls(norm.num_features, norm.eps, act if isinstance(act, nn.Module) else None)
        with torch.no_grad():
            frozen.running_mean.copy_(norm.running_mean)
            frozen.running_var.copy_(norm.running_var)
            if norm.affine:
                frozen.weight.copy_(norm.weight)
                frozen.bias.copy_(norm.bias)
        frozen.to(norm.running_mean.device)
        return frozen

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if x.requires_grad and x.dtype == self.weight.dtype:
            # batch_norm would keep x for a gradient nobody asks for; addcmul keeps the C scales only
            scale = self.weight * (self.running_var + self.eps).rsqrt()
            shift = self.bias - self.running_mean * scale
            x = torch.addcmul(shift[:, None, None], x, scale[:, None, None])
        else:
            # one kernel, four times faster than two on a CPU; mixed precision keeps the constants in fp32
            x = F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        out: Tensor = self.act(x)
        return out


def freeze_norms(module: nn.Module, only: Callable[[nn.BatchNorm2d], bool] = lambda _: True) -> nn.Module:
    """Replace every batch norm in `module` (or itself) for which `only` holds by a frozen one; return the result."""
    if isinstance(module, nn.BatchNorm2d):
        return FrozenBatchNorm2d.from_batch_norm(module) if only(module) else module
    for name, child in module.named_children():
        frozen = freeze_norms(child, only)
        if frozen is not child:
            setattr(module, name, frozen)
    return module


def freeze_stages(module: nn.Module, stages: list[list[str]], count: int) -> None:
    """Make the first `count` stages constant: no gradients, and batch norms that never change.

    Args:
        module: the network.
        stages: names of the sub-modules of each stage, stem first.
        count: how many stages; the detection convention counts the stem, so that 2 is stem + first
            residual stage.

    Raises:
        UserError: `count` is not an integer in 0..len(stages).
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= len(stages):
        raise UserError(
            f"frozen_stages={count!r}: must be 0 (train everything), 1 (stem) .. {len(stages)} (all constant)"
        )
    for name in (name for stage in stages[:count] for name in stage):
        frozen = freeze_norms(module.get_submodule(name))
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, frozen)
        set_requires_grad(frozen.parameters(), False)


def set_requires_grad(parameters: Iterable[nn.Parameter], value: bool) -> None:
    """Switch gradients of `parameters` on or off."""
    for parameter in parameters:
        parameter.requires_grad_(value)

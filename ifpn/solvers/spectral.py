"""Is f a contraction? The spectral radius of its Jacobian, and a penalty that keeps it small."""

from __future__ import annotations

import torch
from torch import Tensor

from ifpn.solvers.batched import sample_norms
from ifpn.solvers.solution import Map
from ifpn.solvers.state import check_state, evaluate, flatten
from ifpn.solvers.step_rule import check_count


def spectral_radius(f: Map, z: Tensor, iters: int = 25) -> Tensor:
    """Estimate the spectral radius of the Jacobian of f at z (B, ...), per sample: (B,) float64.

    Below 1, near the equilibrium, plain iteration converges, by this factor per evaluation in the end. Power
    iteration on Jᵀ: the geometric mean growth of |v| over the last third of the products. (The Rayleigh
    quotient, often used here, is wrong where the leading eigenvalues are a complex pair.) Costs one
    evaluation of f and `iters` VJPs. Its random start comes from a generator of its own, so that measuring
    does not change a training run.
    """
    check_state(z)
    iters = check_count("iters", iters)
    with torch.inference_mode(False), torch.enable_grad():
        copy = z.detach().clone()  # a tensor made in inference mode takes no part in autograd
        original, z = copy, copy.clone().requires_grad_().clone()  # no leaf: autograd has its own words for those
        y = evaluate(f, z, original)
        return _growth(y, z, iters)


def _growth(y: Tensor, z: Tensor, iters: int) -> Tensor:
    """Power iteration on the Jacobian of y with respect to z."""
    generator = torch.Generator(device="cpu").manual_seed(0)
    v = torch.randn(z.shape, generator=generator).to(z)
    v = _unit(v)
    growth = []
    for _ in range(iters):
        if not y.requires_grad:
            return torch.zeros_like(sample_norms(flatten(z)))  # f does not depend on z
        (product,) = torch.autograd.grad(y, z, v.to(y.dtype), retain_graph=True, materialize_grads=True)
        growth.append(sample_norms(flatten(product)))
        v = _unit(product)
    last = torch.stack(growth[-max(1, iters // 3) :])
    return last.log().mean(dim=0).exp()


def _unit(v: Tensor) -> Tensor:
    size = sample_norms(flatten(v)).to(v.dtype).view(-1, *[1] * (v.dim() - 1))
    return v / torch.where(size > 0, size, 1.0)


def jacobian_penalty(y: Tensor, z: Tensor) -> Tensor:
    """Mean square of the entries of Jᵀv for one random normal v: a differentiable scalar.

    Its expectation is |J|² (Frobenius) divided by the number of elements of z, an upper bound of the mean
    squared eigenvalue (Bai et al., Stabilizing Equilibrium Models by Jacobian Regularization, 2021).

    Args:
        y: f(z), (B, ...), computed from z under autograd.
        z: (B, ...), requires grad.

    Raises:
        ValueError: y was not computed from z, or z does not require grad.
    """
    if not z.requires_grad or not y.requires_grad:
        raise ValueError("a penalty on the Jacobian needs y = f(z) computed under autograd from z.requires_grad_()")
    (product,) = torch.autograd.grad(y, z, torch.randn_like(y), create_graph=True, allow_unused=True)
    if product is None:
        raise ValueError("a penalty on the Jacobian: y does not depend on z; pass the z that f was called with")
    penalty: Tensor = product.square().mean()
    return penalty

"""The three plots of docs/solver.md, on random two-layer convolutional maps of a given spectral radius.

    python -m benchmarks.plot_solver [--out docs/images] [--seeds 3]

Takes about a minute on one core. The memory plot adds torchdeq's curves if torchdeq is installed.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.nn.functional import conv2d

from benchmarks.bench_solver import peak_states
from ifpn.solvers import (
    GMRES,
    Anderson,
    Broyden,
    Forward,
    Implicit,
    Neumann,
    Picard,
    fixed_point,
    solve,
    spectral_radius,
)
from ifpn.solvers.adjoint import LinearSolver
from ifpn.solvers.step_rule import StepRule

CHANNELS, SIDE, BATCH = 16, 16, 2
RADII = (0.5, 0.8, 0.95, 1.15)
COLOURS = {
    "Picard": "0.55",
    "Neumann": "0.55",
    "Broyden": "tab:blue",
    "Anderson(5)": "tab:orange",
    "GMRES": "tab:green",
}


class Block:
    """G(z + b) with G = conv, ReLU, conv; float64, scaled to a spectral radius at its equilibrium."""

    def __init__(self, rho: float, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (CHANNELS, CHANNELS, 3, 3)
        scale = (9 * CHANNELS) ** -0.5
        self.inner = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.outer = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        self.b = torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)
        self._scale_to(rho)

    def __call__(self, z: Tensor) -> Tensor:
        """Apply the map to states (1, C, H, W)."""
        return conv2d(torch.relu(conv2d(z + self.b, self.inner, padding=1)), self.outer, padding=1)

    def _scale_to(self, rho: float) -> None:
        # The radius depends on where the equilibrium lies, which moves with the scale: a few corrections settle it.
        for _ in range(8):
            found = solve(self, torch.zeros_like(self.b), Anderson(10), max_evals=40)
            self.outer = self.outer * (rho / spectral_radius(self, found.value, 30).mean())


def residuals(axes: list[Axes], seeds: int) -> None:
    """Best residual so far against evaluations of f."""
    rules: dict[str, StepRule] = {"Picard": Picard(), "Broyden": Broyden(), "Anderson(5)": Anderson(5)}
    for ax, rho in zip(axes, RADII, strict=True):
        blocks = [Block(rho, seed) for seed in range(seeds)]
        for name, rule in rules.items():
            traces = [solve(f, torch.zeros_like(f.b), rule, max_evals=31).trace for f in blocks]
            best = torch.cat(traces, dim=1).cummin(dim=0).values
            ax.semilogy(range(1, 32), best.median(dim=1).values, color=COLOURS[name], label=name)
        for budget in (7, 15):
            ax.axvline(budget, color="0.85", lw=1, zorder=0)
        ax.axhline(0.05, color="0.85", lw=1, ls="--", zorder=0)
        ax.set_title(f"spectral radius {rho}")
        ax.set_xlabel("evaluations of f")
        ax.set_ylim(1e-7, 1.5)
    axes[0].set_ylabel("residual |f(z) - z| / |f(z)|, best so far")
    axes[0].legend()


def gradient(f: Block, evals: int, how: Implicit) -> Tensor:
    """Gradient of a quadratic loss with respect to the second weight, from a state after `evals` evaluations."""
    f.outer = f.outer.detach().requires_grad_()
    z, _ = fixed_point(f, torch.zeros_like(f.b), forward=Forward(Anderson(10), evals), backward=how)
    grad: Tensor = torch.autograd.grad((z - f.b).square().mean(), f.outer)[0]
    f.outer = f.outer.detach()
    return grad


def gradient_errors(axes: list[Axes], seeds: int) -> None:
    """Relative error of the weight gradient: solid lines from a converged state, dotted from 7 evaluations."""
    solvers: dict[str, LinearSolver] = {
        "Neumann": Neumann(),
        "Broyden": Broyden(),
        "Anderson(5)": Anderson(5),
        "GMRES": GMRES(),
    }
    budgets = [1, 2, 3, 5, 7, 10, 15, 20]
    for ax, rho in zip(axes, RADII, strict=False):
        blocks = [Block(rho, seed) for seed in range(seeds)]
        exact = [gradient(f, 150, Implicit(GMRES(), 100)) for f in blocks]
        for name, solver in solvers.items():
            for evals, style in ((150, "-"), (7, ":")):
                errors = []
                for k in budgets:
                    each = [
                        float((gradient(f, evals, Implicit(solver, k)) - g).norm() / g.norm())
                        for f, g in zip(blocks, exact, strict=True)
                    ]
                    errors.append(sorted(each)[len(each) // 2])
                label = name if evals == 150 else None
                ax.semilogy(budgets, errors, style, color=COLOURS[name], label=label, marker="." if label else None)
        ax.set_title(f"spectral radius {rho}")
        ax.set_xlabel("vector-Jacobian products")
    axes[0].set_ylabel("relative error of the weight gradient")
    axes[0].legend()


def memory(ax: Axes) -> None:
    """Peak memory of a solve against its budget."""
    z0 = torch.zeros(2, 100_000)

    def f(z: Tensor) -> Tensor:
        return 0.5 * z

    budgets = [4, 8, 12, 16, 20, 24, 30]
    curves: dict[str, Callable[[int], object]] = {
        "Broyden": lambda k: solve(f, z0, Broyden(), max_evals=k),
        "Anderson(5)": lambda k: solve(f, z0, Anderson(5), max_evals=k),
        "Picard": lambda k: solve(f, z0, Picard(), max_evals=k),
    }
    for name, run in curves.items():
        states = [peak_states(partial(run, k), z0) for k in budgets]
        ax.plot(budgets, states, color=COLOURS[name], label=name, marker=".")
    if importlib.util.find_spec("torchdeq") is not None:
        from torchdeq.solver import get_solver

        for name, key, options in (("Broyden", "broyden", {}), ("Anderson(5)", "anderson", {"m": 5})):
            solver = get_solver(key)
            extra = 1 if key == "broyden" else 0  # its Broyden makes one evaluation more than it counts
            states = [peak_states(partial(solver, f, z0, max_iter=k - extra, tol=0.0, **options), z0) for k in budgets]
            ax.plot(budgets, states, ":", color=COLOURS[name], label=f"torchdeq 0.1.0, {name}")
    ax.set_xlabel("evaluations of f")
    ax.set_ylabel("peak memory of a solve, in states")
    ax.set_ylim(0)
    ax.legend()


def save(figure: plt.Figure, path: Path) -> None:
    """Write a figure and print where."""
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(path)


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 4, figsize=(14, 3.8), sharey=True)
    residuals(list(axes), args.seeds)
    save(figure, args.out / "solver_residual.png")
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True)
    gradient_errors(list(axes), args.seeds)
    save(figure, args.out / "solver_gradient.png")
    figure, ax = plt.subplots(figsize=(6, 3.8))
    memory(ax)
    save(figure, args.out / "solver_memory.png")


if __name__ == "__main__":
    main()

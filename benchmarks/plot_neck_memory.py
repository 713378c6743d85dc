"""Memory of a training forward of the neck against the number of evaluations of G, implicit and unrolled.

    python -m benchmarks.plot_neck_memory [--out docs/images/neck_memory.png] [--channels 64] [--size 256]

Two numbers, both counted from tensors and so the same on every machine: what autograd keeps for the backward
pass, and the most that was alive at once during the forward, which includes the solver's history.
"""

from __future__ import annotations

import argparse
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ifpn.necks import ImplicitFPN
from ifpn.solvers import Anderson, Broyden, Equilibrium, Unroll

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MIB = 2**20


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of the tensors that operations inside the block created and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), inputs)
        return out

    def _add(self, storage: torch.UntypedStorage, inputs: set[int]) -> None:
        key = storage._cdata
        if key in self.known or key in inputs:
            return
        self.known.add(key)
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._remove, key, storage.nbytes())

    def _remove(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def memory(neck: nn.Module, x: OrderedDict[str, Tensor]) -> tuple[float, float]:
    """MiB that the outputs and their graph keep after a training forward, and the peak during it."""
    with LiveBytes() as live:
        outputs = neck.train()(x)
    kept = live.now
    del outputs
    return kept / MIB, live.peak / MIB


def main() -> None:
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("docs/images/neck_memory.png"))
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    options = parser.parse_args()
    evaluations = [1, 2, 3, 5, 7, 10, 15, 20, 25]
    sides = [options.size // stride for stride in (8, 16, 32)]
    x = OrderedDict((f"c{i + 3}", torch.randn(1, 32, side, side)) for i, side in enumerate(sides))
    solvers: dict[str, Callable[[int], Equilibrium | Unroll]] = {
        "unrolled": lambda n: Unroll(n),
        "implicit, Broyden": lambda n: Equilibrium(forward=Broyden(), train_evals=n),
        "implicit, Anderson(5)": lambda n: Equilibrium(forward=Anderson(5), train_evals=n),
    }
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    print(f"{'':24}evaluations   kept MiB   peak MiB")
    # the two implicit lines of what is kept coincide: squares around circles
    styles = (("tab:red", "o-"), ("tab:green", "s-"), ("tab:blue", ".-"))
    for (name, make), (color, style) in zip(solvers.items(), styles, strict=True):
        curve = []
        for n in evaluations:
            torch.manual_seed(0)
            neck = ImplicitFPN([32, 32, 32], options.channels, solver=make(n))
            curve.append(memory(neck, x))
            print(f"{name:24}{n:11}{curve[-1][0]:11.1f}{curve[-1][1]:11.1f}")
        kept, peak = zip(*curve, strict=True)
        axes.plot(evaluations, peak, "--", color=color, linewidth=1, label=f"{name}: peak of the forward")
        axes.plot(evaluations, kept, style, color=color, fillstyle="none", label=f"{name}: kept for the backward")
    axes.set(
        xlabel="evaluations of G",
        ylabel="MiB",
        ylim=(0, None),
        title=f"Activation memory of the neck, C = {options.channels}, one image of "
        f"{options.size} x {options.size}, fp32",
    )
    axes.title.set_fontsize(10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=150)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()

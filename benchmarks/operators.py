r"""Operators of a training step and of an inference: what a network costs where a GPU waits for its host.

    python -m benchmarks.operators
    python -m benchmarks.operators --case neck=fpn --case "neck=implicit solver=broyden" detector=atss

Every call that reads or writes a tensor counts as one, whatever its size; views do not. The optimiser's are left out:
on a GPU it takes a handful for all parameters together. Random weights and fixed budgets; the counts do not depend on
the size of the images.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.step_case import random_case

EASY = "neck=implicit solver=cheap solver.rtol=0 solver.backward.rtol=0 solver.test_evals"
CASES = ["neck=fpn", "neck=implicit solver=unroll solver.steps=1", f"{EASY}=1", f"{EASY}=3"]
SIDE = 128  # px
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "_local_scalar_dense", "lift_fresh"}


class Counter(TorchDispatchMode):
    """Counts the operators that are called inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: int = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count what is neither a view nor an allocation."""
        view = any(out.alias_info is not None and not out.alias_info.is_write for out in func._schema.returns)
        self.calls += 0 if view or func._schema.name.removeprefix("aten::") in FREE else 1
        return func(*args, **(kwargs or {}))


def counted(run: Callable[[], object]) -> int:
    """Operators of one call."""
    with Counter() as counter:
        run()
    calls: int = counter.calls
    return calls


def main() -> None:
    """Read the command line, count, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of all cases, as for train.py: recipe=paper")
    parser.add_argument("--case", action="append", dest="cases", help="overrides of one case; the first is the unit")
    parser.add_argument("--batch", type=int, default=2)
    options = parser.parse_args()
    sizes = [f"image.min_size=[{SIDE}]", "backbone.weights=none", *options.overrides]
    fixed = {"overrides": sizes, "height": SIDE, "width": SIDE, "device": "cpu", "precision": "fp32"}
    print("| case | training step | ratio | inference | ratio |\n|---|---|---|---|---|")
    first: tuple[int, int] | None = None
    for name in options.cases or CASES:
        case = random_case([*sizes, *name.split()], argparse.Namespace(**{**vars(options), **fixed}))
        case.infer()  # folds the weights
        infer = counted(case.infer)
        train = counted(case.gradients)
        first = first or (train, infer)
        print(f"| `{name}` | {train} | {train / first[0]:.2f} | {infer} | {infer / first[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()

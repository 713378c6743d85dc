"""Cost of one solver iteration, without f: ours against torchdeq's, in one process, interleaved.

    python -m benchmarks.bench_solver                      # three sizes, about a minute each for the largest
    python -m benchmarks.bench_solver --size 1430000 --repeats 9 --markdown

The unit is one copy of the state (read and written once), measured in the same rounds: what the memory allows. Eight
states are copied in turn, because a solver reads a different stored state each time, too: two states alone may stay in
a cache that fifteen do not fit into.
The time of f, an elementwise map, is measured in the same rounds and taken off. Needs torchdeq 0.1.0 (`pip install
'.[bench]'`). On Linux the script restarts itself with an allocator that keeps freed memory, as GPU allocators do: the
kernel's page faults on fresh memory would otherwise be most of the small sizes' time, for both libraries (see
`--allocator system`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ifpn.solvers import Anderson, Broyden, Picard, solve
from ifpn.solvers.batched import inner_products

COPIES = 8  # different states, about as many as a solver reads in an iteration
ITERATIONS = 15  # the paper's; one more evaluation of f for Broyden (and none for Anderson) in torchdeq's counting
BATCH = 2
FLOOR = 12.0  # copies: 2k + 8 reads or writes at iteration k of Broyden's, k = 8 on average
KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


@dataclass
class Row:
    """One method at one size."""

    size: int
    method: str
    evals: int
    seconds: float
    copies: float
    peak_states: float


def methods() -> dict[str, tuple[int, Callable[[Callable[[Tensor], Tensor], Tensor], object]]]:
    """Name -> (evaluations of f, run(f, z0)) of 15 iterations each."""
    from torchdeq.solver import get_solver

    broyden, anderson, plain = get_solver("broyden"), get_solver("anderson"), get_solver("fixed_point_iter")
    n = ITERATIONS
    return {
        "ifpn Broyden": (n + 1, lambda f, z: solve(f, z, Broyden(), max_evals=n + 1)),
        "torchdeq broyden": (n + 1, lambda f, z: broyden(f, z, max_iter=n, tol=0.0)),
        "ifpn Anderson(5)": (n, lambda f, z: solve(f, z, Anderson(5), max_evals=n)),
        "torchdeq anderson(5)": (n, lambda f, z: anderson(f, z, max_iter=n, tol=0.0, m=5)),
        "ifpn Picard": (n, lambda f, z: solve(f, z, Picard(), max_evals=n)),
        "torchdeq fixed_point_iter": (n, lambda f, z: plain(f, z, max_iter=n, tol=0.0)),
    }


def problem(size: int, device: str) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A linear contraction, elementwise, as cheap as a map can be; its spectrum fills (-0.9, 0.9)."""
    generator = torch.Generator().manual_seed(0)
    slope = torch.empty(BATCH, size).uniform_(-0.9, 0.9, generator=generator).to(device)
    shift = torch.empty(BATCH, size).normal_(generator=generator).to(device)
    return lambda z: torch.addcmul(shift, slope, z), torch.zeros(BATCH, size, device=device)


def clock(run: Callable[[], object], device: str) -> float:
    """Seconds of one run: processor time on one CPU thread, which other processes disturb less; else wall time."""
    if device == "cuda":
        torch.cuda.synchronize()
    timer = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = timer()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return timer() - start


def peak_states(run: Callable[[], object], z0: Tensor) -> float:
    """Peak memory of run() beyond what was held before, in states."""
    state = z0.numel() * z0.element_size()
    if z0.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / state
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    peak: float = max(accumulate(change for _, change in changes)) / state
    return peak


def measure(size: int, repeats: int, device: str) -> list[Row]:
    """All methods at one size: every round runs each once, so a slow moment of the machine hits all alike."""
    f, z0 = problem(size, device)
    sources = f(z0).repeat(COPIES, 1, 1)
    targets = torch.empty_like(sources)
    table = methods()
    times: dict[str, list[float]] = {name: [] for name in [*table, "copy", "f"]}
    for r in range(repeats + 1):
        for name, (_, run) in table.items():
            seconds = clock(partial(run, f, z0), device)
            copies = clock(lambda: [t.copy_(s) for t, s in zip(targets, sources, strict=True)], device) / COPIES
            alone = clock(lambda: [f(z0) for _ in range(COPIES)], device) / COPIES
            if r > 0:  # the first round warms up
                times[name].append(seconds)
                times["copy"].append(copies)
                times["f"].append(alone)
    copy, alone = median(times["copy"]), median(times["f"])
    small, small_z0 = problem(min(size, 200_000), device)
    rows = []
    for name, (evals, run) in table.items():
        seconds = (median(times[name]) - evals * alone) / ITERATIONS
        states = peak_states(partial(run, small, small_z0), small_z0)
        rows.append(Row(size, name, evals, seconds, seconds / copy, states))
    rows.append(Row(size, "copy of a state", 0, copy, 1.0, 0.0))
    return rows


def dots(repeats: int, device: str) -> float:
    """Time of the inner products with a history of 45 MB, beyond most caches, over that of a plain read of it.

    The other orientation of the same product is ten times slower on some CPUs.
    """
    history, x = torch.randn(BATCH, 8, 700_000, device=device), torch.randn(BATCH, 700_000, device=device)
    times: list[tuple[float, float]] = []
    for _ in range(repeats + 1):
        product = clock(lambda: inner_products(history, x), device)
        times.append((product, clock(lambda: torch.linalg.vector_norm(history, dim=2), device)))
    products, reads = zip(*times[1:], strict=True)  # the first round warms up
    ratio: float = min(products) / min(reads)
    return ratio


def median(values: list[float]) -> float:
    """The upper median."""
    return sorted(values)[len(values) // 2]


def bars(rows: list[Row]) -> list[str]:
    """The claims, each with its number."""
    by = {row.method: row for row in rows}
    b, tb, a, ta = (by[m] for m in list(by)[:4])
    claims = [
        ("Broyden, times faster than torchdeq's (at least 12)", tb.seconds / b.seconds, tb.seconds >= 12 * b.seconds),
        ("Broyden, times the floor of 12 copies (at most 1.3)", b.copies / FLOOR, b.copies <= 1.3 * FLOOR),
        (
            "Anderson(5), times faster than torchdeq's (at least 2.5)",
            ta.seconds / a.seconds,
            ta.seconds >= 2.5 * a.seconds,
        ),
        ("Broyden, peak states (at most 20)", b.peak_states, b.peak_states <= 20),
        ("Anderson(5), peak states (at most 14)", a.peak_states, a.peak_states <= 14),
    ]
    return [f"{'ok  ' if good else 'MISS'} {text}: {value:.2f}" for text, value, good in claims]


def show(rows: list[Row], markdown: bool) -> None:
    """Print the rows as a table."""
    edge, gap = ("| ", " | ") if markdown else ("", "  ")
    head = [f"B={BATCH}, N={rows[0].size}", "ms / iteration", "state copies", "peak states"]
    print(f"\n{edge}{head[0]:<26}{gap}{gap.join(f'{h:>14}' for h in head[1:])}{edge[::-1]}")
    if markdown:
        print("|---|---:|---:|---:|")
    for row in rows:
        cells = [f"{row.seconds * 1e3:.3f}", f"{row.copies:.1f}", f"{row.peak_states:.1f}"]
        print(f"{edge}{row.method:<26}{gap}{gap.join(f'{c:>14}' for c in cells)}{edge[::-1]}")
    print()
    print("\n".join(("- " if markdown else "") + line for line in bars(rows)))


def main() -> None:
    """Read the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[87_000, 1_430_000, 5_730_000], help="N per sample")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--allocator", choices=["keeping", "system"], default="keeping")
    parser.add_argument("--json", type=Path, help="also write all rows to this file")
    parser.add_argument("--markdown", action="store_true", help="print tables for docs/results.md")
    args = parser.parse_args()
    if args.allocator == "keeping" and sys.platform == "linux" and not KEEP.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP})
    torch.set_num_threads(args.threads)
    rows: list[Row] = []
    for size in args.size:
        new = measure(size, args.repeats, args.device)
        show(new, args.markdown)
        rows += new
    ratio = dots(args.repeats, args.device)
    print(f"{'ok  ' if ratio <= 3 else 'MISS'} inner products, times a plain read (at most 3): {ratio:.2f}")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()

"""The report of a sweep as Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ifpn.cli.contrasts import Contrast
from ifpn.evaluation.paired import EFFECTS, pairs_needed
from ifpn.runs.recorded import RUNS, recorded_table
from ifpn.runs.sweep import METRICS, Row

COSTS = {  # column: (path in result.json, factor, digits)
    "M params": (("parameters",), 1e-6, 2),
    "GMAC": (("multiply_adds",), 1e-9, 2),
    "s/step": (("seconds_per_step",), 1.0, 2),
    "MiB": (("peak_memory_mib",), 1.0, 0),
    "rho": (("solver", "spectral_radius"), 1.0, 2),
}
_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "±": r"$\pm$", "-": r"$-$"}

HOW_TO_READ = (
    "Box AP in percent of the weights at the end of training: mean ± sample standard deviation over n seeds. Costs are "
    "medians over the runs; seconds are left out where runs are known from a table, which may be of other days and "
    "machines. GMAC: multiply-adds of the detector for one validation image; depth: 1 / (1 - rho), the number of "
    "applications that an equilibrium sums."
)
HOW_TO_READ_DIFFERENCES = (
    "Mean of the differences of runs with the same seed. Seeds: Student's t with n - 1 degrees of freedom, what other "
    "trainings would change. Images: bootstrap over the validation images, what other images would change. Neither "
    "contains the other. Pairs needed: to see a true difference of that size with 80 % power, two-sided 5 %, at the "
    "standard deviation measured here, which few pairs know only roughly."
)


def write_report(
    rows: Sequence[Row], contrasts: Sequence[Contrast], left: Sequence[tuple[Path, str]], out: Path, width: int
) -> list[Table]:
    """Write report.md, rows.csv, runs.csv, differences.csv and rows.tex below `out`.

    Returns tables for a terminal of `width` characters.
    """
    heads, cells = _table(rows)
    parts = ["# Runs", HOW_TO_READ, _grid(heads, cells)]
    if contrasts:
        parts += ["# Differences", HOW_TO_READ_DIFFERENCES, _grid(*_differences(contrasts))]
    if left:
        parts += ["# Left out", "\n".join(f"* `{path}`: {reason}" for path, reason in left)]
    texts = {
        "report.md": "\n\n".join(parts) + "\n",
        "rows.csv": _csv(heads, cells),
        RUNS: _csv(*recorded_table(rows)),
        "differences.csv": _csv(*_differences(contrasts)),
        "rows.tex": _latex(heads, cells),
    }
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    tables = _printed("box AP in percent", heads, cells, 1, width)
    if contrasts:
        short_heads, short = _differences(contrasts)
        some = slice(1, 8)  # of the name and the pairs needed the files know
        tables += _printed("paired differences", short_heads[some], [line[some] for line in short], 2, width)
    return tables


def _printed(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], keys: int, width: int) -> list[Table]:
    """As many tables as `width` characters ask for, each with the first `keys` columns; none for empty columns."""
    sizes = [max(len(line[i]) for line in [heads, *rows]) + 3 for i in range(len(heads))]
    left = max(width - 1 - sum(min(size, 27) for size in sizes[:keys]), 1)
    parts: list[list[int]] = [[]]
    for i in (i for i in range(keys, len(heads)) if any(line[i] for line in rows)):
        if parts[-1] and sum(sizes[k] for k in [*parts[-1], i]) > left:
            parts.append([])
        parts[-1].append(i)
    tables = []
    for number, part in enumerate(parts):
        table = Table(title=title if number == 0 else f"{title}, continued", title_justify="left")
        for i in [*range(keys), *part]:
            first = {"min_width": min(sizes[0] - 3, 24), "overflow": "fold"} if i == 0 else {"justify": "right"}
            table.add_column(heads[i], **first)
        for row in rows:
            table.add_row(*(row[i] for i in [*range(keys), *part]))
        tables.append(table)
    return tables


def _table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    heads = ["row", *METRICS, "n", *COSTS, "depth"]
    cells, untimed = [], any(row.is_recorded for row in rows)
    for row in rows:
        costs = ["" if name == "s/step" and untimed else _cost(row, *COSTS[name]) for name in COSTS]
        cells.append([row.name, *(_spread(row.values(m)) for m in METRICS), str(len(row.runs)), *costs, _depth(row)])
    # A column that no run has says nothing.
    kept = [i for i in range(len(heads)) if any(line[i] for line in cells)]
    return [heads[i] for i in kept], [[line[i] for i in kept] for line in cells]


def _cost(row: Row, path: tuple[str, ...], factor: float, digits: int) -> str:
    value = row.cost(*path)
    return "" if value is None else f"{value * factor:.{digits}f}"


def _depth(row: Row) -> str:
    rho = row.cost("solver", "spectral_radius")
    if rho is None:
        return ""
    return f"{1 / (1 - rho):.1f}" if rho < 1 else "∞"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    return f"{statistics.fmean(values):.1f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def _differences(contrasts: Sequence[Contrast]) -> tuple[list[str], list[list[str]]]:
    heads = ["difference", "rows", "of", "mean", "95 % over seeds", "99 % over seeds", "95 % over images", "n"]
    heads += ["sd", *(f"pairs needed for {effect:g} AP" for effect in EFFECTS)]
    cells = []
    for one in contrasts:
        found = one.over_seeds
        line = [one.name, f"{one.a} - {one.b}", one.metric, "" if found is None else f"{found.mean:+.2f}"]
        line += [_interval(None if found is None else found.interval(level)) for level in (0.95, 0.99)]
        line += [_interval(one.over_images), str(len(one.seeds))]
        sd = None if found is None else found.sd
        line += ["", *[""] * len(EFFECTS)] if not sd else [f"{sd:.2f}", *(str(pairs_needed(sd, e)) for e in EFFECTS)]
        cells.append(line)
    return heads, cells


def _interval(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:+.2f} to {ends[1]:+.2f}"


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _csv(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heads, *rows])
    return buffer.getvalue()


def _latex(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule"]
    lines += [" & ".join(map(_tex, heads)) + r" \\", r"\midrule"]
    lines += [" & ".join([_tex(row[0]), *map(_tex, row[1:])]) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)

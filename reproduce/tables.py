"""The paper's tables with our column: runs sorted into rows, seeds into mean and spread."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from reproduce.differences import deviations, only_as_the_rows, telling_apart, variant
from reproduce.paper import CLAIMS, METRICS, TABLES, Row, Table
from reproduce.rows import LeftOut, Run, fits, method_of


@dataclass(frozen=True)
class Measured:
    """Mean and sample standard deviation over seeds; spread is None for a single seed."""

    mean: float
    spread: float | None


@dataclass(frozen=True)
class Line:
    """A row of the paper beside the runs that differ from each other in the seed alone; runs may be empty.

    ours: by metric, absent where nothing was measured. marks: in what the runs are not the paper's.
    """

    row: Row
    runs: tuple[Run, ...] = ()
    ours: tuple[tuple[str, Measured], ...] = ()
    marks: tuple[str, ...] = ()

    def measured(self, metric: str) -> Measured | None:
        """Mean and spread of the runs; None where they have none."""
        return dict(self.ours).get(metric)

    def paper(self, metric: str) -> float | None:
        """The paper's value."""
        return self.row.values[METRICS.index(metric)]

    def difference(self, metric: str) -> float | None:
        """Ours less the paper's; None, never 0, where either is missing."""
        ours, paper = self.measured(metric), self.paper(metric)
        return None if ours is None or paper is None else ours.mean - paper

    @property
    def mark(self) -> str:
        """What the runs differ in from the row, for a footnote."""
        return "; ".join(self.marks)

    def median(self, name: str) -> float | None:
        """Of `seconds_per_step` or `peak_memory_mib` over the runs."""
        values = [v for run in self.runs if (v := getattr(run, name)) is not None]
        return statistics.median(values) if values else None


@dataclass(frozen=True)
class Gain:
    """A gain that the paper claims, its size in the paper's table, and ours from runs that differ in nothing else."""

    metric: str
    better: Row
    worse: Row
    paper: float
    ours: Measured
    mark: str
    worse_mark: str


@dataclass(frozen=True)
class Filled:
    """One table with what was found for it."""

    table: Table
    lines: tuple[Line, ...]
    gains: tuple[Gain, ...]


def fill_tables(runs: Sequence[Run], *, quoted: bool = True) -> tuple[list[Filled], list[LeftOut]]:
    """Every table of the paper, rows without a run included, and the runs that belong to none.

    A run may stand in several tables, as ATSS with i-FPN does in the paper (Tables 1, 3 and 4).

    quoted: keep rows of others' numbers, which no run can fill.
    """
    runs, left = _one_per_seed(runs)
    used: set[int] = set()
    filled = []
    for table in TABLES:
        lines: list[Line] = []
        for row in table.rows:
            mine = [run for run in runs if _belongs(run, row)]
            used.update(map(id, mine))
            if row.method is not None or quoted:
                lines += _lines(table, row, mine)
        filled.append(Filled(table, tuple(lines), tuple(_gains(table, lines))))
    left += [LeftOut(run.folder, "no row of the paper is such a run") for run in runs if id(run) not in used]
    return filled, left


def _belongs(run: Run, row: Row) -> bool:
    method = method_of(run.config)
    return row.method is not None and method is not None and fits(method, row.method)


def _one_per_seed(runs: Sequence[Run]) -> tuple[list[Run], list[LeftOut]]:
    """The same run twice is one measurement: the first by path counts."""
    kept: dict[tuple[str, int], Run] = {}
    left = []
    for run in sorted(runs, key=lambda r: str(r.folder)):
        first = kept.setdefault((variant(run), run.seed), run)
        if first is not run:
            left.append(LeftOut(run.folder, f"the same run as {first.folder}, same seed"))
    return list(kept.values()), left


def _lines(table: Table, row: Row, runs: Sequence[Run]) -> list[Line]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(variant(run), []).append(run)
    lines = []
    for group in groups.values():
        group.sort(key=lambda r: r.seed)
        ours = tuple((m, measured) for m in METRICS if (measured := measure(r.numbers[m] for r in group)))
        lines.append(Line(row, tuple(group), ours, tuple(deviations(group[0], table, row))))
    lines = _told_apart(lines)
    # Runs like the paper's first; then by their marks, so that the order depends on no folder name.
    return sorted(lines, key=lambda line: (len(line.marks) > 0, line.mark)) or [Line(row)]


def _told_apart(lines: Sequence[Line]) -> list[Line]:
    """Lines with the same marks get the settings in which they differ as further marks."""
    groups: dict[str, list[Line]] = {}
    for line in lines:
        groups.setdefault(line.mark, []).append(line)
    told = []
    for same in groups.values():
        more = telling_apart([line.runs[0] for line in same])
        told += [replace(line, marks=(*line.marks, *words)) for line, words in zip(same, more, strict=True)]
    return told


def measure(values: Iterable[float | None]) -> Measured | None:
    """None unless every value is there."""
    numbers = list(values)
    known = [v for v in numbers if v is not None]
    if not known or len(known) < len(numbers):
        return None
    return Measured(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None)


def _gains(table: Table, lines: Sequence[Line]) -> list[Gain]:
    rows = {row.name: row for row in table.rows}
    found = []
    for claim in CLAIMS:
        if claim.table != table.number:
            continue
        better, worse = rows[claim.better], rows[claim.worse]
        index = METRICS.index(claim.metric)
        a, b = better.values[index], worse.values[index]
        assert a is not None  # a test holds every claim against the rows
        assert b is not None
        for line in [x for x in lines if x.row is better and x.runs]:
            for other in [x for x in lines if x.row is worse and x.runs and _comparable(table, line, x)]:
                ours, base = line.measured(claim.metric), other.measured(claim.metric)
                if ours is not None and base is not None:
                    found.append(Gain(claim.metric, better, worse, a - b, _less(ours, base), line.mark, other.mark))
    return found


def _comparable(table: Table, a: Line, b: Line) -> bool:
    return only_as_the_rows(table, (a.row, a.runs[0]), (b.row, b.runs[0]))


def _less(a: Measured, b: Measured) -> Measured:
    """Subtract b from a; the spreads of independent runs add in squares."""
    spread = None if a.spread is None or b.spread is None else math.hypot(a.spread, b.spread)
    return Measured(a.mean - b.mean, spread)

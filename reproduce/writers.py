"""Filled tables as Markdown, CSV and LaTeX. What is missing is blank in all three."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from reproduce.paper import METRICS
from reproduce.rows import LeftOut
from reproduce.tables import Filled, Line, Measured

_MARKS = "abcdefghijklmnopqrstuvwxyz"
_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "∞": r"$\infty$", "±": r"$\pm$"}
_TEX_NAMES = {"AP50": "AP$_{50}$", "AP75": "AP$_{75}$", "APs": "AP$_s$", "APm": "AP$_m$", "APl": "AP$_l$"}


def write_tables(filled: Sequence[Filled], left: Sequence[LeftOut], out: Path) -> list[Path]:
    """`table<N>.csv`, `table<N>.tex` and one `tables.md` in `out`. The same runs give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    texts = {"tables.md": markdown(filled, left)}
    for one in filled:
        texts[f"{one.table.experiment}.csv"] = comma_separated(one)
        texts[f"{one.table.experiment}.tex"] = latex(one)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    return [out / name for name in texts]


def markdown(filled: Sequence[Filled], left: Sequence[LeftOut]) -> str:
    """All tables in one document, with what was left out and why at its end."""
    parts = ["# The paper's tables, with ours beside them", HOW_TO_READ, *map(markdown_table, filled)]
    if left:
        parts.append("## Left out\n\n" + "\n".join(f"* `{x.path}`: {x.reason}" for x in left))
    return "\n\n".join(parts) + "\n"


HOW_TO_READ = (
    "Box AP in percent. Ours: mean ± sample standard deviation over seeds, of the weights at the end of training. "
    "A letter says in what the runs are not the paper's; such a difference is between two experiments. "
    "A blank means that nothing was run, or that the paper has no number."
)


def markdown_table(one: Filled) -> str:
    """Heading, table, legend, and the gains where both of their rows were run and nothing else differs."""
    table, letters = one.table, _letters(one)
    heads = [*table.heads, "AP ours", "AP paper", "difference", "seeds", *METRICS[1:], "s/step", "MiB"]
    rows = []
    for line in one.lines:
        letter = letters.get(line.mark, "")
        rest = [_pair(line, metric) for metric in METRICS[1:]]
        cells = [_lettered(_plain(line.measured("AP")), letter), _paper(line, "AP")]
        cells += [_signed(line.difference("AP")), _seeds(line), *rest]
        cells += [_number(line.median("seconds_per_step"), 2), _number(line.median("peak_memory_mib"), 0)]
        rows.append([*("✓" if x == "x" else x for x in line.row.labels), *cells])
    parts = [f"## Table {table.number} (Sec. {table.section}): {table.title}"]
    if table.note:
        parts.append(table.note)
    parts.append(_grid(heads, rows))
    parts.append("AP50 to APl: ours (paper).")
    notes = [f"<sup>{letter}</sup> not the paper's: {mark}" for mark, letter in letters.items()]
    notes += [f"{' '.join(filter(None, r.labels)) or r.name}: {r.note}" for r in table.rows if r.note and r.method]
    if notes:
        parts.append("  \n".join(notes))
    if one.gains:
        heads = ["gain", "over", "in", "ours", "paper"]
        gains = [
            [
                *(_lettered(g.better.name, letters.get(g.mark)), _lettered(g.worse.name, letters.get(g.worse_mark))),
                *(g.metric, _gain(g.ours), _signed(g.paper)),
            ]
            for g in one.gains
        ]
        parts.append(_grid(heads, gains))
    return "\n\n".join(parts)


def comma_separated(one: Filled) -> str:
    """Every number of the table, a line per row and kind of run."""
    buffer = io.StringIO()
    heads = ["table", "row", *one.table.heads]
    for metric in METRICS:
        heads += [f"{metric} ours", f"{metric} spread", f"{metric} paper", f"{metric} difference"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*heads, "seeds", "not the paper's", "seconds per step", "peak MiB", "machine", "runs"])
    for line in one.lines:
        cells: list[object] = [one.table.number, line.row.name, *line.row.labels]
        for metric in METRICS:
            ours = line.measured(metric)
            cells += [_number(ours.mean if ours else None, 3), _number(ours.spread if ours else None, 3)]
            cells += [_number(line.paper(metric), 1), _number(line.difference(metric), 3)]
        cells += [" ".join(str(r.seed) for r in line.runs), line.mark]
        cells += [_number(line.median("seconds_per_step"), 4), _number(line.median("peak_memory_mib"), 1)]
        machines = sorted({r.machine for r in line.runs})
        writer.writerow([*cells, "; ".join(machines), " ".join(str(r.folder) for r in line.runs)])
    return buffer.getvalue()


def latex(one: Filled) -> str:
    """A `table` environment with booktabs' rules: ours and the paper's for each metric, the difference for AP."""
    table, letters = one.table, _letters(one)
    columns = "l" * len(table.heads) + "rrr" + "rr" * (len(METRICS) - 1)
    heads = [_tex(h) for h in table.heads] + ["AP ours", "paper", "diff."]
    for metric in METRICS[1:]:
        heads += [f"{_TEX_NAMES[metric]} ours", "paper"]
    body = []
    for line in one.lines:
        letter = letters.get(line.mark, "")
        cells = [r"\checkmark" if x == "x" else _tex(x) for x in line.row.labels]
        cells += [_tex(_plain(line.measured("AP"))) + (f"$^{{{letter}}}$" if letter else "")]
        cells += [_paper(line, "AP"), _math(_signed(line.difference("AP")))]
        for metric in METRICS[1:]:
            cells += [_tex(_plain(line.measured(metric))), _paper(line, metric)]
        body.append(" & ".join(cells) + r" \\")
    notes = " ".join(f"$^{{{letter}}}$ Not the paper's: {_tex(mark)}." for mark, letter in letters.items())
    where = "" if table.evaluated_on == "val2017" else f" The paper's numbers are on {table.evaluated_on}."
    lines = [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(heads) + r" \\", r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    caption = f"Table {table.number} of the paper: {table.title}.{where} Box AP in percent. {notes}".strip()
    return "\n".join([*lines, rf"\caption{{{caption}}}", r"\end{table}"]) + "\n"


def _letters(one: Filled) -> dict[str, str]:
    """A letter for each distinct mark, in order of appearance."""
    marks = list(dict.fromkeys(line.mark for line in one.lines if line.mark))
    return {mark: _MARKS[i] if i < len(_MARKS) else f"m{i}" for i, mark in enumerate(marks)}


def _grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _plain(value: Measured | None) -> str:
    if value is None:
        return ""
    return f"{value.mean:.1f}" if value.spread is None else f"{value.mean:.1f} ± {value.spread:.1f}"


def _lettered(text: str, letter: str | None) -> str:
    return f"{text} <sup>{letter}</sup>" if letter else text


def _gain(value: Measured) -> str:
    return _signed(value.mean) + ("" if value.spread is None else f" ± {value.spread:.1f}")


def _paper(line: Line, metric: str) -> str:
    return _number(line.paper(metric), 1)


def _pair(line: Line, metric: str) -> str:
    ours, paper = _plain(line.measured(metric)), _paper(line, metric)
    return f"{ours} ({paper})".strip() if paper else ours


def _seeds(line: Line) -> str:
    return str(len(line.runs)) if line.runs else ""


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    if value is None:
        return ""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _math(number: str) -> str:
    """A minus sign, not a hyphen."""
    return f"${number}$" if number else ""


def _tex(text: str) -> str:
    return "".join(_LATEX.get(c, c) for c in text)

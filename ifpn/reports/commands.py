"""What `python -m ifpn.reports` does: the tables by default, a figure by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ifpn.config.errors import ConfigError
from ifpn.reports.settings import read_settings

HELP = """\
python -m ifpn.reports RUNS [out=RUNS/tables]     Tables 1 to 6: tables.md, table<N>.csv, table<N>.tex
                                                  ours (mean, spread over seeds) | paper | difference
"""


def run(arguments: Sequence[str]) -> None:
    """One report.

    Raises:
        UserError: arguments that cannot be meant, or files that cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP, end="")
        return
    first, rest = arguments[0], arguments[1:]
    command = COMMANDS.get(first)
    if command is not None:
        command(rest)
    elif Path(first).expanduser().is_dir():
        tables(Path(first).expanduser(), rest)
    else:
        raise ConfigError(f"{first} is neither a folder of runs nor one of {', '.join(COMMANDS)}.")


def tables(folder: Path, arguments: Sequence[str]) -> None:
    """Read all runs below `folder` and write the six tables."""
    from ifpn.reports.results import read_runs
    from ifpn.reports.tables import fill_tables
    from ifpn.reports.writers import write_tables

    settings = read_settings(arguments, {"out": str(folder / "tables")}, "python -m ifpn.reports RUNS")
    runs, left = read_runs(folder)
    filled, without_row = fill_tables(runs)
    write_tables(filled, [*left, *without_row], Path(settings["out"]))
    for one in filled:
        rows = sum(row.method is not None for row in one.table.rows)
        found = len({line.row.name for line in one.lines if line.runs})
        print(f"Table {one.table.number}: {found} of {rows} rows, {sum(len(line.runs) for line in one.lines)} runs")
    for what in [*left, *without_row]:
        print(f"left out: {what.path}: {what.reason}")
    print(f"In {settings['out']}: tables.md, table1 to table6 as .csv and .tex")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {}

"""What the paper's tables cost: seconds per step that were measured, extrapolated to the whole schedule.

    python -m reproduce.cost_table RUNS [--out docs/cost.md]

RUNS are short trainings at the paper's scale (docs/reproduce.md has the command). GPU-hours of a row =
images of its schedule x measured seconds per step x devices / images per step / 3600. Only the seconds are
measured; all else is extrapolated, and a row without a run stays blank.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reproduce.differences import comparable, paper_config
from reproduce.paper import TABLES, Row, Table
from reproduce.rows import Run, fits, method_of, read_runs

# These may differ between a measurement and the whole training: they change how long it lasts, not a step.
NOT_OF_A_STEP = ("schedule.max_steps", "schedule.curve.", "schedule.scaling", "trainer.limit_val_batches", "data.")


@dataclass(frozen=True)
class Cost:
    """gpu_hours and what they were extrapolated from; None where nothing was measured."""

    table: Table
    row: Row
    run: Run | None
    seconds_per_image: float | None
    gpu_hours: float | None


def images_of(table: Table, row: Row) -> int:
    """Images that the paper's schedule of the row sees."""
    schedule = paper_config(table, row)["schedule"]
    return int(schedule["max_steps"]) * int(schedule["base_batch_size"])


def same_step(run: Run, table: Table, row: Row) -> bool:
    """Whether a step of the run is a step of the row: same network, same image size, same precision."""
    a, b = comparable(paper_config(table, row)), comparable(run.config)
    differing = [k for k in {*a, *b} if a.get(k) != b.get(k) and (a.get(k) or b.get(k))]
    return all(key.startswith(NOT_OF_A_STEP) for key in differing)


def costs(runs: Sequence[Run]) -> list[Cost]:
    """Every row that `experiment=table<N>` runs; the fastest of several measurements counts."""
    found = []
    for table in TABLES:
        for row in table.rows:
            if not row.overrides or row.method is None:
                continue
            mine = [r for r in runs if (m := method_of(r.config)) and fits(m, row.method) and same_step(r, table, row)]
            timed = [(r.seconds_per_step * devices(r) / r.batch, r) for r in mine if r.seconds_per_step is not None]
            seconds, run = min(timed, key=lambda pair: pair[0], default=(None, None))
            hours = None if seconds is None else seconds * images_of(table, row) / 3600
            found.append(Cost(table, row, run, seconds, hours))
    return found


def devices(run: Run) -> int:
    """Devices that shared a step."""
    per_device = int(run.config["data"]["batch_size"]) * int(run.config["trainer"]["accumulate_grad_batches"])
    return max(1, run.batch // per_device)


def markdown(found: Sequence[Cost]) -> str:
    """A table per row, and the sums; a run that stands in several tables is counted once in the total."""
    heads = [
        "table",
        "row",
        "s per image and GPU",
        "MiB per GPU",
        "GPU-hours",
        "days on 8 GPUs",
        "days on 1",
        "measured on",
    ]
    lines = [heads, ["---"] * len(heads)]
    for cost in found:
        hours, run = cost.gpu_hours, cost.run
        numbers = [_shown(cost.seconds_per_image, 3), _shown(run.peak_memory_mib if run else None, 0), _shown(hours, 0)]
        numbers += [_shown(None if hours is None else hours / 24 / n, 1) for n in (8, 1)]
        where = f"{run.machine}, {run.steps} steps of {run.batch} images" if run else ""
        lines.append([str(cost.table.number), cost.row.name, *numbers, where])
    once = {cost.row.method: cost.gpu_hours for cost in found}
    known = [hours for hours in once.values() if hours is not None]
    total = f"{sum(known):.0f} GPU-hours for {len(known)} of {len(once)} different trainings, one seed each."
    note = (
        "Extrapolated: measured seconds per step times the paper's number of steps. Evaluation, and what is lost "
        "between several GPUs where one was measured, are not in it."
    )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + f"\n\n{total} {note}\n"


def _shown(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main() -> None:
    """Prints the table, or writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, help="a folder of runs")
    parser.add_argument("--out", type=Path, help="a Markdown file; the terminal if not given")
    options = parser.parse_args()
    text = markdown(costs(read_runs(options.runs)[0]))
    if options.out is None:
        print(text, end="")
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text)


if __name__ == "__main__":
    main()

"""What `python report.py` does: the tables by default, a figure by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError
from reproduce.settings import files, read_settings, whole_number, whole_numbers

MANY = 1_000_000

HELP = """\
python report.py RUNS [out=RUNS/tables]     Tables 1 to 6: tables.md, table<N>.csv, table<N>.tex
                                                  ours (mean, spread over seeds) | paper | difference
python report.py figure5 ckpt_a=… ckpt_b=… source=PHOTOS
    Figure 5: P5 to P7 of two checkpoints on the same images, and the effective receptive field of each.
    levels=P5,P6,P7 images=4 field_images=8 out=figures
python report.py evaluations ckpt=…         AP and residual against evaluations of G at test time
    evals=1,2,3,5,7,10,15,20,30 images=all start=own (zero: not the fitted one) root=FOLDER (as trained) out=figures
python report.py starts ckpt=A,B,…          AP with 1 to 64 plain applications of G from three starts; the prediction
    applications=1,2,3,5,8,16,32,64 images=all root=FOLDER (as trained) out=figures
python report.py wires RUNS                 experiment=wires: accuracy against the length of the wires; the prediction
    applications=1,2,4,8,16,32,64 out=RUNS/figures
python report.py gradient ckpt=… source=PHOTO   implicit gradient against the exact one, per backward and products
    vjps=1,2,3,5,7,10,15 out=figures
python report.py spectrum run=RUN           spectral radius and residual over training
    source=PHOTOS images=2 (measured on the checkpoints of the run) out=figures
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
    elif "=" in first:
        raise ConfigError(
            f"{first}: python report.py takes a folder of runs or one of {', '.join(COMMANDS)}: the paper's tables and "
            f"figures. The table of any sweep, with differences to a baseline, is: ifpn report {' '.join(arguments)}"
        )
    else:
        raise ConfigError(f"{first} is neither a folder of runs nor one of {', '.join(COMMANDS)}.")


def tables(folder: Path, arguments: Sequence[str]) -> None:
    """Read all runs below `folder` and write the six tables."""
    from reproduce.rows import read_runs
    from reproduce.tables import fill_tables
    from reproduce.writers import write_tables

    settings = read_settings(arguments, {"out": str(folder / "tables")}, "python report.py RUNS")
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


def figure5(arguments: Sequence[str]) -> None:
    """figure5.png, receptive_field.png and their numbers, receptive_field.json."""
    from ifpn.predictor import load
    from reproduce.figure5 import describe_pair, draw_fields, draw_figure5, level_maps
    from reproduce.inspect_checkpoint import level_names, read_images
    from reproduce.receptive import receptive_fields

    defaults = {"ckpt_a": None, "ckpt_b": None, "source": None, "levels": "P5,P6,P7", "images": "4"}
    settings = read_settings(arguments, {**defaults, "field_images": "8", "out": "figures"}, "figure5")
    shown, measured = whole_number(settings, "images", 1, 32), whole_number(settings, "field_images", 1, MANY)
    a, b = load(settings["ckpt_a"]), load(settings["ckpt_b"])
    levels = settings["levels"].split(",")
    common = [name for name in level_names(a) if name in level_names(b)]
    wrong = [name for name in levels if name not in common]
    if wrong:
        raise ConfigError(f"levels={settings['levels']} is not allowed: the two checkpoints share {', '.join(common)}.")
    images, out = read_images(settings["source"], max(shown, measured)), Path(settings["out"])
    names = describe_pair(a, b)
    pairs = [(level_maps(a, image, levels), level_maps(b, image, levels)) for image in images[:shown]]
    draw_figure5(pairs, names, out / "figure5.png")
    fields = [(name, receptive_fields(p, images[:measured], levels)) for name, p in zip(names, (a, b), strict=True)]
    draw_fields(fields, out / "receptive_field.png")
    numbers = {
        name: {f.level: {"half_px": f.half, "most_px": f.most, "images": f.images} for f in row} for name, row in fields
    }
    _write(out / "receptive_field.json", numbers)
    for name, row in fields:
        for f in row:
            print(f"{name:12} {f.level}: half of the gradient within {f.half:.0f} px, 90 % within {f.most:.0f} px")
    print(f"In {out}: figure5.png, receptive_field.png, receptive_field.json")


def evaluations(arguments: Sequence[str]) -> None:
    """evaluations.png and evaluations.json."""
    from ifpn.predictor import load
    from reproduce.equilibria import ap_by_evaluations
    from reproduce.equilibrium_figures import draw_evaluations
    from reproduce.inspect_checkpoint import equilibrium_of

    defaults = {"ckpt": None, "evals": "1,2,3,5,7,10,15,20,30", "images": "all", "start": "own"}
    defaults |= {"root": "as trained", "out": "figures"}
    settings = read_settings(arguments, defaults, "evaluations")
    if settings["start"] not in ("own", "zero"):
        raise ConfigError(f"start={settings['start']}: must be own or zero.")
    budgets = whole_numbers(settings, "evals", 1, 1000)
    images = None if settings["images"] == "all" else whole_number(settings, "images", 1, MANY)
    predictor, out = load(settings["ckpt"]), Path(settings["out"])
    solver = equilibrium_of(predictor)
    data = _data(predictor.config["data"], None if settings["root"] == "as trained" else settings["root"])

    def say(one: Any) -> None:
        print(
            f"{one.evals:3} evaluations: AP {one.ap:.3f}, residual {sorted(one.residual)[len(one.residual) // 2]:.1e}"
        )

    found = ap_by_evaluations(predictor, data, budgets, images, say, from_zero=settings["start"] == "zero")
    draw_evaluations(found, (solver.train_evals, solver.test_evals), out / "evaluations.png")
    _write(out / "evaluations.json", [vars(one) for one in found])
    print(f"In {out}: evaluations.png, evaluations.json")


def starts(arguments: Sequence[str]) -> None:
    """starts.png and starts.json."""
    from ifpn.predictor import load
    from reproduce.inspect_checkpoint import describe_solver
    from reproduce.starts import ap_from_starts, draw_starts, verdict

    defaults = {"ckpt": None, "applications": "1,2,3,5,8,16,32,64", "images": "all", "root": "as trained"}
    settings = read_settings(arguments, {**defaults, "out": "figures"}, "starts")
    numbers, out = whole_numbers(settings, "applications", 1, 1000), Path(settings["out"])
    images = None if settings["images"] == "all" else whole_number(settings, "images", 2, MANY)
    measured = []
    for ckpt in files(settings, "ckpt"):
        predictor = load(ckpt)
        data = _data(predictor.config["data"], None if settings["root"] == "as trained" else settings["root"])
        found = ap_from_starts(predictor, data, numbers, images)
        lines, name = verdict(predictor, found), describe_solver(predictor)
        print(f"{name} ({ckpt})")
        for one in found:
            print(f"  from {one.start:12}" + "  ".join(f"{n}: {value:.3f}" for n, value in one.ap.items()))
        for line in lines:
            print(f"  {line}")
        measured.append((ckpt, name, found, lines))
    draw_starts([(name, found) for _, name, found, _ in measured], out / "starts.png")
    _write(
        out / "starts.json",
        [
            {"ckpt": ckpt, "name": name, "starts": [vars(one) for one in found], "verdict": lines}
            for ckpt, name, found, lines in measured
        ],
    )
    print(f"In {out}: starts.png, starts.json")


def wires(arguments: Sequence[str]) -> None:
    """wires.png, wires.csv and wires.json."""
    from ifpn.predictor import load
    from reproduce.wires import longest_in_training, report, told_apart, wire_accuracy

    folder = Path(arguments[0] if arguments else "runs/wires").expanduser()
    settings = read_settings(
        arguments[1:], {"applications": "1,2,4,8,16,32,64", "out": str(folder / "figures")}, "wires RUNS"
    )
    numbers, out = whole_numbers(settings, "applications", 1, 1000), Path(settings["out"])
    checkpoints = sorted(folder.glob("**/best.ckpt"))
    if not checkpoints:
        raise ConfigError(f"{folder} holds no best.ckpt: give the folder of python train.py experiment=wires.")
    networks, longest = [], 0.0
    for path in checkpoints:
        predictor = load(path)
        longest = longest_in_training(predictor)
        networks.append(wire_accuracy(predictor, _data(predictor.config["data"], None), numbers))
        print(f"{path}: {networks[-1].name}")
    networks = told_apart(networks, [path.parent.name for path in checkpoints])
    verdict = report(networks, longest, out)
    _write(out / "wires.json", {"networks": [vars(one) for one in networks], "verdict": verdict})
    print(f"In {out}: wires.png, wires.csv, wires.json")


def gradient(arguments: Sequence[str]) -> None:
    """gradient.png and gradient.json."""
    from ifpn.predictor import load
    from reproduce.equilibria import gradient_errors
    from reproduce.equilibrium_figures import draw_gradients
    from reproduce.inspect_checkpoint import read_images

    defaults = {"ckpt": None, "source": None, "vjps": "1,2,3,5,7,10,15", "out": "figures"}
    settings = read_settings(arguments, defaults, "gradient")
    budgets, out = whole_numbers(settings, "vjps", 1, 200), Path(settings["out"])
    image = read_images(settings["source"], 1)[0]
    found = gradient_errors(load(settings["ckpt"]), image, budgets)
    draw_gradients(found, out / "gradient.png")
    _write(out / "gradient.json", [vars(one) for one in found])
    for one in found:
        print(f"{one.state} (residual {one.residual:.1e}): relative error of the gradient")
        for name, points in one.errors.items():
            print(f"  {name:14}" + "  ".join(f"{n}: {error:.1e}" for n, error in points))
    print(f"In {out}: gradient.png, gradient.json")


def spectrum(arguments: Sequence[str]) -> None:
    """spectrum.png."""
    from ifpn.plots.curves import read_curves
    from reproduce.equilibrium_figures import draw_spectrum

    settings = read_settings(arguments, {"run": None, "source": "", "images": "2", "out": "figures"}, "spectrum")
    run_dir, out = Path(settings["run"]).expanduser(), Path(settings["out"])
    count = whole_number(settings, "images", 1, MANY)
    if not (run_dir / "metrics.csv").is_file():
        raise ConfigError(f"run={run_dir} has no metrics.csv: give the folder of a run.")
    points = _radii(run_dir, settings["source"], count) if settings["source"] else []
    draw_spectrum(read_curves(run_dir / "metrics.csv"), points, out / "spectrum.png")
    print(f"In {out}: spectrum.png")


def _radii(run_dir: Path, source: str, count: int) -> list[tuple[int, list[float]]]:
    """(step, spectral radius per image) of each checkpoint of a run."""
    from ifpn.predictor import load
    from ifpn.runs.checkpoint import read_checkpoint
    from reproduce.equilibria import radius_at
    from reproduce.inspect_checkpoint import read_images

    images = read_images(source, count)
    found = {}
    for path in sorted(run_dir.glob("*.ckpt")):
        step = int(read_checkpoint(path)["global_step"])
        if step not in found:
            found[step] = radius_at(load(path), images)
            print(f"{path.name}, step {step}: " + ", ".join(f"{r:.3f}" for r in found[step]))
    return sorted(found.items())


def _data(node: dict[str, Any], root: str | None) -> Any:
    """The data set that a checkpoint was trained on, elsewhere if `root` is given, ready for validation."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    from ifpn.config.allowlist import check_targets

    node = {**node, "workers": 0} | ({"root": root, "generate": None} if root is not None else {})
    check_targets(node)
    data = instantiate(OmegaConf.create(node))
    data.prepare_data()
    data.setup("validate")
    return data


def _write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "figure5": figure5,
    "evaluations": evaluations,
    "starts": starts,
    "wires": wires,
    "gradient": gradient,
    "spectrum": spectrum,
}

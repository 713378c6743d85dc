"""Result files into tables: mean and spread, marks, blanks, and what is left out by name."""

from __future__ import annotations

import copy
import csv
import io
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest

from reproduce.differences import paper_config, solver_words
from reproduce.paper import METRICS, TABLES, Method
from reproduce.rows import method_of, read_runs
from reproduce.tables import Filled, Line, fill_tables, measure
from reproduce.writers import comma_separated, latex, markdown, write_tables
from tests.reproduce.cases import TABLE4, result, stored, write


def filled(folder: Path) -> tuple[list[Filled], list[str]]:
    runs, left = read_runs(folder)
    tables, without_row = fill_tables(runs)
    return tables, [f"{Path(x.path).relative_to(folder)}: {x.reason}" for x in [*left, *without_row]]


def lines(folder: Path, number: int, row: str) -> list[Line]:
    return [line for line in filled(folder)[0][number - 1].lines if line.row.name == row]


def test_seeds_become_mean_and_spread_and_the_difference_is_against_the_paper(tmp_path: Path) -> None:
    values = [0.42, 0.44, 0.45]
    for seed, ap in enumerate(values):
        write(tmp_path / f"run{seed}", result(ap=ap, seed=seed))
    (line,) = lines(tmp_path, 4, "pyramid")
    ours = line.measured("AP")
    assert ours is not None
    assert ours.mean == pytest.approx(100 * statistics.fmean(values))
    assert ours.spread == pytest.approx(100 * statistics.stdev(values))
    assert line.difference("AP") == pytest.approx(ours.mean - 43.5)
    assert line.marks == ()
    assert [run.seed for run in line.runs] == [0, 1, 2]


def test_one_run_fills_every_row_that_it_is(tmp_path: Path) -> None:
    """The paper gives ATSS with i-FPN in Tables 1, 3 and 4."""
    write(tmp_path / "a", result())
    tables, left = filled(tmp_path)
    found = {(t.table.number, line.row.name) for t in tables for line in t.lines if line.runs}
    assert found == {(1, "atss_ifpn"), (3, "rbl_csc"), (4, "pyramid")}
    assert left == []


def test_a_missing_row_is_blank_and_never_zero(tmp_path: Path) -> None:
    write(tmp_path / "a", result())
    tables, _ = filled(tmp_path)
    rows = list(csv.DictReader(io.StringIO(comma_separated(tables[3]))))
    assert [r["row"] for r in rows] == [r.name for r in TABLE4.rows]
    for row in rows:
        cells = [row[f"{m} {what}"] for m in METRICS for what in ("ours", "spread", "difference")]
        if row["row"] == "pyramid":
            assert all(row[f"{m} ours"] for m in METRICS)
            assert row["AP spread"] == ""  # one seed has no spread
        else:
            assert cells == [""] * len(cells)
    text = markdown(tables, [])
    dense = next(x for x in text.splitlines() if x.startswith("| Dense-FPN"))
    assert dense.split("|")[2:6] == ["  ", " 42.4 ", "  ", "  "]
    mdeq = next(x for x in text.splitlines() if x.startswith("| MDEQ"))
    assert mdeq.count("37.2") == 1
    assert "0.0" not in mdeq


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        ({"coco": False}, "data coco_person"),
        ({("neck", "out_channels"): 128}, "neck.out_channels=128"),
        ({("backbone", "_target_"): "ifpn.backbones.efficientnet_lite0"}, "backbone efficientnet_lite0"),
        ({("backbone", "weights"): "none"}, "backbone.weights=none"),
        ({("schedule", "optimizer", "lr"): 0.02}, "schedule.optimizer.lr=0.02"),
        ({("image", "min_size"): [256]}, "90000 steps of 16 images at 256 px, a rate of 0.01"),
        ({("steps",): 45_000}, "45000 steps of 16 images at 800 px, a rate of 0.01"),
        ({("neck", "solver", "train_evals"): 5}, "solver Broyden 5, Broyden 15, 7 at test"),
        ({("neck", "output_norm"): True}, "neck.output_norm=true"),
        ({("trainer", "precision"): "bf16-mixed"}, "trainer.precision=bf16-mixed"),
    ],
)
def test_what_is_not_the_papers_is_marked(tmp_path: Path, change: dict[Any, Any], mark: str) -> None:
    content = result(coco=change.get("coco", True))
    content["config"]["data"]["root"] = "data/coco_person"
    for path, value in change.items():
        if path == "coco":
            continue
        node = content if path == ("steps",) else content["config"]
        for key in path[:-1]:
            node = node[key]
        assert node.get(path[-1]) != value, "the change must be one"
        node[path[-1]] = value
    write(tmp_path / "a", content)
    (line,) = lines(tmp_path, 4, "pyramid")
    assert line.marks == (mark,)
    tables, _ = filled(tmp_path)
    assert f"not the paper's: {mark}" in markdown(tables, [])


def test_another_batch_with_as_many_images_is_still_the_papers_schedule(tmp_path: Path) -> None:
    """The linear rule: half the batch, twice the steps."""
    content = result()
    content |= {"steps": 180_000, "batch": 8}
    content["config"]["data"]["batch_size"] = 8
    write(tmp_path / "a", content)
    (line,) = lines(tmp_path, 4, "pyramid")
    assert line.marks == ()


def test_runs_that_differ_in_more_than_the_seed_are_never_averaged(tmp_path: Path) -> None:
    for seed, channels in ((0, 256), (1, 256), (2, 128)):
        content = result(seed=seed)
        content["config"]["neck"]["out_channels"] = channels
        write(tmp_path / f"{seed}", content)
    found = lines(tmp_path, 4, "pyramid")
    assert [(line.marks, [r.seed for r in line.runs]) for line in found] == [
        ((), [0, 1]),
        (("neck.out_channels=128",), [2]),
    ]


def test_a_run_of_an_older_version_belongs_to_those_of_this_one(tmp_path: Path) -> None:
    """It does not name settings that came later, with their defaults: it is averaged with the others, unmarked."""
    rows = {row.name: row for row in TABLES[0].rows}
    for seed in (0, 1):
        config = paper_config(TABLES[0], rows["atss_fpn"])
        if seed == 0:
            del config["schedule"]["backbone_lr"], config["neck"]["norm"]
        write(tmp_path / f"{seed}", result(seed=seed, config=config))
    (line,) = lines(tmp_path, 1, "atss_fpn")
    assert (line.marks, [r.seed for r in line.runs]) == ((), [0, 1])


def test_a_result_cannot_make_the_report_import_what_it_names(tmp_path: Path) -> None:
    """A result.json is input. `this` prints a poem when it is imported."""
    content = result()
    content["config"]["neck"]["csc"]["_target_"] = "this.PyramidConv"
    content["config"]["detector"]["_target_"] = "ifpn.nowhere.ATSS"
    write(tmp_path / "a", content)
    filled(tmp_path)
    assert "this" not in sys.modules


def broken(name: str) -> Any:
    content = result()
    match name:
        case "incomplete":
            content["complete"] = False
            content["steps"] = 12
        case "not validated":
            content["summary"] = None
        case "nan":
            content["summary"]["AP"] = float("nan")
        case "percent":
            content["summary"]["AP"] = 43.5
        case "no config":
            del content["config"]
        case "no seed":
            del content["seed"]
        case "text":
            content = "{"
        case "list":
            content = [1, 2]
    return content


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("incomplete", "unfinished: stopped after 12 steps"),
        ("not validated", "was never validated"),
        ("nan", "AP=nan is no number"),
        ("percent", "AP=43.5 is not in 0..1"),
        ("no config", "has no training configuration"),
        ("no seed", "'seed'"),
        ("text", "cannot be read as JSON"),
        ("list", "holds no object"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_left_out(tmp_path: Path, name: str, reason: str) -> None:
    write(tmp_path / "good", result())
    write(tmp_path / "bad", broken(name))
    tables, left = filled(tmp_path)
    assert len(left) == 1
    assert left[0].startswith("bad/result.json: ")
    assert reason in left[0]
    assert sum(bool(line.runs) for line in tables[3].lines) == 1


def test_a_run_that_was_killed_one_that_is_twice_and_one_without_a_row_are_named(tmp_path: Path) -> None:
    write(tmp_path / "a", result())
    write(tmp_path / "b", result())
    foreign = result()
    foreign["config"]["neck"]["_target_"] = "ifpn.necks.PAFPN"
    write(tmp_path / "c", foreign)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "last.ckpt").write_bytes(b"")
    _, left = filled(tmp_path)
    assert left == [
        "d: unfinished: no result.json",
        f"b: the same run as {tmp_path / 'a'}, same seed",
        "c: no row of the paper is such a run",
    ]


def schedule(content: dict[str, Any], **values: Any) -> dict[str, Any]:
    content["steps"] = 750
    for key, value in values.items():
        if key == "lr":
            content["config"]["schedule"]["optimizer"]["lr"] = value
        else:
            content["config"]["schedule"][key] = value
    return content


def test_runs_of_a_row_that_differ_are_told_apart_by_their_marks(tmp_path: Path) -> None:
    """The rate stands in the words for the schedule; a setting without such words is named as it is configured."""
    write(tmp_path / "a", schedule(result()))
    write(tmp_path / "b", schedule(result(), lr=0.002))
    write(tmp_path / "c", schedule(result(), gradient_clip=7.0))
    marks = {line.mark for line in lines(tmp_path, 4, "pyramid")}
    words = "750 steps of 16 images at 800 px, a rate of"
    clip = result()["config"]["schedule"]["gradient_clip"]
    assert marks == {
        f"{words} 0.002",
        f"{words} 0.01; schedule.gradient_clip={'null' if clip is None else clip}",
        f"{words} 0.01; schedule.gradient_clip=7.0",
    }


@pytest.mark.parametrize("values", [{"lr": 0.002}, {"gradient_clip": 7.0}, {"max_size": 1000}])
def test_no_gain_between_runs_of_different_schedules(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path / "a", schedule(result("pyramid", ap=0.44)))
    other = result("dense", ap=0.42)
    other["config"]["image"] |= {k: v for k, v in values.items() if k == "max_size"}
    write(tmp_path / "b", schedule(other, **{k: v for k, v in values.items() if k != "max_size"}))
    assert filled(tmp_path)[0][3].gains == ()
    write(tmp_path / "c", schedule(result("dense", ap=0.41)))
    (gain,) = filled(tmp_path)[0][3].gains
    assert gain.ours.mean == pytest.approx(3.0)


def test_no_gain_between_two_implicit_necks_of_which_one_has_a_norm(tmp_path: Path) -> None:
    """Both necks have the switch, so it is not what Table 4 compares."""
    for row, norm in (("pyramid", True), ("dense", False)):
        content = result(row)
        content["config"]["neck"]["output_norm"] = norm
        write(tmp_path / row, content)
    assert filled(tmp_path)[0][3].gains == ()


def test_gains_are_taken_between_runs_under_one_mark_only(tmp_path: Path) -> None:
    for row, ap, channels in (("pyramid", 0.44, 256), ("dense", 0.42, 256), ("bifpn", 0.40, 128)):
        content = result(row, ap=ap)
        content["config"]["neck"]["out_channels"] = channels
        write(tmp_path / row, content)
    gains = filled(tmp_path)[0][3].gains
    assert [(g.better.name, g.worse.name) for g in gains] == [("pyramid", "dense")]
    assert gains[0].ours.mean == pytest.approx(2.0)
    assert gains[0].paper == pytest.approx(1.1)


def test_a_setting_that_only_one_neck_has_does_not_prevent_a_gain(tmp_path: Path) -> None:
    rows = {row.name: row for row in TABLES[0].rows}
    for name, ap in (("atss_fpn", 0.40), ("atss_ifpn", 0.43)):
        config = paper_config(TABLES[0], rows[name])
        config["neck"]["out_channels"] = 128
        if name == "atss_ifpn":
            config["neck"]["output_norm"] = True
        write(tmp_path / name, result(ap=ap, config=config))
    (gain,) = filled(tmp_path)[0][0].gains
    assert gain.ours.mean == pytest.approx(3.0)
    assert gain.mark == "neck.out_channels=128; neck.output_norm=true"
    assert gain.worse_mark == "neck.out_channels=128"


def test_the_same_runs_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    contents = [result(row, ap=0.3 + 0.01 * s, seed=s) for row in ("pyramid", "dense") for s in range(3)]
    outs = []
    for name, order in (("x", range(6)), ("y", reversed(range(6)))):
        # The same folders, written in another order.
        runs = tmp_path / name / "runs"
        for i in order:
            write(runs / str(i), contents[i])
        read, left = read_runs(runs)
        tables, more = fill_tables(read)
        write_tables(tables, [*left, *more], tmp_path / name / "out")
        outs.append({f.name: f.read_text().replace(f"{name}/runs", "") for f in (tmp_path / name / "out").iterdir()})
    assert outs[0] == outs[1]
    assert set(outs[0]) == {"tables.md", *(f"table{n}.{kind}" for n in range(1, 7) for kind in ("csv", "tex"))}


def test_latex_has_as_many_cells_as_columns_and_escapes(tmp_path: Path) -> None:
    content = result(coco=False)
    content["config"]["data"]["root"] = "coco_person_50%"
    write(tmp_path / "a", content)
    for one in filled(tmp_path)[0]:
        text = latex(one)
        columns = text.split(r"\begin{tabular}{")[1].split("}")[0]
        body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
        for row in [x for x in body.splitlines() if x.endswith(r"\\")]:
            assert row.replace(r"\&", "").count("&") == len(columns) - 1
        assert text.count("{") == text.count("}")
        assert "coco_person" not in text
    assert r"coco\_person\_50\%" in latex(filled(tmp_path)[0][3])


def test_measure_needs_every_value() -> None:
    assert measure([]) is None
    assert measure([1.0, None]) is None  # a class that one validation set lacks
    one = measure([1.0])
    assert one is not None
    assert one.spread is None


def test_an_unrolled_neck_without_steps_is_no_neck() -> None:
    config = copy.deepcopy(json.loads(stored("pyramid")))
    config["neck"]["solver"] = {"_target_": "ifpn.solvers.Unroll", "steps": 0}
    assert method_of(config) == Method("atss", "none", backbone="resnet50")
    assert solver_words(config["neck"]["solver"]) == "unrolled 0"


@pytest.mark.parametrize(
    ("backbone", "deformable", "expected"),
    [
        ("resnet50", False, {1, 3, 4}),
        ("resnet50", True, {1, 3, 4}),
        ("efficientnet_lite0", False, {1, 3, 4}),
        ("efficientnet_lite0", True, {6}),  # Table 6 at a small scale: its backbones' stand-in
        ("resnext101_64x4d", True, {6}),
        ("resnext101_64x4d", False, {6}),
    ],
)
def test_large_networks_stand_in_table_6_alone(
    tmp_path: Path, backbone: str, deformable: bool, expected: set[int]
) -> None:
    content = result()
    content["config"]["backbone"]["_target_"] = f"ifpn.backbones.{backbone}"
    content["config"]["detector"]["head"]["deformable"] = deformable
    write(tmp_path / "a", content)
    tables, left = filled(tmp_path)
    found = [(t.table.number, line.row.name) for t in tables for line in t.lines if line.runs]
    assert {number for number, _ in found} == expected
    assert left == []
    if expected == {6}:
        both = {"atss_x101", "atss_x152"} if backbone == "efficientnet_lite0" else {"atss_x101"}
        assert {name for _, name in found} == both


def test_a_run_of_epochs_says_how_many_and_which_optimiser(tmp_path: Path) -> None:
    content = result() | {"steps": 1800, "batch": 8}
    content["config"]["schedule"] |= {"max_epochs": 24, "max_steps": None}
    content["config"]["schedule"]["optimizer"]["_target_"] = "torch.optim.AdamW"
    write(tmp_path / "a", content)
    (line,) = lines(tmp_path, 4, "pyramid")
    assert line.marks == ("24 epochs, 1800 steps of 8 images at 800 px, AdamW at 0.01",)

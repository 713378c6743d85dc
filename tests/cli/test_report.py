"""`ifpn report`: any sweep, named by what was swept, paired by seed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from ifpn.cli.main import main
from ifpn.cli.report import report
from ifpn.errors import ConfigError
from ifpn.runs.sweep import read_sweep

SUMMARY = dict.fromkeys(("AP50", "AP75", "APs", "APm"), 0.1) | {"APl": -1}


def write(folder: Path, neck: str, seed: int, ap: float, root: str = "nowhere", **changes: Any) -> None:
    """A finished run as the launcher leaves it."""
    (folder / "hydra").mkdir(parents=True)
    config = {"neck": {"_target_": neck}, "seed": seed, "run_dir": str(folder), "data": {"root": root, "seed": seed}}
    config["solver"] = {"train_evals": 7 + seed} if neck == "fpn" else {}  # of a default that changed meanwhile
    content: dict[str, Any] = {"complete": True, "seed": seed, "steps": 10, "summary": {"AP": ap, **SUMMARY}}
    content |= {
        "config": config,
        "parameters": 2_000_000,
        "seconds_per_step": 1.5,
        "solver": {"spectral_radius": 0.5},
    } | changes
    (folder / "result.json").write_text(json.dumps(content))
    given = [f"neck={neck}", f"seed={seed}", f"data.root={root}", "schedule.max_epochs=3"]
    (folder / "hydra" / "overrides.yaml").write_text(yaml.safe_dump(given))


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def configuration(folder: Path, **changes: Any) -> Any:
    settings = {
        "runs": str(folder),
        "recorded": [],
        "baseline": None,
        "metrics": ["AP", "APl"],
        "resamples": 0,
        "contrasts": None,
    }
    return OmegaConf.create({**settings, "run_dir": str(folder / "report"), **changes})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    for seed, (fpn, implicit) in enumerate([(0.50, 0.52), (0.51, 0.52), (0.49, 0.52)]):
        write(tmp_path / f"neck=fpn,seed={seed}", "fpn", seed, fpn)
        write(tmp_path / f"neck=implicit,seed={seed}", "implicit", seed, implicit)
    return tmp_path


def test_rows_are_what_was_swept_and_seeds_are_repetitions(sweep: Path) -> None:
    rows, left = read_sweep(sweep)
    assert [(row.name, [run.seed for run in row.runs]) for row in rows] == [("fpn", [0, 1, 2]), ("implicit", [0, 1, 2])]
    assert rows[0].values("AP") == pytest.approx([50.0, 51.0, 49.0])
    assert rows[0].values("APl") == []  # no large box: no number, and never -100
    assert left == []


def test_a_single_row_has_the_name_by_which_it_joins_others(tmp_path: Path) -> None:
    for seed in (0, 1):
        write(tmp_path / str(seed), "fpn", seed, 0.5)
    assert [row.name for row in read_sweep(tmp_path)[0]] == ["all"]
    for seed in (0, 1):
        path = tmp_path / str(seed) / "hydra" / "overrides.yaml"
        path.write_text(yaml.safe_dump([*yaml.safe_load(path.read_text()), "row=fast"]))
    assert [row.name for row in read_sweep(tmp_path)[0]] == ["fast"]


def test_differences_are_paired_by_seed(sweep: Path) -> None:
    write(sweep / "more", "implicit", 7, 0.9)  # without a partner
    found = report(configuration(sweep, baseline="fpn"))
    ap = next(c for c in found if c.metric == "AP")
    assert ap.seeds == (0, 1, 2)
    assert ap.over_seeds is not None
    assert ap.over_seeds.mean == pytest.approx(2.0)
    assert ap.over_seeds.sd == pytest.approx(1.0)
    large = next(c for c in found if c.metric == "APl")
    assert large.over_seeds is None
    assert {f.name for f in (sweep / "report").iterdir()} == {
        *("report.md", "rows.csv", "runs.csv", "differences.csv", "rows.tex", "differences.png")
    }
    lines = read(sweep / "report" / "differences.csv")
    assert lines[0]["95 % over seeds"] == "-0.48 to +4.48"  # 2 ± 4.303 / sqrt(3)
    assert lines[0]["pairs needed for 1 AP"] == "10"
    assert "| fpn | 50.0 ± 1.0 |" in (sweep / "report" / "report.md").read_text()
    assert len(read(sweep / "report" / "runs.csv")) == 7


def test_a_difference_that_has_a_name_is_not_said_twice(sweep: Path) -> None:
    named = report(configuration(sweep, baseline="fpn", contrasts={"solver": "implicit - fpn"}, metrics=["AP"]))
    assert [(c.name, c.a, c.b) for c in named] == [("solver", "implicit", "fpn")]


@pytest.mark.parametrize("width", [80, 200])
def test_no_number_is_cut_off_in_a_terminal(
    width: int, sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    report(configuration(sweep, baseline="fpn"))
    shown = capsys.readouterr().out
    assert "…" not in shown
    for cell in ("50.0 ± 1.0", "52.0 ± 0.0", "implicit - fpn", "+2.00", "-0.48 to +4.48", "2.00"):
        assert cell in shown
    assert max(len(line) for line in shown.splitlines()[:-1]) <= width
    assert ("continued" in shown) == (width == 80)


def test_several_data_sets_are_compared_each_by_itself(tmp_path: Path) -> None:
    for root, gain in (("cells", 0.01), ("persons", 0.03)):
        for seed in (0, 1):
            write(tmp_path / f"{root}{seed}fpn", "fpn", seed, 0.5 + 0.1 * seed, root)
            write(tmp_path / f"{root}{seed}implicit", "implicit", seed, 0.5 + 0.1 * seed + gain, root)
    found = report(configuration(tmp_path, baseline="fpn", within="data.root", metrics=["AP"]))
    means = {c.name: c.over_seeds.mean for c in found if c.over_seeds is not None}
    assert means == {
        "data.root=cells neck=implicit - fpn": pytest.approx(1.0),
        "data.root=persons neck=implicit - fpn": pytest.approx(3.0),
    }
    for changes, sentence in (
        ({"within": "data.root"}, "needs a baseline"),
        ({"within": "csc", "baseline": "fpn"}, r"^within=csc: must be a setting of these runs: .*data.root"),
        ({"within": "data.root", "baseline": "pafpn"}, r"^baseline=pafpn: must be a row .*: fpn, implicit\."),
    ):
        with pytest.raises(ConfigError, match=sentence):
            report(configuration(tmp_path, **changes))


def test_unfinished_and_repeated_runs_are_named(sweep: Path) -> None:
    write(sweep / "killed", "fpn", 3, 0.1, complete=False)
    write(sweep / "zz again", "fpn", 0, 0.9)
    (sweep / "broken").mkdir()
    (sweep / "broken" / "result.json").write_text("[" * 100_000)
    rows, left = read_sweep(sweep)
    assert rows[0].values("AP") == pytest.approx([50.0, 51.0, 49.0])
    reasons = {path.name if path.is_dir() else path.parent.name: reason for path, reason in left}
    assert reasons["killed"] == "unfinished: stopped after 10 steps"
    assert reasons["zz again"].startswith("the same run as")
    assert reasons["broken"].startswith("cannot be read as JSON")


def test_a_table_of_runs_stands_for_the_runs_and_more_join_by_name(sweep: Path, tmp_path_factory: Any) -> None:
    first = report(configuration(sweep, baseline="fpn"))
    kept = tmp_path_factory.mktemp("results")
    table = sweep / "report" / "runs.csv"
    (kept / "runs.csv").write_bytes(table.read_bytes())
    again = report(configuration(kept, baseline="fpn", resamples=100))  # there are no predictions to resample
    assert [(c.name, c.seeds, c.over_seeds) for c in again] == [(c.name, c.seeds, c.over_seeds) for c in first]
    for name in ("runs.csv", "differences.csv"):
        assert (kept / "report" / name).read_text() == (sweep / "report" / name).read_text()
    timed, untimed = (read(folder / "report" / "rows.csv") for folder in (sweep, kept))
    assert [row.pop("s/step") for row in timed] == ["1.50", "1.50"]  # nobody knows of a table when it was timed
    assert untimed == timed
    more = tmp_path_factory.mktemp("more")
    for seed in (2, 3):  # seed 2 is in both: the run counts
        write(more / f"fpn{seed}", "fpn", seed, 0.7)
        write(more / f"implicit{seed}", "implicit", seed, 0.8)
    joined = report(configuration(more, baseline="fpn", recorded=[str(table)]))[0]
    assert joined.seeds == (0, 1, 2, 3)
    assert joined.over_seeds is not None
    assert joined.over_seeds.mean == pytest.approx((2 + 1 + 10 + 10) / 4)
    assert "implicit, seed 2: is there already" in (more / "report" / "report.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("row,seed\nfpn,0\n", "line 2: has no AP"),
        ("row,seed,AP,AP50,AP75,APs,APm,APl\n", "holds no run"),
        ("row,seed,AP,AP50,AP75,APs,APm,APl\nfpn,0,nan,1,1,1,1,1\n", "line 2: AP=nan: must be"),
        ("row,seed,AP,AP50,AP75,APs,APm,APl\nfpn,0,101,1,1,1,1,1\n", "line 2: AP=101: must be .* at most 100"),
    ],
)
def test_a_table_that_is_none_is_named(sweep: Path, text: str, message: str) -> None:
    table = sweep / "table.csv"
    table.write_text(text)
    with pytest.raises(ConfigError, match=message):
        report(configuration(sweep, recorded=[str(table)]))


def test_runs_started_by_hand_are_told_apart_by_their_settings(sweep: Path) -> None:
    for folder in sweep.iterdir():
        (folder / "hydra" / "overrides.yaml").unlink()
    assert [row.name for row in read_sweep(sweep)[0]] == ["fpn", "implicit"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "bifpn"}, "baseline=bifpn: must be a row of this sweep: fpn, implicit"),
        ({"metrics": ["mAP"]}, "metrics=mAP: must be one of AP, AP50"),
        ({"contrasts": {"mine": "fpn"}}, "contrasts.mine=fpn: must be two rows"),
        ({"runs": "nowhere"}, "runs=nowhere: must be a folder"),
    ],
)
def test_what_is_not_there_is_named(sweep: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        report(configuration(sweep, **changes))


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["ifpn", "report", "runs=typo"])
    with pytest.raises(SystemExit):
        main()
    assert not list(tmp_path.iterdir())


def test_a_single_metric_needs_no_list_and_a_spoilt_seed_no_traceback(sweep: Path) -> None:
    found = report(configuration(sweep, baseline="fpn", metrics="AP"))
    assert {one.metric for one in found} == {"AP"}
    spoilt = next(sweep.rglob("result.json"))
    spoilt.write_text(json.dumps({**json.loads(spoilt.read_text()), "seed": None}))
    fewer = report(configuration(sweep, baseline="fpn", metrics="AP"))
    assert sum(len(one.seeds) for one in fewer) < sum(len(one.seeds) for one in found)

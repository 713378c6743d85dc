"""Names of folders, and the command line of a job."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifpn.cli import sweep
from ifpn.cli.command import expand_jobs_flag
from ifpn.cli.jobs import Job, swept_keys
from ifpn.cli.processes import clean_environment, job_command
from ifpn.cli.sweep import SweepError, run_sweep
from ifpn.errors import ConfigError
from ifpn.runs.folder import mark_complete
from ifpn.runs.identity import config_hash, folder_name, job_folder
from ifpn.runs.lock import folder_lock


@pytest.mark.slow
@given(st.text(min_size=1, max_size=400))
def test_any_text_becomes_one_folder_name_that_a_file_system_takes(text: str) -> None:
    name = folder_name(text)
    assert "/" not in name
    assert "\0" not in name
    assert name not in (".", "..")
    assert 0 < len(name.encode(errors="surrogatepass")) <= 255


def test_usual_names_stay_and_shortened_ones_differ() -> None:
    assert folder_name("csc=dense,seed=1") == "csc=dense,seed=1"
    assert folder_name("data.root=/a/b") != folder_name("data.root=/a-b")
    assert folder_name("x" * 300) != folder_name("x" * 301)


def test_what_is_swept_stands_first_and_a_job_keeps_its_folder_whatever_is_swept(tmp_path: Path) -> None:
    assert swept_keys([["csc=a", "seed=0", "+x=1"], ["csc=a", "seed=1"]]) == {"seed", "+x"}
    long = f"backbone.weights=none,data.root=/{'d' * 200},seed=1"
    for subdir in ("csc=dense,image.min_size=[64,96],seed=1", long):
        folder = job_folder(tmp_path, subdir, {"seed"})
        assert folder.name.startswith("seed=1,")
        folder.mkdir()
        assert job_folder(tmp_path, subdir, set()) == folder
        assert job_folder(tmp_path, subdir, {"csc", "seed"}) == folder
        assert job_folder(tmp_path, subdir.replace("seed=1", "seed=2"), {"seed"}) != folder


def test_the_hash_ignores_where_and_sees_what() -> None:
    config = {"seed": 0, "run_dir": "a", "ckpt": None, "callbacks": {"ema": None, "last": {"every_n_steps": 5}}}
    assert config_hash(config) == config_hash({**config, "run_dir": "b", "ckpt": "last"})
    assert config_hash(config) != config_hash({**config, "seed": 1})
    assert config_hash(config) != config_hash({**config, "callbacks": {"ema": {"decay": 0.9}}})


def test_a_job_command_names_its_folder_and_no_setting_of_the_sweep() -> None:
    job = Job(0, ("csc=a", "run_dir=elsewhere"), Path("/r/it's,1"), {"trainer": {"devices": 2}})
    command = job_command(job, ["hydra.mode=MULTIRUN", "hydra.sweep.dir=/r", "hydra.verbose=true"], resume=True)
    assert command[2:] == ["csc=a", "hydra.verbose=true", "run_dir='/r/it\\'s,1'", "ckpt=last", "hydra.mode=RUN"]


def test_a_job_does_not_take_itself_for_a_rank() -> None:
    environment = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "SLURM_PROCID": "3", "PATH": "p"}
    assert clean_environment(environment) == {"PATH": "p"}


@pytest.mark.parametrize(
    ("typed", "handed_to_hydra"),
    [
        (["-m", "-j", "2", "seed=0,1"], ["-m", "seed=0,1", "hydra.launcher.jobs=2"]),
        (["seed=0,1", "-j3", "-m"], ["-m", "seed=0,1", "hydra.launcher.jobs=3"]),
        (["csc=none", "seed=0"], ["csc=none", "seed=0"]),
    ],
)
def test_the_number_of_jobs_can_be_said_briefly(typed: list[str], handed_to_hydra: list[str]) -> None:
    assert expand_jobs_flag(typed) == handed_to_hydra


@pytest.mark.parametrize("typed", [["-m", "-j"], ["-m", "-j", "0"], ["-m", "-j", "seed=1"], ["-j", "2", "seed=1"]])
def test_a_number_of_jobs_that_means_nothing_is_told(typed: list[str]) -> None:
    with pytest.raises(ConfigError, match="-j"):
        expand_jobs_flag(typed)


BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefg", "bcdefgh", strict=True)
)


@pytest.mark.parametrize("text", ["", "a: [1, 2", BOMB, "a: " + "1" * 5000, "\xff"])
def test_a_job_whose_configuration_cannot_be_read_is_unfinished(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text, encoding="latin-1")
    job = Job(0, ("seed=1",), tmp_path, {"seed": 1})
    assert (job.finished(), job.interrupted()) == (False, True)


def test_a_job_is_finished_by_its_marker_and_its_configuration(tmp_path: Path) -> None:
    job = Job(0, ("seed=1",), tmp_path, {"seed": 1})
    mark_complete(tmp_path, {"seed": 1}, 5, None)
    assert job.finished()
    (tmp_path / "config.yaml").write_text("seed: 1")
    (tmp_path / "complete.json").write_text('{"config_hash": "of another version"}')
    assert job.finished()
    (tmp_path / "config.yaml").write_text("[")
    assert not job.finished()
    (tmp_path / "config.yaml").write_text("seed: 2")
    with pytest.raises(ConfigError, match="another configuration"):
        job.finished()


def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("config.yaml", "complete.json", "result.json"):
        os.mkfifo(tmp_path / name)
    job = Job(0, ("seed=1",), tmp_path, {"seed": 1})
    assert (job.finished(), job.summary()) == (False, {})


def start(folder: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """A sweep of two jobs, each this Python program."""
    monkeypatch.setattr(sweep, "job_command", lambda *_, **__: [sys.executable, "-S", "-c", program])
    jobs = [Job(i, (f"seed={i}",), folder / f"seed={i}", {"seed": i}) for i in range(2)]
    run_sweep(jobs, folder, at_a_time=1, hydra_overrides=[])


def test_two_sweeps_in_one_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_lock(tmp_path, "hydra.sweep.dir"), pytest.raises(ConfigError, match=r"hydra\.sweep\.dir=.* is writing"):
        start(tmp_path, monkeypatch, "")


def test_a_job_that_has_outlived_its_sweep_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder_lock(tmp_path / "seed=0", "run_dir"), pytest.raises(SweepError, match=r"seed=0: .*is writing there"):
        start(tmp_path, monkeypatch, "")
    assert [f.name for f in (tmp_path / "seed=0").iterdir()] == [".lock"]
    assert (tmp_path / "seed=1" / "failed.txt").is_file()  # it ended without a result


def test_the_log_of_a_job_is_not_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "treasure").write_text("gold")
    (tmp_path / "sweep" / "seed=0").mkdir(parents=True)
    (tmp_path / "sweep" / "seed=0" / "job.log").symlink_to(tmp_path / "treasure")
    with pytest.raises(SweepError, match=r"job\.log is a link to"):
        start(tmp_path / "sweep", monkeypatch, "print('written')")
    assert (tmp_path / "treasure").read_text() == "gold"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_jobs_and_is_told_in_a_sentence(
    number: signal.Signals,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)  # opening it waits until the job is there

    def send() -> None:
        ready.read_bytes()
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    with pytest.raises(SystemExit) as exit:
        start(tmp_path / "sweep", monkeypatch, f"import time; open({str(ready)!r}, 'w').close(); time.sleep(600)")
    thread.join()
    assert exit.value.code == status
    said = capsys.readouterr()
    assert said.err == f"stopped by a signal; the same command again goes on in {tmp_path / 'sweep'}\n"
    assert "interrupted: seed=0" in said.out
    assert not list(tmp_path.rglob("failed.txt"))
    assert not (tmp_path / "sweep" / "seed=1").exists()

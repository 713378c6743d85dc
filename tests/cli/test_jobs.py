"""Names of folders, and the command line of a job."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ifpn.cli.command import expand_jobs_flag
from ifpn.cli.jobs import Job
from ifpn.cli.processes import clean_environment, job_command
from ifpn.errors import ConfigError
from ifpn.runs.identity import config_hash, folder_name


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

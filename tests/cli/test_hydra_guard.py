"""Hydra's own nodes, search paths and YAML files come from outside, too: nothing runs, nothing grows without end."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ifpn.cli import command as module
from ifpn.cli.command import command
from ifpn.cli.hydra_guard import check_hydra
from ifpn.config.expansion import check_interpolations
from ifpn.errors import ConfigError
from ifpn.reading import check_yaml

MARK = "touched"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    """Runs a command with arguments in this process, the training itself left out: (exit status, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "checked", lambda cfg, overrides: cfg)

    def call(name: str, *arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
        try:
            command(name)(lambda cfg: None)()
            status = 0
        except SystemExit as exit:
            status = int(exit.code or 0)
        return status, capsys.readouterr().err

    return call


NODES = {
    "callbacks": f"callbacks:\n    evil: {{_target_: os.mkdir, path: {MARK}}}",
    "launcher": f"launcher: {{_target_: os.mkdir, path: {MARK}}}",
    "sweeper": "sweeper: {_target_: os.getpid}",
    "inside the sweeper": f"sweeper:\n    params: {{_target_: os.mkdir, path: {MARK}}}",
    "job_logging": f"job_logging:\n    handlers:\n      console: {{'()': os.mkdir, path: {MARK}}}",
    "hydra_logging": f"hydra_logging:\n    handlers: {{x: {{class: logging.FileHandler, filename: {MARK}}}}}",
    "a stream": "job_logging:\n    handlers:\n      console: {stream: 'ext://os.mkdir'}",
    "environment": "job:\n    env_set: {LD_PRELOAD: /tmp/evil.so}",
    "output_subdir": "output_subdir: ../../elsewhere",
}


FLAGS = ((), ("-m",), ("--cfg", "job"))
# Each node once, the callbacks in each way to start.
CASES = [(node, FLAGS[i % 3]) for i, node in enumerate(NODES)] + [("callbacks", FLAGS[1]), ("callbacks", FLAGS[2])]


@pytest.mark.parametrize(("name", "flags"), CASES)
@pytest.mark.slow
def test_a_configuration_file_cannot_make_hydra_run_anything(
    name: str, flags: Sequence[str], run, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    outside = tmp_path / "outside" / "experiment"
    outside.mkdir(parents=True)
    (outside / "shared.yaml").write_text(f"# @package _global_\nhydra:\n  {NODES[name]}\n")
    status, said = run("train", f"--config-dir={outside.parent}", "experiment=shared", "run_dir=run", *flags)
    assert status == 2
    assert "is not allowed" in said or "must be" in said
    assert not (tmp_path / MARK).exists()


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "report"])
def test_every_command_is_guarded(name: str, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    status, said = run(name, "+hydra.callbacks.evil._target_=os.mkdir", f"+hydra.callbacks.evil.path={MARK}")
    assert status == 2
    assert "is not allowed" in said
    assert not (tmp_path / MARK).exists()


def test_a_search_path_imports_no_package(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "evil.py").write_text(f"import os\nos.mkdir({MARK!r})\n")
    sys.path.insert(0, str(tmp_path))
    try:
        status, said = run("train", "hydra.searchpath=[pkg://evil]", "run_dir=run")
    finally:
        sys.path.remove(str(tmp_path))
    assert status == 2
    assert "must be a folder" in said
    assert not (tmp_path / MARK).exists()


def bomb(levels: int) -> str:
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (bomb(12), "more than 50000 values"),
        ("a: &a [*a]\n", "stands for what it is part of"),
        ("a: " + "[" * 5000 + "]" * 5000, "nested more than 50 deep"),
        ("a: " + "1" * 5000, "a number of 5000 digits"),
        ("a: [1, 2", "cannot be read as a configuration"),
    ],
)
def test_a_yaml_file_that_grows_is_refused(text: str, words: str, run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match=words):
        check_yaml(text, "x.yaml")
    outside = tmp_path / "outside" / "experiment"
    outside.mkdir(parents=True)
    (outside / "shared.yaml").write_text(text)
    status, said = run("train", f"--config-dir={outside.parent}", "experiment=shared", "run_dir=run")
    assert status == 2
    assert words in said


def test_ordinary_aliases_pass() -> None:
    check_yaml("base: &base {a: 1}\nother: *base\n", "x.yaml")


@pytest.mark.parametrize(
    "config",
    [
        {f"a{i}": f"${{a{i - 1}}}${{a{i - 1}}}" if i else "x" * 10 for i in range(40)},
        {f"a{i}": [f"${{a{i - 1}}}"] * 10 if i else [1] * 10 for i in range(12)},
        {"deep": {f"a{i}": f"${{.a{i - 1}}}${{deep.a{i - 1}}}" if i else "x" * 10 for i in range(40)}},
        {"a": "${b}", "b": "${a}"},
    ],
)
def test_interpolations_that_grow_are_refused(config: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"becomes longer|nested more than"):
        check_interpolations(OmegaConf.to_container(OmegaConf.create(config), resolve=False))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        (f"seed={'1' * 5000}", "more than 1000 digits"),
        (f"+x={'[' * 3000}{']' * 3000}", "more than 200 lists"),
        ("--experimental-rerun=job.pickle", "runs what a pickle file says"),
    ],
)
def test_arguments_that_choke_the_grammar_are_told(argument: str, words: str, run) -> None:  # type: ignore[no-untyped-def]
    status, said = run("train", argument)
    assert status == 2
    assert words in said


def test_hydras_notes_are_not_written_through_a_link(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "treasure").write_text("gold")
    (tmp_path / "run" / "hydra").mkdir(parents=True)
    (tmp_path / "run" / "hydra" / "config.yaml").symlink_to(tmp_path / "treasure")
    status, said = run("train", "run_dir=run")
    assert status == 2
    assert "is a link to" in said
    assert (tmp_path / "treasure").read_text() == "gold"


def test_ctrl_c_before_the_training_is_no_traceback(run, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    def interrupt(cfg: object, overrides: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "checked", interrupt)
    status, said = run("train", "run_dir=run")
    assert status == 130
    assert said == "interrupted before there was anything to keep\n"


def test_what_people_set_in_hydras_node_passes() -> None:
    check_hydra(
        {
            "launcher": {"_target_": "hydra_plugins.ifpn_launcher.JobLauncher", "jobs": 2},
            "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "max_batch_size": None},
            "job_logging": {
                "formatters": {"simple": {"format": "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"}},
                "handlers": {
                    "console": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"},
                    "file": {"class": "logging.FileHandler", "filename": "${hydra.runtime.output_dir}/train.log"},
                },
            },
            "job": {"env_set": {"OMP_NUM_THREADS": "4", "CUDA_VISIBLE_DEVICES": "0"}},
            "output_subdir": "hydra",
        }
    )

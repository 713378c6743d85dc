"""The command line as a user meets it: fast help, one-sentence errors, exit status 2."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes import command

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("solver=broydn",),
            "solver=broydn does not exist. Allowed: anderson, broyden, cheap, fast, two_step, unroll. "
            "Did you mean solver=broyden?",
        ),
        (("solver.train_eval=3",), "Did you mean train_evals?"),
        (("solver.train_evals=-1",), "must be a whole number from 1 to 1000"),
        (("neck=fpn", "solver=broyden"), "solves no fixed point"),
        (("data=coco",), "data.root has no value"),
        (("data=coco", "data.root=no/such/folder"), "no/such/folder"),
        (("ckpt=no/such.ckpt",), "no such file"),
        (("callbacks.best._target_=os.system",), "is not allowed"),
    ],
)
def test_an_error_is_one_sentence_and_leaves_nothing_behind(arguments: tuple[str, ...], words: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    done = command("train.py", *arguments, f"run_dir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("run/*.ckpt"))


def test_a_refused_command_leaves_no_folder_of_its_own(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for script, arguments in (
        ("train.py", ["neck=fpn", "solver=fast"]),
        ("evaluate.py", []),
        ("train.py", ["neck=fpn", "solver=fast", f"run_dir={mine}"]),
    ):
        done = command(script, *arguments, cwd=tmp_path)
        assert done.returncode == 2
    assert not list(tmp_path.glob("runs/*"))
    assert list(mine.iterdir()) == []  # a folder that the user named may be the user's


def test_evaluate_and_predict_say_what_they_need() -> None:
    assert "exactly one of ckpt" in command("evaluate.py").stderr
    assert "ckpt has no value" in command("predict.py").stderr


def test_a_refused_command_never_removes_the_current_folder(tmp_path: Path) -> None:
    done = command("ifpn/__main__.py", "export", "ckpt=none.ckpt", cwd=tmp_path)
    assert done.returncode == 2
    assert "none.ckpt" in done.stderr
    assert tmp_path.is_dir()
    assert list(tmp_path.iterdir()) == []

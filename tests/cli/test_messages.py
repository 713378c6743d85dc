"""Errors of Hydra and OmegaConf come back as a sentence that names what is there instead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ifpn.cli.messages import FOREIGN, format_error
from ifpn.config.migration import MOVED
from ifpn.config.paths import CONF
from tests.config.composing import composed


def message(typed: str, config_name: str = "train") -> str:
    with (
        initialize_config_dir(str(CONF), version_base="1.3"),
        pytest.raises((HydraException, OmegaConfBaseException)) as caught,
    ):
        compose(config_name, overrides=[typed])
    return format_error(caught.value, [typed])


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, new in MOVED.items() if "criterion" not in new])
def test_an_old_key_is_answered_with_the_new_one(old: str, new: str) -> None:
    assert message(f"{old}=3").startswith(f"{old} is now {new}")


def test_an_old_key_of_evaluate_is_answered_with_evaluates_own() -> None:
    assert message("schedule.batch_size=3", "evaluate") == (
        "schedule.batch_size is now data.batch_size (evaluate.py: batch_size)."
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FOREIGN if "." not in name])
def test_the_words_of_other_programs_are_answered_with_ours(name: str) -> None:
    said = message(f"{name}=7")
    assert said.startswith(f"{name}=7: there is no such setting here. Use ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "setting"),
    [
        ("epochs=20", "schedule.max_epochs=20"),
        ("imgsz=640", "image.min_size=[640]"),
        ("lr=0.1", "schedule.optimizer.lr=0.1"),
        ("batch=4", "data.batch_size=4"),
        ("batch_size=4", "data.batch_size=4"),
    ],
)
def test_what_is_answered_can_be_typed(typed: str, setting: str) -> None:
    assert setting in message(typed)
    composed(setting)


@pytest.mark.parametrize(
    ("command", "typed", "answer"),
    [
        ("predict", "imgsz=640", "Use size=640."),
        ("predict", "weights=x.pt", "Use ckpt=x.pt."),
        ("predict", "conf=0.5", "Use score_threshold=0.5."),
        ("predict", "output_dir=out", "Use run_dir=out."),
        ("evaluate", "batch=4", "Use batch_size=4."),
        ("evaluate", "tta=true", "Use flip=true and size=[…]."),
        ("evaluate", "solver.test_evals=15", "Use test_evals=15."),
        ("export", "imgsz=640", "Use size=640."),
        ("export", "output_dir=out", "Use out=out."),
    ],
)
def test_each_command_answers_with_settings_of_its_own(command: str, typed: str, answer: str) -> None:
    assert message(typed, command).endswith(answer)


@pytest.mark.parametrize(
    ("command", "typed"), [("predict", "batch_size=4"), ("evaluate", "workers=0"), ("export", "device=cpu")]
)
def test_where_a_command_has_nothing_of_the_kind_it_says_what_it_has(command: str, typed: str) -> None:
    assert f"{typed.partition('=')[0]} does not exist. The configuration has: " in message(typed, command)


def test_a_misspelt_key_is_answered_with_the_closest() -> None:
    assert "Did you mean train_evals?" in message("solver.train_eval=3")
    assert message("detectr=atss").endswith("Did you mean detector?")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        (
            "photos",
            "photos: must be a setting, KEY=VALUE.*: source=photos .predict., data=coco data.root=photos",
        ),
        ("best.ckpt", r"A path needs its setting: ckpt=best\.ckpt\.$"),
        ("baseline", "^baseline: must be a setting, KEY=VALUE without spaces around the sign.$"),
        ("a.b", "must be a setting"),
        ("score_threshold=[1,", r"score_threshold=\[1,: cannot be read \(.*Quote"),
    ],
)
def test_a_word_that_is_no_setting(word: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ifpn predict photos` is what other programs take."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "best.ckpt").touch()
    assert re.search(words, message(word, "predict"))


def test_a_setting_that_must_be_given_is_named() -> None:
    """Also where only another setting, here the folder of the report, asks for it."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("report")
    with pytest.raises(OmegaConfBaseException) as caught:
        OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert format_error(caught.value) == "runs has no value: give it on the command line, runs=…."

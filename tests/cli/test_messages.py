"""Errors of Hydra and OmegaConf come back as a sentence that names what is there instead."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
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
@pytest.mark.parametrize("name", FOREIGN)
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


def test_a_misspelt_key_is_answered_with_the_closest() -> None:
    assert "Did you mean train_evals?" in message("solver.train_eval=3")
    assert message("detectr=atss").endswith("Did you mean detector?")

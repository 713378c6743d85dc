"""What a user can get wrong is refused before anything is built, with the value and what is allowed."""

from __future__ import annotations

import pytest

from ifpn.config.checks import check_config
from ifpn.errors import ConfigError
from tests.config.composing import with_choices


def refusal(*overrides: str) -> str:
    cfg, choices = with_choices(*overrides)
    with pytest.raises(ConfigError) as caught:
        check_config(cfg, overrides, choices)
    return str(caught.value)


def test_the_default_configuration_is_accepted() -> None:
    cfg, choices = with_choices()
    check_config(cfg, [], choices)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("solver.train_evals=-1", "solver.train_evals=-1: must be a whole number from 1 to 1000."),
        ("solver.train_evals=abc", "solver.train_evals=abc: must be a whole number"),
        ("solver.train_evals=1.5", "a whole number"),
        ("solver.train_evals=true", "solver.train_evals=true: must be a whole number"),
        ("data.batch_size=0", "data.batch_size=0: must be a whole number"),
        ("image.min_size=800", "a list ([a, b])"),
        ("schedule.scaling=cubic", "must be linear or none"),
        ("schedule.optimizer.lr=0", "a number above 0"),
        ("schedule.optimizer.lr=.nan", "a number above 0"),
        ("neck.dropout=1.5", "must be a number from 0 to below 1"),
        ("neck.residual_block=1", "true or false"),
        ("seed=-3", "seed=-3: must be a whole number from 0"),
        ("schedule.max_steps=10", "Give one of the two"),
        ("schedule.max_epochs=null", "Give one of the two"),
        ("image.max_size=64", "must be at most image.max_size=64"),
        ("data=coco", "data.root has no value: give it on the command line"),
    ],
)
@pytest.mark.slow
def test_a_wrong_value_is_named_with_what_is_allowed(override: str, words: str) -> None:
    assert words in refusal(override)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("neck=fpn", "solver=broyden"), "solver=broyden has no meaning with neck=fpn"),
        (("neck=fpn", "solver.train_evals=5"), "solver.train_evals=5 has no meaning with neck=fpn"),
        (("neck=none", "csc=dense"), "csc=dense has no meaning with neck=none"),
        (("neck=mdeq", "csc=dense"), "csc=dense has no meaning with neck=mdeq"),
        (("neck=stack", "csc=none"), "a stack of nothing"),
        (("neck=stack", "neck.dropout=0.1"), "neck.dropout=0.1 has no meaning with neck=stack and neck.inject=false"),
        (("neck=fpn", "neck.weight_norm=false"), "no meaning with neck=fpn and neck.residual_block=false"),
    ],
)
def test_a_choice_without_meaning_is_refused(overrides: tuple[str, ...], words: str) -> None:
    assert words in refusal(*overrides)


@pytest.mark.parametrize("schedule", ["1x", "2x"])
def test_a_schedule_that_used_to_set_images_too_asks_for_a_recipe(schedule: str) -> None:
    assert "Use recipe=paper" in refusal(f"schedule={schedule}")
    cfg, choices = with_choices(f"schedule={schedule}", "recipe=small")
    check_config(cfg, [f"schedule={schedule}", "recipe=small"], choices)


def test_milestones_must_increase() -> None:
    assert "must increase" in refusal("recipe=paper", "schedule.curve.milestones=[80000,60000]")

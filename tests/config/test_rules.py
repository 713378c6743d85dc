"""What a user can get wrong is refused before anything is built, with the value and what is allowed."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from ifpn.config.paths import CONF
from ifpn.config.rules import RULES, check_rules
from ifpn.errors import ConfigError


def composed(*overrides: str) -> tuple[DictConfig, dict[str, str | None]]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides), return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    plain = cfg.copy()
    with __import__("omegaconf").open_dict(plain):
        del plain["hydra"]
    return plain, choices


def refusal(*overrides: str) -> str:
    cfg, choices = composed(*overrides)
    with pytest.raises(ConfigError) as caught:
        check_rules(cfg, overrides, choices)
    return str(caught.value)


def test_the_default_configuration_is_accepted() -> None:
    cfg, choices = composed()
    check_rules(cfg, [], choices)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("solver.train_evals=-1", "solver.train_evals=-1 is not allowed: it must be a whole number from 1 to 1000."),
        ("solver.train_evals=abc", "solver.train_evals=abc is not allowed"),
        ("solver.train_evals=1.5", "a whole number"),
        ("solver.train_evals=true", "solver.train_evals=true is not allowed"),
        ("data.batch_size=0", "data.batch_size=0 is not allowed"),
        ("image.min_size=800", "a list ([a, b])"),
        ("schedule.scaling=cubic", "one of linear, none"),
        ("schedule.optimizer.lr=0", "a number above 0"),
        ("schedule.optimizer.lr=.nan", "a number above 0"),
        ("neck.dropout=1.5", "at most 0.9"),
        ("neck.residual_block=1", "true or false"),
        ("seed=-3", "seed=-3 is not allowed"),
        ("schedule.max_steps=10", "exactly one of the two"),
        ("schedule.max_epochs=null", "exactly one of the two"),
        ("image.max_size=64", "exceeds image.max_size=64"),
        ("data=coco", "data.root has no value: give it on the command line"),
    ],
)
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
    cfg, choices = composed(f"schedule={schedule}", "recipe=small")
    check_rules(cfg, [f"schedule={schedule}", "recipe=small"], choices)


def test_milestones_must_increase() -> None:
    assert "must increase" in refusal("recipe=paper", "schedule.curve.milestones=[80000,60000]")


def test_every_rule_speaks_of_a_setting_that_exists() -> None:
    """A rule for a key that no option has would never be applied."""
    choices = [
        ("solver=broyden",),
        ("solver=anderson",),
        ("solver=fast",),
        ("solver=unroll",),
        ("neck=stack",),
        ("neck=fpn",),
        ("csc=bifpn",),
        ("recipe=paper",),
        ("detector=atss",),
        ("detector=autoassign",),
        ("detector=fcos",),
        ("detector=retina",),
        ("detector=faster_rcnn",),
    ]
    configs = [composed(*overrides)[0] for overrides in choices]
    from omegaconf import OmegaConf

    with initialize_config_dir(str(CONF), version_base="1.3"):
        configs.append(compose("predict", overrides=["ckpt=x", "source=y"]))
        configs.append(compose("evaluate", overrides=["ckpt=x"]))
    absent = object()
    unused = [path for path in RULES if all(OmegaConf.select(c, path, default=absent) is absent for c in configs)]
    # These belong to objects a user may put into the solver group on the command line.
    optional = {"solver.backward.steps", "solver.backward.tau", "solver.forward.tau"}
    optional |= {"solver.backward.solver.m", "solver.backward.solver.beta"}
    assert set(unused) <= optional

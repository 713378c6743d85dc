"""Every choice of every group composes; choices that have a meaning together train."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ifpn.config.allowlist import check_targets
from ifpn.config.build import build_detector
from ifpn.config.checks import check_config
from ifpn.config.paths import CONF
from ifpn.errors import ConfigError
from ifpn.training import Recipe
from tests.config.composing import with_choices

GROUPS = ("backbone", "neck", "csc", "solver", "detector", "schedule", "data", "trainer", "logger", "recipe")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


Choice = dict[str, str]
# Necks that solve for a fixed point, and necks that are made of cross-scale blocks.
SOLVING_NECKS = ("implicit", "mdeq")
BLOCK_NECKS = ("implicit", "stack")


def meaningful(choice: Choice) -> bool:
    """Whether no part of the choice is without effect; where a group has no effect only one option counts."""
    neck, csc, solver = choice["neck"], choice["csc"], choice["solver"]
    if neck not in SOLVING_NECKS and solver != "fast":
        return False
    if neck not in BLOCK_NECKS and csc != "pyramid":
        return False
    # NAS-FPN's cell is made of five levels, the state of Faster R-CNN of four.
    if neck in BLOCK_NECKS and csc in ("nasfpn", "bifpn") and choice["detector"] == "faster_rcnn":
        return False
    return not (neck == "stack" and csc == "none")


def covering(groups: dict[str, list[str]]) -> list[Choice]:
    """Few choices in which every pair of options that can occur together does (greedy)."""
    names = list(groups)
    rows = [dict(zip(names, values, strict=True)) for values in product(*groups.values())]
    rows = [row for row in rows if meaningful(row)]

    def pairs(row: Choice) -> set[tuple[str, str, str, str]]:
        return {(a, row[a], b, row[b]) for a, b in combinations(names, 2)}

    missing = set().union(*map(pairs, rows))
    chosen = []
    while missing:
        best = max(rows, key=lambda row: len(pairs(row) & missing))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def composed(overrides: list[str]) -> DictConfig:
    resolved, choices = with_choices(*overrides)
    check_config(resolved, overrides, choices)
    return resolved


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_and_names_allowed_classes(group: str) -> None:
    for option in options(group):
        overrides = [f"{group}={option}", *(["recipe=small"] if group == "schedule" else [])]
        needed = {"coco": ["data.root=somewhere"], "timm": ["backbone.name=convnext_tiny"]}
        overrides += needed.get(option, [])
        # A solver or block means nothing to a neck without one; that is refused elsewhere.
        check_targets(composed(overrides))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["data", "schedule"])
@pytest.mark.parametrize("recipe", options("recipe"))
def test_data_and_schedule_touch_nothing_but_themselves(group: str, recipe: str) -> None:
    """So that a comparison over `schedule=` or `data=` compares just that: what crosses groups is a recipe."""
    made = []
    for option in options(group):
        cfg = composed([f"recipe={recipe}", f"{group}={option}", *(["data.root=x"] if option == "coco" else [])])
        config = OmegaConf.to_container(cfg)
        assert isinstance(config, dict)
        assert config.pop(group)["_target_"]
        made.append(config)
    assert len(made) > 1
    assert all(config == made[0] for config in made)


# A recipe's optimiser, shorter sides, longer side, images per device, width, stabilise
RECIPES = {
    "quick": ("AdamW", [192], 336, 4, 64, True),
    "small": ("AdamW", [256], 448, 8, 128, True),
    "paper": ("SGD", [800], 1333, 2, 256, False),
    "paper_2x": ("SGD", [640, 672, 704, 736, 768, 800], 1333, 2, 256, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", options("recipe"))
def test_a_recipe_sets_schedule_image_batch_width_and_norms_and_nothing_else(recipe: str) -> None:
    cfg = composed([f"recipe={recipe}"])
    optimizer = cfg.schedule.optimizer._target_.rpartition(".")[2]
    found = (optimizer, cfg.image.min_size, cfg.image.max_size, cfg.data.batch_size, cfg.neck.out_channels)
    assert (*found, cfg.neck.add_input) == RECIPES[recipe]
    assert cfg.schedule.max_steps == {"paper": 90_000, "paper_2x": 180_000}.get(recipe)
    other = composed(["recipe=small"])
    for key in set(cfg) - {"image", "schedule", "stabilise", "data", "neck"}:
        assert cfg[key] == other[key], key
    assert {k for k in cfg.data if cfg.data[k] != other.data[k]} <= {"batch_size"}
    norms = {"output_norm", "input_norm", "add_input"}
    assert {k for k in cfg.neck if cfg.neck[k] != other.neck[k]} <= {"out_channels", *norms}


def test_the_default_recipe_is_the_one_for_peoples_own_photographs() -> None:
    assert composed([]) == composed(["recipe=small"])


STEPS = covering(
    {
        "backbone": ["efficientnet_lite0", "resnet18"],
        "neck": options("neck"),
        "csc": options("csc"),
        "solver": options("solver"),
        "detector": options("detector"),
    }
)


@pytest.mark.slow
@pytest.mark.parametrize("choice", STEPS, ids=lambda c: "-".join(c.values()))
def test_a_choice_takes_a_training_step(choice: Choice) -> None:
    """Loss and every gradient finite, every trained parameter of the detector touched."""
    overrides = [f"{group}={option}" for group, option in choice.items()]
    if choice["neck"] not in SOLVING_NECKS:
        overrides = [o for o in overrides if not o.startswith("solver=")]
    if choice["neck"] not in BLOCK_NECKS:
        overrides = [o for o in overrides if not o.startswith("csc=")]
    cfg = composed(
        [*overrides, "backbone.weights=none", "neck.out_channels=16", "image.min_size=[64]", "image.max_size=96"]
    )
    detector = build_detector(cfg, num_classes=3).train()
    recipe: Recipe = instantiate(cfg.schedule)
    optimizer, _ = recipe.build(detector, recipe.plan(2, 1, 1, 10))
    targets = [
        {"boxes": torch.tensor([[4.0, 4.0, 40.0, 44.0], [20.0, 8.0, 60.0, 60.0]]), "labels": torch.tensor([0, 2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    loss = torch.stack(list(detector([torch.rand(3, 64, 70), torch.rand(3, 60, 64)], targets).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in detector.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, f"{name} got no gradient"
            assert torch.isfinite(parameter.grad).all(), name
    optimizer.step()


@pytest.mark.parametrize("overrides", [["neck=fpn", "solver=broyden"], ["neck=none", "csc=dense"]])
def test_choices_without_meaning_are_refused_before_anything_is_built(overrides: list[str]) -> None:
    with pytest.raises(ConfigError, match="has no meaning"):
        composed(overrides)

"""Every choice of every group composes; choices that have a meaning together train."""

from __future__ import annotations

from itertools import combinations, product

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from ifpn.config.allowlist import check_targets
from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.config.rules import BLOCK_NECKS, SOLVING_NECKS, check_rules
from ifpn.errors import ConfigError
from ifpn.training import Recipe

GROUPS = ("backbone", "neck", "csc", "solver", "detector", "schedule", "data", "trainer", "logger")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


Choice = dict[str, str]


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
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=overrides, return_hydra_config=True)
    choices = dict(cfg.hydra.runtime.choices)
    # Some settings are named after the job, which only Hydra's own configuration knows.
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    cfg.run_dir = "unused"
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(resolved, DictConfig)
    check_rules(resolved, overrides, choices)
    return resolved


@pytest.mark.parametrize("group", GROUPS)
def test_every_option_composes_and_names_allowed_classes(group: str) -> None:
    for option in options(group):
        overrides = [f"{group}={option}"]
        needed = {"coco": ["data.root=somewhere"], "timm": ["backbone.name=convnext_tiny"]}
        overrides += needed.get(option, [])
        # A solver or block means nothing to a neck without one; that is refused elsewhere.
        check_targets(composed(overrides))


STEPS = covering(
    {
        "backbone": ["efficientnet_lite0", "resnet18"],
        "neck": options("neck"),
        "csc": options("csc"),
        "solver": options("solver"),
        "detector": options("detector"),
    }
)


@pytest.mark.parametrize("choice", STEPS, ids=lambda c: "-".join(c.values()))
def test_a_choice_takes_a_training_step(choice: Choice) -> None:
    """Loss and every gradient finite, every trained parameter of the detector touched."""
    overrides = [f"{group}={option}" for group, option in choice.items()]
    if choice["neck"] not in SOLVING_NECKS:
        overrides = [o for o in overrides if not o.startswith("solver=")]
    if choice["neck"] not in BLOCK_NECKS:
        overrides = [o for o in overrides if not o.startswith("csc=")]
    cfg = composed(
        [*overrides, "backbone.weights=none", "neck.channels=16", "schedule.min_size=[64]", "schedule.max_size=96"]
    )
    detector = build_detector(cfg, num_classes=3).train()
    recipe: Recipe = instantiate(cfg.schedule)
    optimizer, _ = recipe.build(detector, recipe.plan(1, 1, 10))
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

"""The paper's schedule at every step, and the rule for other batch sizes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ifpn.config.paths import CONF
from ifpn.training import Cosine, MultiStep, Recipe
from ifpn.training.recipe import backbone_parameters, split_parameters


def recipe(*overrides: str) -> Recipe:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=list(overrides))
    built = instantiate(cfg.schedule)
    assert isinstance(built, Recipe)
    return built


def test_the_1x_learning_rate_equals_the_reference_trace(golden: Path) -> None:
    """Reference: cvpods' WarmupMultiStepLR. Both compute in float64; 1e-12 allows for another order of operations."""
    plan = recipe("schedule=1x").plan(2, world_size=8, accumulate=1, batches_per_epoch=7329)
    assert (plan.batch, plan.max_steps, plan.lr) == (16, 90_000, 0.01)
    for step, lr in json.loads((golden / "lr_schedule.json").read_text())["lr_1x"].items():
        assert plan.lr * plan.curve.factor(int(step), plan.max_steps) == pytest.approx(lr, rel=1e-12)
    # And every step between: Sec. 4.2 in three lines.
    for step in range(plan.max_steps):
        warm_up = min(1.0, 0.001 + 0.999 * step / 1000)
        lr = 0.01 * warm_up * (1.0 if step < 60_000 else 0.1 if step < 80_000 else 0.01)
        assert abs(plan.lr * plan.curve.factor(step, plan.max_steps) - lr) <= 1e-12 * lr, step


def test_the_optimizer_follows_the_curve_step_by_step() -> None:
    short = Recipe(
        optimizer=partial(torch.optim.SGD, lr=0.01),
        norm_weight_decay=0.0,
        curve=MultiStep([6, 8], 0.1, warmup_steps=4, warmup_factor=0.001),
        max_steps=10,
        max_epochs=None,
        base_batch_size=2,
        scaling="linear",
        gradient_clip=None,
        val_every=None,
        backbone_lr=1.0,
    )
    plan = short.plan(2, 1, 1, 5)
    optimizer, schedule = short.build(nn.Linear(2, 2), plan)
    seen = []
    for _ in range(10):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    expected = [0.01 * w for w in (0.001, 0.25075, 0.5005, 0.75025, 1, 1, 0.1, 0.1, 0.01, 0.01)]
    assert seen == pytest.approx(expected, rel=1e-12)


def test_2x_is_twice_as_long_with_its_own_milestones_and_scales() -> None:
    built = recipe("schedule=2x")
    plan = built.plan(2, 8, 1, 7329)
    assert plan.max_steps == 180_000
    factors = [plan.curve.factor(s, plan.max_steps) for s in (119_999, 120_000, 159_999, 160_000)]
    assert factors == pytest.approx([1, 0.1, 0.1, 0.01], rel=1e-12)


def test_the_linear_rule_keeps_the_number_of_images_seen_and_says_so() -> None:
    plan = recipe("schedule=1x").plan(2, world_size=1, accumulate=2, batches_per_epoch=58_633)
    assert plan.batch == 4
    assert plan.lr == pytest.approx(0.0025)
    assert plan.max_steps * plan.batch == 90_000 * 16
    assert plan.curve.factor(239_999, plan.max_steps) == pytest.approx(1)
    assert plan.curve.factor(240_000, plan.max_steps) == pytest.approx(0.1)
    assert "lr 0.01 -> 0.0025" in plan.summary
    assert "schedule.scaling=none" in plan.summary
    kept = recipe("schedule=1x", "schedule.scaling=none").plan(2, 1, 2, 58_633)
    assert (kept.lr, kept.max_steps) == (0.01, 90_000)


@given(steps=st.integers(1, 5000), warmup=st.integers(0, 500))
def test_cosine_stays_between_its_ends_and_falls_after_the_warm_up(steps: int, warmup: int) -> None:
    curve = Cosine(warmup_steps=warmup, warmup_factor=0.01, final_factor=0.01)
    factors = [curve.factor(s, steps) for s in range(steps + 1)]
    # 1e-12: rounding of the cosine at its ends.
    assert all(0.01 - 1e-12 <= f <= 1 + 1e-12 for f in factors)
    peak = factors.index(max(factors))
    assert all(a >= b - 1e-12 for a, b in zip(factors[peak:], factors[peak + 1 :], strict=False))
    assert factors[-1] == pytest.approx(0.01)


def test_norm_layers_are_not_decayed_and_every_parameter_is_in_one_group() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    model[2].weight.requires_grad_(False)
    decayed, norms = split_parameters(model)
    assert {id(p) for p in decayed} == {id(model[0].weight), id(model[0].bias), id(model[2].bias)}
    assert {id(p) for p in norms} == {id(p) for m in (model[1], model[3]) for p in m.parameters()}
    built = recipe("schedule=1x")
    optimizer, _ = built.build(model, built.plan(2, 8, 1, 10))
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.0001, 0.0]


class Pretrained(nn.Sequential):
    """What marks a backbone, by `ifpn.backbones`' contract."""

    levels: ClassVar = {"c3": (8, 8)}
    image_mean = (0.5, 0.5, 0.5)


def test_the_backbone_alone_learns_at_its_own_rate_all_along_the_curve() -> None:
    backbone = Pretrained(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model = nn.Sequential(nn.Sequential(backbone, nn.Conv2d(8, 8, 1)), nn.GroupNorm(2, 8))
    assert backbone_parameters(model) == set(backbone.parameters())
    built = recipe("schedule=quick", "schedule.backbone_lr=0.25")
    plan = built.plan(8, 1, 1, 30)
    assert "(the backbone's times 0.25)" in plan.summary
    optimizer, schedule = built.build(model, plan)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))
    for step in range(100):
        for group in optimizer.param_groups:
            inside = {p in set(backbone.parameters()) for p in group["params"]}
            assert len(inside) == 1, "a group is the backbone's or not"
            factor = 0.25 if inside == {True} else 1.0
            assert group["lr"] == pytest.approx(plan.lr * factor * plan.curve.factor(step, plan.max_steps), rel=1e-12)
        optimizer.step()
        schedule.step()
    decays = {(g["weight_decay"], len(g["params"])) for g in optimizer.param_groups}
    assert decays == {(0.0001, 2), (0.0, 2)}  # convolutions and norms, of backbone and head alike


def test_a_rate_of_one_leaves_the_groups_of_the_papers_schedules_as_they_were() -> None:
    model = nn.Sequential(Pretrained(nn.Conv2d(3, 8, 3)), nn.GroupNorm(2, 8))
    for name, rate in (("1x", 1.0), ("2x", 1.0)):
        built = recipe(f"schedule={name}")
        assert built.backbone_lr == rate
        plan = built.plan(8, 1, 1, 30)
        assert "backbone" not in plan.summary
        assert len(built.build(model, plan)[0].param_groups) == 2

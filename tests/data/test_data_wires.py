"""Wires with decoys: nothing but the wire tells a lamp's class."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from ifpn.data import Shapes, Wires
from ifpn.data.wires import BULB, CLEAR, COLOURS, LAMP, Decoy, Lamp, _curve, _scene, draw_wires
from ifpn.errors import UserError

# of the lamps of the first ten scenes of seed 0: they must be the same on every machine
LAMPS_SHA256 = "cd70def5988765f96af68d75c647ab651f1f708abf8fb60c7ce4f5c4a75a56a6"


def scenes(count: int, distance: float = 60) -> list[tuple[list[Lamp], list[Decoy]]]:
    from random import Random

    found = []
    for number in range(count):
        rng = Random(number)
        tries = (_scene(rng, 160, distance) for _ in range(20))
        found.append(next(scene for scene in tries if scene is not None))
    return found


def test_lamps_are_pinned() -> None:
    lamps = [draw_wires(0, i, size=160, shortest=14, longest=128)[1] for i in range(10)]
    text = re.sub(r"(\.\d{6})\d*", r"\1", repr(lamps))  # the last digits of sines are the machine's
    assert hashlib.sha256(text.encode()).hexdigest() == LAMPS_SHA256


@pytest.mark.parametrize("distance", [28, 64, 128])  # from NEAR on
def test_both_colours_lie_nearer_than_the_own_bulb_and_as_often(distance: float) -> None:
    """Neither a count of colours nor the nearest bulb says anything."""
    found = scenes(60, distance)
    nearest_is_own_colour, classes = [], []
    for lamps, decoys in found:
        assert sorted(lamp.colour for lamp in lamps) == [0, 1]
        for lamp, near in zip(lamps, (decoys[:2], decoys[2:]), strict=True):
            assert math.dist(lamp.at, lamp.bulb) == pytest.approx(distance)
            assert sorted(decoy.colour for decoy in near) == [0, 1]
            assert all(math.dist(decoy.at, lamp.at) < distance for decoy in near)
            assert all(math.dist(lamp.at, other.bulb) >= distance for other in lamps if other is not lamp)
            closest = min(decoys, key=lambda decoy: math.dist(decoy.at, lamp.at))
            nearest_is_own_colour.append(closest.colour == lamp.colour)
        classes.append(lamps[0].colour)
    # 120 draws of a fair coin: 4 standard deviations are 0.18
    assert abs(np.mean(nearest_is_own_colour) - 0.5) < 0.18
    assert 0.24 < np.mean(classes) < 0.76


def test_short_wires_are_frequent_in_training() -> None:
    lengths = [draw_wires(0, i, size=160, shortest=14, longest=64, lean=2)[1][0].distance for i in range(60)]
    assert np.quantile(lengths, 0.5) == pytest.approx(14 + 50 / 4, abs=5)  # the error is 2.5


def test_nothing_touches_what_it_does_not_belong_to() -> None:
    for lamps, decoys in scenes(30, 90):
        things = [
            *([(x.at, LAMP / 2), (x.bulb, BULB / 2), *((p, 1) for p in _curve(x.at, x.bend, x.bulb))] for x in lamps),
            *([(d.at, BULB / 2), (d.end, 1)] for d in decoys),
        ]
        for i, one in enumerate(things):
            for p, radius in one:
                assert all(radius <= v <= 160 - radius for v in p)
                for other in things[:i]:
                    assert all(math.dist(p, q) >= radius + r + CLEAR for q, r in other)


def test_the_picture_shows_the_scene() -> None:
    picture, lamps = draw_wires(0, 3, size=160, shortest=40, longest=40)
    pixels = np.asarray(picture, dtype=int)
    for lamp in lamps:
        x, y = (round(v - 0.5) for v in lamp.bulb)
        assert np.abs(pixels[y, x] - COLOURS[lamp.colour]).max() < 25  # grain of 4, and a pixel's share of the edge
        x, y = (round(v - 0.5) for v in lamp.at)
        assert pixels[y, x].min() > 190


def test_a_folder_in_cocos_format_with_longer_wires_in_validation(tmp_path: Path) -> None:
    root = Wires(num_train=6, num_val=6, longest=40, val_longest=110)(tmp_path / "wires")
    distances = {}
    for split in ("train", "val"):
        content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
        assert [c["name"] for c in content["categories"]] == ["lamp_red", "lamp_blue"]
        assert len(content["annotations"]) == 12
        assert all(a["bbox"][2:] == [LAMP, LAMP] for a in content["annotations"])
        distances[split] = [a["distance"] for a in content["annotations"]]
    assert max(distances["train"]) <= 40 < max(distances["val"]) <= 110
    assert json.loads((root / "wires.json").read_text())["longest"] == 40
    with pytest.raises(ValueError, match=r"built-in data \(shapes\.json\)"):
        Shapes(1, 1, 0)(root)


@pytest.mark.slow
def test_impossible_distances_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must increase, from 14 px on"):
        Wires(shortest=10)
    with pytest.raises(UserError, match="find no room"):
        Wires(num_train=1, num_val=1, size=64)(tmp_path / "wires")
    assert not (tmp_path / "wires").exists()

"""Does reach decide? Accuracy of the lamps of `data=wires` against the length of their wires."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ifpn.data import DetectionData
from ifpn.data.wires import BULB, LAMP
from ifpn.errors import ConfigError
from ifpn.necks import StackedFPN
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.plots.style import FAINT, LINES, figure
from ifpn.predictor import Predictor
from ifpn.solvers import Equilibrium, Unroll
from reproduce.inspect_checkpoint import body_of, describe_solver
from reproduce.starts import Applications, backbone_once, solved_with

CELLS = 3  # of reach of one application: two convolutions of the residual block, one of the connection


@dataclass(frozen=True)
class WireAccuracy:
    """How often one network is right.

    Attributes:
        name: of the network, in words.
        reach: pixels that it can see by its convolutions, None for an equilibrium.
        distances: of each lamp, in pixels.
        right: by number of applications ("own": as the checkpoint says), for each lamp.
    """

    name: str
    reach: float | None
    distances: list[float]
    right: dict[str, list[bool]]

    def share(self, low: float, high: float, how: str = "own") -> tuple[float, float, int]:
        """(share of lamps with a wire of low to high px that are right, its standard error, lamps)."""
        kept = [r for r, d in zip(self.right[how], self.distances, strict=True) if low <= d < high]
        if not kept:
            return math.nan, math.nan, 0
        mean, count = sum(kept) / len(kept), len(kept)
        # All right or all wrong is not certainty: a variance of at least that of half a lamp.
        return mean, math.sqrt(max(mean * (1 - mean), 0.5 / count * (1 - 0.5 / count)) / count), count


@torch.no_grad()
def wire_accuracy(predictor: Predictor, data: DetectionData, applications: Sequence[int]) -> WireAccuracy:
    """Class of the best-scored box on each lamp (IoU 0.5), right or not; a lamp without a box is wrong.

    Args:
        predictor: of a checkpoint trained on `data=wires`.
        data: set up for validation.
        applications: increasing; for implicit necks, plain applications of G from zero.

    Raises:
        ConfigError: annotations without `distance`.
    """
    by_image = _distances(data.val_annotation_file)
    neck = body_of(predictor).neck
    distances: list[float] = []
    right: dict[str, list[bool]] = {"own": []}
    for i in range(len(data.val_dataset)):
        image, target = data.val_dataset[i]
        inputs = [image.to(predictor.device).float() / 255]
        with backbone_once(predictor):
            right["own"] += _judged(predictor.detector(inputs)[0], target)
            if isinstance(neck, EquilibriumNeck):
                policy = Applications(lambda f, z0: z0)
                with solved_with(neck, policy):
                    for n in applications:
                        policy.until = n
                        right.setdefault(str(n), []).extend(_judged(predictor.detector(inputs)[0], target))
        distances += by_image[int(target["image_id"])]
    return WireAccuracy(describe_solver(predictor), _reach(predictor), distances, right)


PREDICTION = (
    "prediction: K explicit or unrolled blocks fall to chance, 0.5, beyond their reach; the fixed point is right up to "
    "the longest wire of training, and beyond it the better the more applications it is given.",
    "falsified: two explicit blocks equal the fixed point at every length, or its accuracy beyond training does not "
    "rise with applications.",
)


def verdict(networks: Sequence[WireAccuracy], longest: float) -> list[str]:
    """What came out, a sentence for each network. longest: wire of training, in pixels."""
    lines = []
    for one in networks:
        if one.reach is not None:
            mean, error, count = one.share(one.reach, math.inf)
            if count == 0:
                lines.append(f"{one.name}: no wire is longer than its reach of {one.reach:.0f} px")
                continue
            above = "above chance, against the prediction" if mean - 2 * error > 0.5 else "at chance"
            lines.append(f"{one.name}: {mean:.2f} +- {error:.2f} beyond its reach of {one.reach:.0f} px, {above}")
        else:
            mean, error, _ = one.share(0, longest)
            beyond = {how: one.share(longest, math.inf, how) for how in one.right if how != "own"}
            line = f"{one.name}: {mean:.2f} +- {error:.2f} up to {longest:.0f} px"
            if len(beyond) > 1:
                (few, e1, _), *_, (many, e2, _) = beyond.values()
                rises = "rises" if many - few > 2 * math.hypot(e1, e2) else "does not rise, against the prediction"
                shown = ", ".join(f"{share:.2f} with {how}" for how, (share, _, _) in beyond.items())
                line += f"; beyond, {shown} applications: {rises}"
            lines.append(line)
    return lines


def told_apart(networks: Sequence[WireAccuracy], runs: Sequence[str]) -> list[WireAccuracy]:
    """The same, with the name of the run behind a name that several have."""
    common = {name for name, count in Counter(one.name for one in networks).items() if count > 1}
    pairs = zip(networks, runs, strict=True)
    return [replace(one, name=f"{one.name} ({run})") if one.name in common else one for one, run in pairs]


def intervals(networks: Sequence[WireAccuracy], longest: float) -> list[float]:
    """Edges of intervals of lengths, in pixels: quarters of the longest wire of training, and as wide ones beyond.

    The first one is joined to the second if it would be narrower than 4 px.
    """
    low, top = min(min(one.distances) for one in networks), max(max(one.distances) for one in networks)
    quarters = (k * longest / 4 for k in range(1, math.ceil(4 * top / longest)))
    return [math.floor(low), *(q for q in quarters if q > low + 4), math.floor(top) + 1]


def write_shares(networks: Sequence[WireAccuracy], edges: Sequence[float], path: Path) -> None:
    """CSV: a row for each network, number of applications ("own": as trained) and interval of lengths."""
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["network", "applications", "from_px", "to_px", "lamps", "right", "standard_error"])
        for one in networks:
            for how in one.right:
                for low, high in itertools.pairwise(edges):
                    mean, error, count = one.share(low, high, how)
                    rows.writerow([one.name, how, low, high, count, f"{mean:.4f}", f"{error:.4f}"])


def table(networks: Sequence[WireAccuracy], edges: Sequence[float]) -> str:
    """Accuracy against length as a Markdown table, each network as it was trained."""
    heads = ["share of lamps that are right", *(f"{a:.0f} to {b:.0f} px" for a, b in itertools.pairwise(edges))]
    lines = [heads, ["---"] * len(heads)]
    lines += [[one.name, *(f"{one.share(a, b)[0]:.2f}" for a, b in itertools.pairwise(edges))] for one in networks]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(networks: Sequence[WireAccuracy], longest: float, out: Path) -> list[str]:
    """Print the prediction, what came out and a table; write wires.png and wires.csv. Returns the verdict."""
    found, edges = verdict(networks, longest), intervals(networks, longest)
    print(*PREDICTION, *found, "", table(networks, edges), "", sep="\n")
    draw_wires(networks, edges, longest, out / "wires.png")
    write_shares(networks, edges, out / "wires.csv")
    return found


def draw_wires(networks: Sequence[WireAccuracy], edges: Sequence[float], longest: float, path: str | Path) -> None:
    """Accuracy against length, and beyond the longest wire of training against applications."""
    with figure(12.4, 5.4, path) as drawing:
        drawing.suptitle("Does reach decide?", x=0.012, ha="left", fontsize=15, fontweight="bold")
        left, right = drawing.subplots(1, 2)
        for i, one in enumerate(networks):
            color, line = LINES[i % len(LINES)], ("o-", "s--")[i // len(LINES) % 2]
            middles = [(a + b) / 2 for a, b in itertools.pairwise(edges)]
            shares = [one.share(a, b) for a, b in itertools.pairwise(edges)]
            left.errorbar(
                middles, [s[0] for s in shares], [s[1] for s in shares], fmt=line, color=color, label=one.name
            )
            beyond = {int(how): one.share(longest, math.inf, how)[0] for how in one.right if how != "own"}
            if beyond:
                right.plot(list(beyond), list(beyond.values()), line, color=color, label=one.name)
        left.axvline(longest, color=FAINT, linestyle="--", label="longest in training")
        left.set(title="accuracy of a lamp's class", xlabel="wire, px")
        right.set(title="the same beyond the longest wire of training", xlabel="applications of G")
        right.set_xscale("log", base=2)
        for axes in (left, right):
            axes.axhline(0.5, color=FAINT, linestyle=":")
        columns = 3 if max(len(one.name) for one in networks) > 40 else 4
        drawing.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=columns)  # covers no data


def longest_in_training(predictor: Predictor) -> float:
    """Of `data.generate`. Raises ConfigError for another data set."""
    generate = predictor.config["data"].get("generate") or {}
    if "val_longest" not in generate:
        raise ConfigError("this checkpoint was not trained on data=wires: give one of experiment=wires.")
    return float(generate["longest"])


def _reach(predictor: Predictor) -> float | None:
    """Farthest distance of a lamp and a bulb of which one can see a part of the other.

    Applications, half the backbone's field and the head's convolutions, from a cell at the edge of the lamp to the
    edge of the bulb.
    """
    body = body_of(predictor)
    solver = getattr(body.neck, "solver", None)
    if isinstance(solver, Equilibrium):
        return None
    stride = body.strides[len(body.in_levels) - 1]
    blocks = solver.steps if isinstance(solver, Unroll) else 0
    blocks = len(body.neck.blocks) if isinstance(body.neck, StackedFPN) else blocks
    convolutions = int(predictor.config["detector"]["head"]["num_convs"]) + 1
    return stride * (CELLS * blocks + 1 + convolutions) + (LAMP + BULB) / 2


def _judged(found: dict[str, Tensor], target: dict[str, Any]) -> list[bool]:
    """Of each lamp, whether the best-scored box on it has its class."""
    right = []
    for box, label in zip(target["boxes"], target["labels"], strict=True):
        on = (box_iou(found["boxes"].cpu(), box[None].float())[:, 0] >= 0.5).nonzero()[:, 0]
        best = on[found["scores"].cpu()[on].argmax()] if len(on) else None
        right.append(best is not None and int(found["labels"][best]) == int(label))
    return right


def _distances(annotations: Path) -> dict[int, list[float]]:
    """Of the lamps of each image. Both of an image are the same, so that their order does not matter."""
    found: dict[int, list[float]] = {}
    for one in json.loads(annotations.read_text())["annotations"]:
        if "distance" not in one:
            raise ConfigError(f"{annotations}: annotations without distance. Give a checkpoint of experiment=wires.")
        found.setdefault(int(one["image_id"]), []).append(float(one["distance"]))
    return found

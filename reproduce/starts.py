"""One answer, whatever the start and the number of applications? A checkpoint with 1 to 64 plain applications of G."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ifpn.data import DetectionData
from ifpn.detectors.postprocess import clip
from ifpn.errors import ConfigError
from ifpn.evaluation import CocoEvaluator, match_classes
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.necks.pyramid_layout import FlatStep
from ifpn.plots.style import BLUE, FAINT, GREEN, ORANGE, figure
from ifpn.predictor import Predictor
from ifpn.solvers import Stats, Unroll
from reproduce.inspect_checkpoint import body_of, neck_name

STARTS = ("zero", "noise", "other image")
BATCH_SIZES = (8, 7, 6, 5, 4, 3, 2, 9, 10, 11, 12, 13)


@dataclass(frozen=True)
class FromStart:
    """What one start gives.

    Attributes:
        start: of `STARTS`.
        ap: by number of applications, in 0..1; -1 without boxes.
        apart: median over images of the relative distance to the state reached from zero, by number of applications.
    """

    start: str
    ap: dict[int, float]
    apart: dict[int, float]


@dataclass
class Applications:
    """In the place of a neck's solver: goes on from its state until there were `until` plain applications of f.

    begin: makes the first state from f and zero.
    """

    begin: Callable[[FlatStep, Tensor], Tensor]
    until: int = 0
    done: int = 0
    state: Tensor | None = None

    def __call__(self, f: Any, z0: Tensor, *, training: bool) -> tuple[Tensor, Stats | None]:
        """The state (N, D) after `until` applications; no statistics."""
        z = self.begin(f, z0) if self.state is None else self.state
        for _ in range(self.until - self.done):
            z = f(z)
        self.state, self.done = z, self.until
        return z, None


class Once(nn.Module):
    """A backbone whose first answer stands for all: the images of a batch do not change."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.levels, self.answer = inner, inner.levels, None

    def forward(self, images: Tensor) -> Any:
        """The levels of the first call."""
        if self.answer is None:
            self.answer = self.inner(images)
        return self.answer


@torch.no_grad()
def detect_together(detector: Any, images: Sequence[Tensor]) -> list[Any]:
    """Detections of images (3, H, W) in one padded batch, so that one image's state can be another's start.

    Evaluation pads every image to its own size alone; AP differs a little from it where sizes differ.
    """
    batch, _ = detector.transform(list(images))
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    restored = detector.transform.postprocess(detector.detect_batch(batch), batch.image_sizes, sizes)
    return clip(restored, sizes)


@torch.no_grad()
def ap_from_starts(
    predictor: Predictor, data: DetectionData, applications: Sequence[int], images: int | None = None
) -> list[FromStart]:
    """AP with each number of plain applications of G from each of three starts.

    The starts: zero, where training starts; noise with the standard deviation of B, level by level; and the state that
    the checkpoint's own solver finds for another image of the batch.

    Args:
        predictor: of a checkpoint with an implicit neck, `Unroll` or an equilibrium.
        data: set up for validation.
        applications: increasing.
        images: at most so many, from the first on; None is all.

    Raises:
        ConfigError: a neck without iteration, or a single image.
    """
    neck = body_of(predictor).neck
    if not isinstance(neck, EquilibriumNeck):
        raise ConfigError(f"this checkpoint's neck ({neck_name(predictor)}) iterates nothing: give an implicit one.")
    labels = match_classes(predictor.class_names, data.class_names)
    scores = {
        (s, n): CocoEvaluator(data.val_dataset.annotations, data.category_ids) for s in STARTS for n in applications
    }
    apart: dict[tuple[str, int], list[float]] = {key: [] for key in scores}
    own = neck.solver
    for number, (batch, ids) in enumerate(_batches(data, images)):
        noise = torch.Generator(predictor.device).manual_seed(number)
        begins: dict[str, Callable[[FlatStep, Tensor], Tensor]] = {
            "zero": lambda f, z0: z0,
            "noise": lambda f, z0, noise=noise: _noise(f, z0, noise),  # type: ignore[misc]
            "other image": lambda f, z0: own(f, z0, training=False)[0].roll(1, 0),
        }
        inputs = [image.to(predictor.device).float() / 255 for image in batch]
        reached: dict[int, Tensor] = {}
        with backbone_once(predictor):
            for start in STARTS:
                policy = Applications(begins[start])
                with solved_with(neck, policy):
                    for n in applications:
                        policy.until = n
                        found = detect_together(predictor.detector, inputs)
                        found = [
                            {**{k: v.cpu() for k, v in d.items()}, "labels": labels[d["labels"].cpu()]} for d in found
                        ]
                        scores[start, n].update(ids, found)
                        assert policy.state is not None
                        zero = reached.setdefault(n, policy.state)
                        apart[start, n] += ((policy.state - zero).norm(dim=1) / zero.norm(dim=1)).tolist()
    ap = {key: float(evaluator.compute().summary["AP"]) for key, evaluator in scores.items()}
    return [
        FromStart(
            start,
            {n: ap[start, n] for n in applications},
            {n: float(torch.tensor(apart[start, n]).median()) for n in applications},
        )
        for start in STARTS
    ]


def verdict(predictor: Predictor, found: Sequence[FromStart]) -> list[str]:
    """Prediction, what would falsify it, and what came out, in sentences. The first two depend on no result."""
    solver, ap = body_of(predictor).neck.solver, found[0].ap
    bounded = bool(predictor.config.get("stabilise"))
    best = max(ap.values())
    if best <= 0:
        return ["this network finds nothing: no prediction says anything of it."]
    lost = {n: 100 * (best - value) for n, value in ap.items()}
    shown = ", ".join(f"{value:.1f} at {n}" for n, value in lost.items())
    if isinstance(solver, Unroll):
        said = "no more than 5 AP at any number" if bounded else "more than 5 AP at 8 and more than 10 at 32"
        lines = [
            f"prediction: trained with {solver.steps} applications, it loses {said}.",
            "falsified: " + ("a larger loss." if bounded else "a loss below 1 AP at 32: then it is not the implicit"),
        ]
        if not bounded:
            lines[-1] += " gradient that gives one answer."
        late = [value for n, value in lost.items() if n >= solver.steps]
        holds = max(late) <= 5 if bounded else lost.get(8, 0) > 5 and lost.get(32, 0) > 10
    else:
        lines = [
            "prediction: the equilibrium stays within 0.5 AP of its best from 3 to 64 applications, from every start.",
            "falsified: a larger loss.",
        ]
        late = [100 * (best - value) for one in found for n, value in one.ap.items() if n >= 3]
        holds = max(late, default=0.0) <= 0.5
    return [*lines, f"result: from zero it loses {shown}; the prediction {'holds' if holds else 'fails'}."]


def draw_starts(checkpoints: Sequence[tuple[str, Sequence[FromStart]]], path: str | Path) -> None:
    """A panel for each checkpoint: AP against applications, a line for each start."""
    with figure(5.2 * len(checkpoints) + 1.2, 4.6, path) as drawing:
        title = "One answer, whatever the start and the number of applications?"
        drawing.suptitle(title, x=0.012, ha="left", fontsize=15, fontweight="bold")
        panels = drawing.subplots(1, len(checkpoints), sharey=True, squeeze=False)[0]
        for axes, (name, found) in zip(panels, checkpoints, strict=True):
            axes.set_title(name)
            for one, color, marker in zip(found, (BLUE, ORANGE, GREEN), "os^", strict=True):
                values = [100 * value for value in one.ap.values()]
                axes.plot(list(one.ap), values, color=color, marker=marker, markersize=5, label=f"from {one.start}")
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(found[0].ap), [str(n) for n in found[0].ap])
            axes.axhline(100 * max(found[0].ap.values()), color=FAINT, linestyle=":", linewidth=1.2)
            axes.set_xlabel("applications of G")
        panels[0].set_ylabel("AP")
        panels[-1].legend()


def _batches(data: DetectionData, images: int | None) -> Iterator[tuple[list[Tensor], list[int]]]:
    """Images (3, H, W) uint8 and their ids, never one alone."""
    dataset = data.val_dataset
    count = len(dataset) if images is None else min(images, len(dataset))
    if count < 2:
        raise ConfigError(f"{count} image: must be at least 2, as one starts from the state of another. Use images=2.")
    size = next(b for b in BATCH_SIZES if count % b != 1)
    for first in range(0, count, size):
        items = [dataset[i] for i in range(first, min(first + size, count))]
        yield [image for image, _ in items], [int(target["image_id"]) for _, target in items]


def _noise(f: FlatStep, z0: Tensor, generator: torch.Generator) -> Tensor:
    def like(b: Tensor) -> Tensor:
        drawn = torch.randn(b.shape, generator=generator, device=b.device)
        return drawn * b.float().std(dim=(1, 2, 3), keepdim=True)

    return f.layout.flatten([like(level) for level in f.b], z0.dtype)


@contextmanager
def solved_with(neck: EquilibriumNeck, policy: Any) -> Iterator[None]:
    """`policy` in the place of the neck's solver inside the block."""
    before, neck.solver = neck.solver, policy
    try:
        yield
    finally:
        neck.solver = before


@contextmanager
def backbone_once(predictor: Predictor) -> Iterator[None]:
    """One run of the backbone for all calls inside the block, which must be of the same images."""
    body = body_of(predictor)
    before = body.backbone
    body.backbone = Once(before)
    try:
        yield
    finally:
        body.backbone = before

"""A video panned from photographs: evaluations, AP and time with a start from the frame before.

    python -m benchmarks.video ckpt=runs/ifpn/best.ckpt fpn=runs/fpn/best.ckpt [root=FOLDER] [images=10] [out=video.png]

A window of 256 pixels moves over photographs of the validation set, scaled to 1024 pixels, by 2, 4, 8 and 16 pixels per
frame, 30 frames each; the boxes are cropped with it, and those less than half visible are ignored. Every frame is
solved from the usual first state (cold; `start=zero`: not from a fitted one), from the pyramid of the frame before
(warm), and from that pyramid moved with the image (moved); all to the same tolerance, `rtol=0.01`, or with `rtol=0` as
the checkpoint says. Their seconds are taken in turns with those of the FPN. `root` names another data set with the
same classes.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

from ifpn.config.stored import check_stored_data
from ifpn.data import DetectionData
from ifpn.errors import ConfigError
from ifpn.evaluation import CocoEvaluator
from ifpn.necks import EquilibriumNeck, Stream
from ifpn.plots.style import figure
from ifpn.predictor import Predictor, load
from ifpn.solvers import Equilibrium

SPEEDS = (2, 4, 8, 16)
STARTS = ("cold", "warm", "moved")
VISIBLE = 0.5


@dataclass(frozen=True)
class Options:
    """The command line: `key=value`, see the top of the file."""

    ckpt: str
    fpn: str
    root: str = ""
    out: str = "video.png"
    device: str = "cpu"
    images: int = 10
    frames: int = 30
    window: int = 256
    side: int = 1024
    rtol: float = 0.01
    start: str = "own"

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Options:
        """Read `key=value` arguments.

        Raises:
            ConfigError: an unknown key, a value of another type, or no `ckpt` or `fpn`.
        """
        given = dict(argument.partition("=")[::2] for argument in arguments)
        types: dict[str, Callable[[str], Any]] = {"str": str, "int": int, "float": float}
        kinds = {one.name: types[str(one.type)] for one in dataclasses.fields(cls)}
        if not {"ckpt", "fpn"} <= given.keys() <= kinds.keys():
            raise ConfigError(f"{' '.join(arguments)}: must be ckpt=… fpn=… and any of {', '.join(kinds)}.")
        try:
            return cls(**{key: kinds[key](value) for key, value in given.items()})
        except ValueError as error:
            raise ConfigError(f"{' '.join(arguments)}: {error}") from error


@dataclass
class Clip:
    """What was measured of one start at one speed."""

    evaluator: CocoEvaluator
    evals: list[float] = field(default_factory=list)  # of all frames but the first of each photograph
    seconds: list[float] = field(default_factory=list)


def pan(image: Tensor, boxes: Tensor, speed: int, options: Options) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The frames (3, window, window) uint8, with all boxes (M, 4) cropped and how much of each is visible (M,).

    The window moves along the longer side, which is scaled to `side`, in the middle of the photograph.
    """
    height, width = image.shape[-2:]
    scale = max(options.side / max(height, width), options.window / min(height, width))
    size = (round(height * scale), round(width * scale))
    big = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().byte()
    boxes = boxes * scale
    horizontal = width >= height
    path = speed * (options.frames - 1) + options.window
    if path > max(size):
        raise ConfigError(f"frames={options.frames}: must be fewer, {path} pixels do not fit into side={options.side}.")
    for frame in range(options.frames):
        along, across = (max(size) - path) // 2 + speed * frame, (min(size) - options.window) // 2
        x, y = (along, across) if horizontal else (across, along)
        shifted = (boxes - boxes.new_tensor([x, y, x, y])).clamp(0, options.window)
        visible = _area(shifted) / _area(boxes).clamp_min(1e-9)
        yield big[:, y : y + options.window, x : x + options.window], shifted, visible


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def moved(state: list[Tensor], pixels: float, window: int, horizontal: bool) -> list[Tensor]:
    """The pyramid of a window that has moved by so many pixels, levels (N, C, H, W); the border is repeated."""
    levels = []
    for level in state:
        shift = 2 * pixels / window  # in the coordinates of grid_sample, -1 to 1
        theta = torch.tensor([[1.0, 0, shift if horizontal else 0], [0, 1, 0 if horizontal else shift]])
        grid = F.affine_grid(theta.expand(len(level), 2, 3).to(level), list(level.shape), align_corners=False)
        levels.append(F.grid_sample(level, grid, padding_mode="border", align_corners=False))
    return levels


@dataclass(frozen=True)
class Photographs:
    """The photographs used: pixels (3, H, W) uint8, boxes (M, 4) xyxy and labels (M,)."""

    items: list[tuple[Tensor, Tensor, Tensor]]
    category_ids: list[int]
    class_names: list[str]


def photographs(predictor: Predictor, options: Options) -> Photographs:
    """Photographs of the validation set that have boxes, spread over it."""
    stored = check_stored_data(predictor.config.get("data"), options.root or None)
    data: DetectionData = instantiate(OmegaConf.create(stored))
    data.use_categories(predictor.category_ids, predictor.class_names)
    data.setup("validate")
    dataset = data.val_dataset
    usable = [i for i in range(len(dataset)) if len(dataset.annotations.boxes(int(dataset.images[i]))[0])]
    items = []
    for index in usable[:: max(1, len(usable) // options.images)][: options.images]:
        image, target = dataset[index]
        items.append((image, torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])))
    return Photographs(items, data.category_ids, data.class_names)


def truth_of(data: Photographs, speed: int, options: Options) -> dict[str, Any]:
    """The annotations of all frames, in COCO's format; boxes that are hardly visible are crowds, which AP ignores."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for clip, (image, whole, labels) in enumerate(data.items):
        for frame, (_, boxes, visible) in enumerate(pan(image, whole, speed, options)):
            number = clip * options.frames + frame + 1
            images.append({"id": number, "width": options.window, "height": options.window, "file_name": ""})
            for box, label, share in zip(boxes.tolist(), labels.tolist(), visible.tolist(), strict=True):
                x1, y1, x2, y2 = box
                if share == 0:
                    continue
                bbox = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
                ids = {"id": len(annotations) + 1, "image_id": number, "category_id": data.category_ids[label]}
                annotations.append({**ids, **bbox, "iscrowd": int(share < VISIBLE)})
    names = zip(data.category_ids, data.class_names, strict=True)
    categories = [{"id": one, "name": name} for one, name in names]
    return {"images": images, "annotations": annotations, "categories": categories}


@torch.no_grad()
def measure(ours: Predictor, fpn: Predictor, data: Photographs, speed: int, options: Options) -> dict[str, Clip]:
    """All starts and the FPN at one speed."""
    truth = truth_of(data, speed, options)
    clips = {name: Clip(CocoEvaluator(truth, data.category_ids)) for name in (*STARTS, "fpn")}
    for number, (image, boxes, _) in enumerate(data.items):
        streams = {name: Stream(ours.detector) for name in STARTS}
        horizontal = image.shape[-1] >= image.shape[-2]
        for frame, (pixels, _, _) in enumerate(pan(image, boxes, speed, options)):
            batch = [pixels.to(ours.device).float() / 255]
            streams["cold"].state = None
            last = streams["moved"].state
            streams["moved"].state = last and moved(last, speed, options.window, horizontal)
            for name, clip in clips.items():
                found = _timed(streams.get(name, fpn.detector), batch, clip.seconds)
                clip.evaluator.update([number * options.frames + frame + 1], found)
                if frame and name in streams:
                    clip.evals.append(float(streams[name].evals[-1]))
    return clips


def _timed(detect: Callable[..., Any], batch: list[Tensor], seconds: list[float]) -> list[dict[str, Tensor]]:
    start = time.perf_counter()
    found = [{key: value.cpu() for key, value in one.items()} for one in detect(batch)]
    seconds.append(time.perf_counter() - start)
    return found


def prepared(options: Options) -> tuple[Predictor, Predictor]:
    """Both checkpoints; the solver of the first with the tolerance asked for, if any.

    Raises:
        ConfigError: the first solves no equilibrium.
    """
    ours, fpn = load(options.ckpt, options.device), load(options.fpn, options.device)
    neck = next((part for part in ours.detector.modules() if isinstance(part, EquilibriumNeck)), None)
    if neck is None or not isinstance(neck.solver, Equilibrium):
        raise ConfigError(f"ckpt={options.ckpt}: must be a detector whose neck solves an equilibrium.")
    if options.start not in ("own", "zero"):
        raise ConfigError(f"start={options.start}: must be own or zero.")
    if options.start == "zero":
        neck.solver = dataclasses.replace(neck.solver, fit_start=0)
    if options.rtol > 0:
        neck.solver = dataclasses.replace(neck.solver, rtol=options.rtol, test_rtol=None, test_error=None)
    return ours, fpn


def rows(speed: int, clips: dict[str, Clip]) -> list[dict[str, Any]]:
    """One row of the table per start: evaluations and AP, and the median over the frames of time and of its ratio."""
    found = []
    for name, clip in clips.items():
        ratio = median(a / b for a, b in zip(clip.seconds, clips["fpn"].seconds, strict=True))
        row = {"speed": speed, "start": name, "evals": mean(clip.evals) if clip.evals else None}
        row |= {"ap": clip.evaluator.compute().summary["AP"], "ms": 1000 * median(clip.seconds), "ratio": ratio}
        found.append(row)
    return found


def table(found: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| px per frame | start | evaluations | AP | ms per frame | time / FPN |", "|---|---|---|---|---|---|"]
    for row in found:
        evals = "" if row["evals"] is None else f"{row['evals']:.2f}"
        lines.append(
            f"| {row['speed']} | {row['start']} | {evals} | {row['ap']:.3f} | {row['ms']:.1f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines)


def draw(found: list[dict[str, Any]], path: str | Path) -> None:
    """Evaluations per frame and time beside the FPN, against the speed."""
    with figure(8.5, 3.6, path) as drawing:
        for axes, key, label in zip(
            drawing.subplots(1, 2), ("evals", "ratio"), ("evaluations of G per frame", "time / FPN"), strict=True
        ):
            for name in STARTS:
                points = [(row["speed"], row[key]) for row in found if row["start"] == name]
                axes.plot(*zip(*points, strict=True), marker="o", label=name)
            axes.set_xscale("log", base=2)
            axes.set_xticks(SPEEDS, [str(speed) for speed in SPEEDS])
            axes.set(xlabel="pixels per frame", ylabel=label, ylim=(0, None))
        axes.legend()


def main(arguments: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Measure, print the table, draw the picture."""
    options = Options.parse(sys.argv[1:] if arguments is None else arguments)
    ours, fpn = prepared(options)
    data = photographs(ours, options)
    print(
        f"{len(data.items)} photographs, {options.frames} frames, {options.device}, {torch.get_num_threads()} threads"
    )
    found = []
    for speed in SPEEDS:
        found += rows(speed, measure(ours, fpn, data, speed, options))
    print(table(found))
    draw(found, options.out)
    return found


if __name__ == "__main__":
    try:
        main()
    except ConfigError as error:
        sys.exit(f"error: {error}")

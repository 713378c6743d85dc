"""Run folders as rows: what each result.json says was run, whatever it was called."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ifpn.config.migration import migrate
from reproduce.paper import LARGE_BACKBONES, METRICS, Method

# COCO val2017: 80 classes, 36335 boxes that are not crowd regions. No other data set has this pair.
COCO_CLASSES, COCO_VAL_BOXES = 80, 36335

_DETECTORS = {
    "RetinaNetCriterion": "retina",
    "FasterRCNN": "faster_rcnn",
    "FCOSCriterion": "fcos",
    "ATSSCriterion": "atss",
    "AutoAssignCriterion": "autoassign",
}
_NECKS = {"ImplicitFPN": "implicit", "MDEQNeck": "mdeq", "FPN": "fpn", "NoFPN": "none"}
_CSCS = {
    "NoFusion": "none",
    "BiFPNLayer": "bifpn",
    "NASFPNCell": "nasfpn",
    "DenseFusion": "dense",
    "PyramidConv": "pyramid",
}


@dataclass(frozen=True)
class Run:
    """One finished training.

    numbers: AP in percent under the names of `METRICS`, None where the validation set has no box of that kind.
    images: seen in training, steps x batch. paper_data: validated on all of COCO val2017.
    """

    folder: Path
    config: dict[str, Any]
    numbers: dict[str, float | None]
    seed: int
    steps: int
    batch: int
    seconds_per_step: float | None
    peak_memory_mib: float | None
    machine: str
    boxes: int
    paper_data: bool

    @property
    def images(self) -> int:
        """Images seen in training."""
        return self.steps * self.batch

    @property
    def data_name(self) -> str:
        """The data set in a word."""
        data = self.config["data"]
        return "built-in shapes" if data.get("generate") else Path(str(data.get("root", "?"))).name


@dataclass(frozen=True)
class LeftOut:
    """A folder that stands in no table, and why."""

    path: Path
    reason: str


class _NotARunError(Exception):
    """The reason, in words."""


def read_runs(folder: str | Path) -> tuple[list[Run], list[LeftOut]]:
    """All runs below `folder`, in the order of their paths; what cannot be used is named, never guessed.

    A folder with a checkpoint and without a result.json belongs to a run that was killed or is not done.
    """
    runs, left = [], []
    root = Path(folder).expanduser()
    for path in sorted(root.rglob("result.json")):
        try:
            runs.append(_run(path))
        except _NotARunError as error:
            left.append(LeftOut(path, str(error)))
    folders = [path.parent for path in sorted(root.rglob("last.ckpt"))]
    left += [LeftOut(f, "unfinished: no result.json") for f in folders if not (f / "result.json").is_file()]
    return runs, left


def _run(path: Path) -> Run:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _NotARunError(f"cannot be read as JSON ({str(error)[:80]})") from error
    if not isinstance(content, dict):
        raise _NotARunError("holds no object")
    config = content.get("config")
    if not isinstance(config, dict) or not all(isinstance(config.get(k), dict) for k in _GROUPS):
        raise _NotARunError(f"has no training configuration ({', '.join(_GROUPS)}): not a result of train.py")
    if content.get("complete") is not True:
        raise _NotARunError(f"unfinished: stopped after {content.get('steps')} steps")
    summary = content.get("summary")
    if not isinstance(summary, dict):
        raise _NotARunError("was never validated")
    classes = content.get("per_class") or {}
    boxes = sum(int(c.get("boxes", 0)) for c in classes.values())
    try:
        return Run(
            folder=path.parent,
            config=migrate(config),
            numbers={name: _percent(name, summary.get(name)) for name in METRICS},
            seed=int(content["seed"]),
            steps=int(content["steps"]),
            batch=int(content["batch"]),
            seconds_per_step=_optional(content.get("seconds_per_step")),
            peak_memory_mib=_optional(content.get("peak_memory_mib")),
            machine=str(content.get("machine", "")),
            boxes=boxes,
            paper_data=len(classes) == COCO_CLASSES and boxes == COCO_VAL_BOXES,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _NotARunError(f"lacks a value or holds a wrong one: {error}") from error


_GROUPS = ("backbone", "neck", "detector", "schedule", "data")


def _percent(name: str, value: object) -> float | None:
    """COCO writes -1 where there is nothing to find."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name}={value!r} is no number")
    if value != -1 and not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r} is not in 0..1")
    return None if value == -1 else 100 * float(value)


def _optional(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def method_of(config: Mapping[str, Any]) -> Method | None:
    """The paper's words for what a configuration builds; None for what the paper does not have."""
    detector = _DETECTORS.get(_class(config["detector"].get("criterion", config["detector"])))
    neck = _NECKS.get(_class(config["neck"]))
    if detector is None or neck is None:
        return None
    backbone = _class(config["backbone"])
    # ResNet-50 with a deformable head is still a row of Tables 1 to 5, with a mark.
    deformable = bool(config["detector"].get("head", {}).get("deformable")) and backbone != "resnet50"
    found = Method(detector, neck, backbone=backbone, large=deformable or backbone in LARGE_BACKBONES.values())
    solver = config["neck"].get("solver")
    unroll = int(solver["steps"]) if isinstance(solver, dict) and _class(solver) == "Unroll" else None
    if neck == "implicit" and unroll == 0:
        return replace(found, neck="none")  # the head reads B, as with neck=none
    if neck != "implicit":
        return replace(found, unroll=unroll)
    csc = _CSCS.get(_class(config["neck"].get("csc")))
    if csc is None:
        return None
    parts = ["rbl"] * bool(config["neck"].get("residual_block")) + ["csc"] * (csc != "none")
    return replace(found, csc=csc, components="+".join(parts), unroll=unroll)


def _class(node: object) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2] if isinstance(node, dict) else ""


def fits(method: Method, wanted: Method) -> bool:
    """Whether a run of `method` belongs to a row that wants `wanted`; a row that names no backbone takes any.

    A small backbone stands in for each of Table 6: such a run belongs to the rows of both.
    """
    backbones = (method.backbone,) if method.backbone in LARGE_BACKBONES.values() else LARGE_BACKBONES.values()
    same_backbone = wanted.backbone is None or wanted.backbone in backbones
    return same_backbone and replace(method, backbone=None) == replace(wanted, backbone=None)

"""`ifpn check-data ROOT`: counts, every defect with its ids, and a page of pictures with boxes for each split."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from ifpn.config.paths import CONF
from ifpn.errors import ConfigError

if TYPE_CHECKING:
    from ifpn.data.augment import Augment
    from ifpn.data.check import SplitReport
    from ifpn.data.coco.defects import DefectPolicy
    from ifpn.data.dataset import CocoDataset

SPLITS = ("train", "val")
_SETTING = re.compile(r"data\.(?:augment\.|policy\.|reading\.)?(\w+)=(.*)", re.DOTALL)
DESCRIPTION = """\
Check a COCO-format folder wholly: counts, every defect with its ids, and a page of pictures with boxes per split.

  ifpn check-data ROOT
  ifpn check-data ROOT --val-share 0.1                      # one file for all: as data.val_share=0.1 splits it
  ifpn check-data ROOT --iou-crop 0.5 --color-jitter 0.4    # as data.augment.iou_crop=0.5 … trains

Settings may be written as for a training, too: data.val_share=0.1.
Each picture stands on the page twice: as it is, and as training with these settings sees it (alone: the flip).
Written to --out: report.txt, report.json, train.png, val.png. Exit status 1 if there are defects, 2 if a split cannot
be read at all."""


def main(arguments: Sequence[str]) -> int:
    """Check both splits of a folder.

    Args:
        arguments: The words after `ifpn check-data`.

    Returns:
        Exit status: 0 without defects, 1 with some, 2 if a split cannot be read.

    Raises:
        UserError: A setting of the augmentation or of the data is out of range.
    """
    options = _parse([word for argument in arguments for word in _as_option(argument)])

    from ifpn.data import Augment, DefectPolicy
    from ifpn.plots.dataset import as_json, as_text

    try:
        augment = Augment(**{name: getattr(options, name) for name in _augment_defaults()})
    except ValueError as error:
        raise ConfigError(f"data.augment.{error}") from error
    try:
        policy = DefectPolicy(box_format=options.box_format)
    except ValueError as error:
        raise ConfigError(f"data.policy.{error}") from error
    options.out.mkdir(parents=True, exist_ok=True)
    reports, remarks, failed = _check(options, augment, policy)
    text = as_text(reports, remarks)
    (options.out / "report.txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    (options.out / "report.json").write_text(as_json(reports, remarks) + "\n", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names may hold what no terminal shows
    print(text)
    print(f"report and pictures in {options.out}")
    return 2 if failed else int(any(report.counts for report in reports))


def _check(
    options: argparse.Namespace, augment: Augment, policy: DefectPolicy
) -> tuple[list[SplitReport], list[str], bool]:
    """The reports of the splits that can be read, remarks on the whole, and whether a split cannot be read."""
    from ifpn.data import DataError, ImageReading
    from ifpn.data.check import check_split, split_remarks
    from ifpn.plots.dataset import draw_page

    reports: list[SplitReport] = []
    sets: list[CocoDataset] = []
    remarks: list[str] = []
    share = options.val_share
    for split in SPLITS if share != 0 else SPLITS[:1]:
        files = split if share is None else "train"
        try:
            report, data = check_split(
                options.root,
                split,
                annotations=getattr(options, f"{files}_annotations"),
                images=getattr(options, f"{files}_images"),
                policy=policy,
                reading=ImageReading(max_pixels=options.max_pixels) if options.max_pixels else None,
                follow_links=options.follow_links,
                val_share=share,
            )
        except DataError as error:
            remarks.append(f"{split} cannot be read: {error}")
            continue
        reports.append(report)
        sets.append(data)
        draw_page(data, augment, options.out / f"{split}.png", count=options.pictures, seed=0)
    failed = bool(remarks)
    return reports, remarks + (split_remarks(*sets) if len(sets) == 2 else []), failed


def _as_option(argument: str) -> list[str]:
    """`data.val_share=0.1`, as training and error messages have it, is `--val-share 0.1`; the rest stays as it is."""
    setting = _SETTING.fullmatch(argument)
    if setting is None:
        return [argument]
    name, value = setting.groups()
    if name == "root":
        return [value]
    if name == "follow_links":
        return ["--follow-links"] * (value == "true")
    return [f"--{name.replace('_', '-')}", *value.strip("[]").split(",")]


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be from 0 to below 1")
    return value


def _augment_defaults() -> dict[str, Any]:
    """What data=coco does to a training image."""
    node = OmegaConf.to_container(OmegaConf.load(CONF / "data" / "coco.yaml"))
    assert isinstance(node, dict)
    return {name: value for name, value in node["augment"].items() if name != "_target_"}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; defaults are those of data=coco."""
    parser = argparse.ArgumentParser(
        "ifpn check-data", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("root", type=Path, help="a folder with images and COCO-format annotations")
    add("--out", type=Path, default=Path("dataset_check"), help="where the report goes (default: dataset_check)")
    add("--pictures", type=int, default=8, help="pictures per split on the page, each drawn twice (default: 8)")
    add("--max-pixels", type=int, help="data.reading.max_pixels: larger images count as defects")
    add("--val-share", type=_share, help="data.val_share: one file holds all images; this share is for validation")
    add("--box-format", default="xywh", help="data.policy.box_format (default: xywh)")
    add("--follow-links", action="store_true", help="data.follow_links: links may lead out of the folder")
    for name, default in _augment_defaults().items():
        kind: dict[str, Any] = {"type": int if name == "jitter_size" else float}
        if name == "scale_jitter":
            kind |= {"nargs": 2, "metavar": ("LOW", "HIGH")}
        add(f"--{name.replace('_', '-')}", default=default, help=f"data.augment.{name} (default: {default})", **kind)
    for split in SPLITS:
        add(f"--{split}-annotations", metavar="FILE", help=f"data.{split}_annotations")
        add(f"--{split}-images", metavar="FOLDER", help=f"data.{split}_images")
    return parser.parse_args(arguments)

"""`ifpn check-data ROOT`: counts, every defect with its ids, and a page of pictures with boxes for each split."""

from __future__ import annotations

import argparse
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
    from ifpn.data.dataset import CocoDataset

SPLITS = ("train", "val")
DESCRIPTION = """\
Check a COCO-format folder wholly: counts, every defect with its ids, and a page of pictures with boxes per split.

  ifpn check-data ROOT
  ifpn check-data ROOT --iou-crop 0.5 --color-jitter 0.4    # as data.augment.iou_crop=0.5 … trains

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
        UserError: A setting of the augmentation is out of range.
    """
    options = _parse(arguments)

    from ifpn.data import Augment
    from ifpn.plots.dataset import as_json, as_text

    try:
        augment = Augment(**{name: getattr(options, name) for name in _augment_defaults()})
    except ValueError as error:
        raise ConfigError(f"data.augment.{error}") from error
    options.out.mkdir(parents=True, exist_ok=True)
    reports, remarks, failed = _check(options, augment)
    text = as_text(reports, remarks)
    (options.out / "report.txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    (options.out / "report.json").write_text(as_json(reports, remarks) + "\n", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # names may hold what no terminal shows
    print(text)
    print(f"report and pictures in {options.out}")
    return 2 if failed else int(any(report.counts for report in reports))


def _check(options: argparse.Namespace, augment: Augment) -> tuple[list[SplitReport], list[str], bool]:
    """The reports of the splits that can be read, remarks on the whole, and whether a split cannot be read."""
    from ifpn.data import DataError, ImageReading
    from ifpn.data.check import check_split, split_remarks
    from ifpn.plots.dataset import draw_page

    reports: list[SplitReport] = []
    sets: list[CocoDataset] = []
    remarks: list[str] = []
    for split in SPLITS:
        try:
            report, data = check_split(
                options.root,
                split,
                annotations=getattr(options, f"{split}_annotations"),
                images=getattr(options, f"{split}_images"),
                reading=ImageReading(max_pixels=options.max_pixels) if options.max_pixels else None,
                follow_links=options.follow_links,
            )
        except DataError as error:
            remarks.append(f"{split} cannot be read: {error}")
            continue
        reports.append(report)
        sets.append(data)
        draw_page(data, augment, options.out / f"{split}.png", count=options.pictures, seed=0)
    failed = bool(remarks)
    return reports, remarks + (split_remarks(*sets) if len(sets) == 2 else []), failed


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

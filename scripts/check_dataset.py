"""Check a COCO-format folder wholly: counts, every defect with its ids, and a page of pictures with boxes.

    python scripts/check_dataset.py ROOT [--out FOLDER]
    python scripts/check_dataset.py ROOT --iou-crop 0.5 --color-jitter 0.4    # as data.augment.iou_crop=0.5 … trains

Each picture stands on the page twice: as it is, and as training with these settings sees it (alone: the flip).
Writes report.txt, report.json and a page of pictures per split into FOLDER (default: ./dataset_check), prints the
text, and ends with status 1 if there are defects, 2 if a split cannot be read at all.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ifpn.data import Augment, DataError, Reading
from ifpn.data.check import SplitReport, check_split, shared_files
from ifpn.data.dataset import CocoDataset
from ifpn.plots.dataset import as_json, as_text, draw_page


def main() -> int:
    arguments = _arguments()
    reports: list[SplitReport] = []
    sets: list[CocoDataset] = []
    remarks: list[str] = []
    failed = False
    try:
        augment = Augment(
            color_jitter=arguments.color_jitter,
            iou_crop=arguments.iou_crop,
            scale_jitter=arguments.scale_jitter,
            jitter_size=arguments.jitter_size,
        )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    arguments.out.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        try:
            report, data = check_split(
                arguments.root,
                split,
                annotations=getattr(arguments, f"{split}_annotations"),
                images=getattr(arguments, f"{split}_images"),
                reading=Reading(max_pixels=arguments.max_pixels) if arguments.max_pixels else None,
                follow_links=arguments.follow_links,
            )
        except DataError as error:
            failed = True
            remarks.append(f"{split} cannot be read: {error}")
            continue
        reports.append(report)
        sets.append(data)
        draw_page(data, augment, arguments.out / f"{split}.png", count=arguments.pictures, seed=0)
    if len(sets) == 2:
        shared = shared_files(sets[0].annotations, sets[1].annotations)
        same_folder = sets[0].folder.resolve() == sets[1].folder.resolve()
        if shared and same_folder:
            remarks.append(
                f"{len(shared)} images are in both splits, e.g. {shared[0]!r}: validation is not independent"
            )
    text = as_text(reports, remarks)
    (arguments.out / "report.txt").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    (arguments.out / "report.json").write_text(as_json(reports, remarks) + "\n", encoding="utf-8")
    sys.stdout.reconfigure(errors="backslashreplace")  # file names may hold what the terminal cannot show
    print(text)
    print(f"report and pictures in {arguments.out}")
    return 2 if failed else int(any(report.counts for report in reports))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check a COCO-format folder.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("dataset_check"))
    parser.add_argument("--pictures", type=int, default=8, help="pictures per split on the page (each drawn twice)")
    parser.add_argument("--max-pixels", type=int, default=None)
    parser.add_argument("--follow-links", action="store_true")
    off = Augment()
    parser.add_argument("--color-jitter", type=float, default=off.color_jitter, help="data.augment.color_jitter")
    parser.add_argument("--iou-crop", type=float, default=off.iou_crop, help="data.augment.iou_crop")
    parser.add_argument("--scale-jitter", type=float, nargs=2, default=None, help="data.augment.scale_jitter")
    parser.add_argument("--jitter-size", type=int, default=off.jitter_size, help="data.augment.jitter_size")
    for split in ("train", "val"):
        parser.add_argument(f"--{split}-annotations", default=None)
        parser.add_argument(f"--{split}-images", default=None)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

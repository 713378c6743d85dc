"""Is a data set what it says? A quick look before training, and a full one on demand."""

from __future__ import annotations

import logging
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ifpn.data.coco.annotations import CocoAnnotations, load_annotations
from ifpn.data.coco.defects import KINDS, DataError, Defect, DefectPolicy, report_only
from ifpn.data.coco.layout import choose_folder, find_split, unicode_variants
from ifpn.data.dataset import CocoDataset, ImageReading
from ifpn.data.decode import BadImage, MissingImage

log = logging.getLogger(__name__)

QUICK_DECODES = 8
# area bins of COCO's evaluation (square pixels), as side lengths
SIZE_BINS = (("small", 0, 32), ("medium", 32, 96), ("large", 96, float("inf")))


def missing_files(data: CocoDataset) -> list[int]:
    """Items whose file is not there. One listing per folder, so that 100,000 images take a second."""
    listings: dict[str, frozenset[str]] = {}
    missing = []
    for index, i in enumerate(data.images):
        for name in unicode_variants(data.annotations.file_name(int(i))):
            folder, _, last = name.rpartition("/")
            if folder not in listings:
                try:
                    listings[folder] = frozenset(os.listdir(data.folder / folder))
                except OSError:
                    listings[folder] = frozenset()
            if last in listings[folder]:
                break
        else:
            missing.append(index)
    return missing


def quick_check(data: CocoDataset) -> None:
    """Look for missing files, and decode a few images spread over the set, in seconds.

    Raises DataError if the reading rules refuse what is found; logs it otherwise.
    """
    file = data.annotations.path
    missing = missing_files(data)
    if missing:
        names = ", ".join(repr(data.annotations.file_name(int(data.images[i]))) for i in missing[:3])
        text = f"{file}: {len(missing)} of {len(data)} image files are not in {data.folder}, e.g. {names}"
        if data.reading.on_bad_image == "refuse":
            raise DataError(
                f"{text}. Add them, name their folder (data.train_images, data.val_images), "
                "or leave them out with data.reading.on_bad_image=skip"
            )
        if len(missing) > data.reading.max_bad:
            raise DataError(f"{text}, and data.reading.max_bad={data.reading.max_bad} allows fewer")
        log.warning("%s; they are skipped", text)
    gone = set(missing)
    for index in np.unique(np.linspace(0, len(data) - 1, QUICK_DECODES).round().astype(int)):
        if int(index) in gone:
            continue
        try:
            data.decode(int(index))
        except BadImage as error:
            if data.reading.on_bad_image == "refuse":
                raise DataError(f"{error}. Leave such images out with data.reading.on_bad_image=skip") from error
            log.warning("%s; it is skipped", error)


@dataclass
class SplitReport:
    """What a full check found in one split; `notes` are remarks that are no defects."""

    split: str
    file: str
    folder: str
    images: int
    images_without_boxes: int
    boxes: int
    crowd: int
    classes: dict[str, dict[str, int]]
    defects: list[Defect]
    counts: dict[str, int]
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values for a JSON report."""
        return {**vars(self), "defects": [vars(defect) for defect in self.defects]}


def check_split(
    root: Path,
    split: str,
    *,
    annotations: str | None = None,
    images: str | None = None,
    policy: DefectPolicy | None = None,
    reading: ImageReading | None = None,
    follow_links: bool = False,
) -> tuple[SplitReport, CocoDataset]:
    """Check one split wholly, decoding every image. Refused kinds are reported, not raised.

    Raises DataError only where nothing can be read at all (no file, no JSON, no classes).
    """
    paths = find_split(root, split, annotations=annotations, images=images, follow_links=follow_links)
    found = load_annotations(paths.annotations, policy=report_only(policy or DefectPolicy()), keep_defects=1_000_000)
    names = (found.file_name(i) for i in range(min(50, len(found))))
    data = CocoDataset(found, choose_folder(paths, names), boundary=paths.boundary, reading=reading)
    defects, counts = list(found.log.defects), Counter(found.log.counts)
    for index in range(len(data)):
        try:
            data.decode(index)
        except BadImage as error:
            kind = "missing_file" if isinstance(error, MissingImage) else "bad_image"
            counts[kind] += 1
            defects.append(Defect(kind, int(found.image_ids[index]), None, str(error)))
    report = SplitReport(
        split=split,
        file=str(paths.annotations),
        folder=str(data.folder),
        images=len(found),
        images_without_boxes=int((found.boxes_per_image() == 0).sum()),
        boxes=int((~found.crowd).sum()),
        crowd=int(found.crowd.sum()),
        classes=_classes(found),
        defects=defects,
        counts={kind: counts[kind] for kind in (*KINDS, "missing_file", "bad_image") if counts[kind]},
        notes=_notes(found),
    )
    return report, data


def _classes(found: CocoAnnotations) -> dict[str, dict[str, int]]:
    """Per class: usable boxes in all and per size bin (by the annotation's area, as COCO's evaluation)."""
    side = np.sqrt(found.area)
    out: dict[str, dict[str, int]] = {}
    for k, (number, name) in enumerate(zip(found.categories.ids, found.categories.names, strict=True)):
        mine = found.usable & (found.label == k)
        bins = {bin_name: int((mine & (side >= low) & (side < high)).sum()) for bin_name, low, high in SIZE_BINS}
        out[f"{number} {name}"] = {"boxes": int(mine.sum()), **bins}
    return out


def _notes(found: CocoAnnotations) -> list[str]:
    names = Counter(found.file_name(i) for i in range(len(found)))
    twice = [name for name, count in names.items() if count > 1]
    notes = [f"{len(twice)} file names are used by several images, e.g. {twice[0]!r}"] if twice else []
    repeated = [name for name, count in Counter(found.categories.names).items() if count > 1]
    notes += [f"several categories are called {name!r}" for name in repeated]
    owner = np.repeat(np.arange(len(found)), np.diff(found.start))
    if len(owner):
        rows = np.column_stack([owner, found.label, found.box_xywh, found.crowd])
        same = len(rows) - len(np.unique(rows, axis=0))
        notes += [f"{same} boxes stand twice in an image with the same class"] if same else []
    return notes


def shared_files(first: CocoAnnotations, second: CocoAnnotations) -> list[str]:
    """File names used by both splits: trained-on images in validation make its numbers too good."""
    names = {first.file_name(i) for i in range(len(first))}
    return sorted(name for name in (second.file_name(i) for i in range(len(second))) if name in names)

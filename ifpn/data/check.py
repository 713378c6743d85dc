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
from ifpn.data.coco.defects import KINDS, DataError, Defect, DefectLog, DefectPolicy
from ifpn.data.coco.files import FolderListing
from ifpn.data.coco.layout import choose_folder, find_split
from ifpn.data.dataset import CocoDataset, ImageReading
from ifpn.data.decode import BadImage, MissingImage
from ifpn.data.held_back import held_back

log = logging.getLogger(__name__)

QUICK_DECODES = 8
COCO_DETECTIONS = 100  # detections of an image and class that COCO's evaluation looks at
# area bins of COCO's evaluation (square pixels), as side lengths
SIZE_BINS = (("small", 0, 32), ("medium", 32, 96), ("large", 96, float("inf")))


def quick_check(data: CocoDataset) -> None:
    """Look for missing files, and decode a few images spread over the set, in seconds.

    Raises:
        DataError: the reading rules refuse what is found; otherwise it is logged.
    """
    file = data.annotations.path
    missing = [index for index, i in enumerate(data.images) if int(i) in data.missing]
    if data.renamed:
        i, name = next(iter(data.renamed.items()))
        log.warning(
            "%s: %d image files are spelled otherwise on disk, e.g. %r is %r in %s",
            *(file, len(data.renamed), data.annotations.file_name(i), name, data.folder),
        )
    if missing:
        text = (
            f"{file}: {len(missing)} of {len(data)} image files are not in {data.folder}, e.g. {_names(data, missing)}"
        )
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


def _names(data: CocoDataset, missing: list[int]) -> str:
    """Three names without a file, and what they are most like."""
    shown = ", ".join(data.missing[int(data.images[index])] for index in missing[:3])
    listing = FolderListing(data.folder)
    near = listing.nearest(data.annotations.file_name(int(data.images[missing[0]])))
    return f"{shown} (the nearest name there is {near!r})" if near else shown


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
    val_share: float | None = None,
) -> tuple[SplitReport, CocoDataset]:
    """Check one split wholly, decoding every image. Refused kinds are reported, not raised.

    With `val_share`, "train" and "val" are what a training makes of one file; the defects of its entries are those of
    "train".

    Raises DataError only where nothing can be read at all (no file, no JSON, no classes).
    """
    whole = val_share is not None
    paths = find_split(
        *(root, "train" if whole else split),
        annotations=annotations,
        images=images,
        follow_links=follow_links,
        unsplit=whole,
    )
    rules = (policy or DefectPolicy()).report_only()
    found = load_annotations(
        paths.annotations,
        policy=rules,
        split=paths.split,
        keep_defects=1_000_000,
        measure=paths.measure,
        boxes_required=False,
    )
    entries = found.log if split == "train" or not whole else DefectLog()
    if val_share is not None:
        held = held_back(found.file_names(), val_share)
        found = found.select_images(np.flatnonzero(held if split == "val" else ~held))
    data = CocoDataset(found, choose_folder(paths, found.file_names()), boundary=paths.boundary, reading=reading)
    defects, counts = list(entries.defects), Counter(entries.counts)
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
        counts={kind: counts[kind] for kind in (*KINDS, "implausible", "missing_file", "bad_image") if counts[kind]},
        notes=[*entries.remarks(), *_notes(data)],
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


def _notes(data: CocoDataset) -> list[str]:
    found = data.annotations
    twice = [name for name, count in Counter(found.file_names()).items() if count > 1]
    notes = [f"{len(twice)} file names are used by several images, e.g. {twice[0]!r}"] if twice else []
    repeated = [name for name, count in Counter(found.categories.names).items() if count > 1]
    notes += [f"several categories are called {name!r}" for name in repeated]
    notes += [f"{len(data.renamed)} image files are spelled otherwise on disk"] if data.renamed else []
    return notes + class_remarks(found) + crowding_remarks(found)


def counted(data: CocoDataset) -> str:
    """Say how many images, boxes and classes there are."""
    found = data.annotations
    return (
        f"{len(data)} of {len(found)} images, {found.usable.sum()} usable boxes, {found.crowd.sum()} crowd regions, "
        f"{len(found.categories.ids)} classes ({found.path})"
    )


def class_remarks(found: CocoAnnotations) -> list[str]:
    """Say which classes have no box."""
    empty = [name for name, n in zip(found.categories.names, found.boxes_per_class(), strict=True) if not n]
    if not empty or not found.has_boxes:
        return []
    shown = ", ".join(empty[:10]) + (", …" if len(empty) > 10 else "")
    return [f"{len(empty)} of {len(found.categories.names)} classes have no box: {shown}"]


def crowding_remarks(found: CocoAnnotations, max_detections: int = COCO_DETECTIONS) -> list[str]:
    """Say whether images have more objects than an evaluation looks at."""
    counts = np.diff(found.start)
    if not len(counts) or counts.max() <= max_detections:
        return []
    return [
        f"{(counts > max_detections).sum()} images have more than {max_detections} objects (up to {counts.max()}), but "
        f"{max_detections} detections count: raise data.max_detections, and the detector's max_detections"
    ]


def split_remarks(train: CocoDataset, val: CocoDataset) -> list[str]:
    """Say in what a validation set cannot tell what it is there for: no boxes, or images that are trained on."""
    remarks = []
    if not val.annotations.has_boxes:
        remarks.append(
            f"{val.annotations.path} has no box to be found: AP cannot be measured, and best.ckpt is the newest weights"
        )
    shared = shared_images(train, val)
    if shared:
        whole = "all" if len(shared) == len(val) else str(len(shared))
        remarks.append(
            f"{whole} of {len(val)} validation images are trained on too, e.g. {shared[0]}: AP will be too good. "
            "Hold others back with data.val_share=0.1"
        )
    return remarks


def shared_images(train: CocoDataset, val: CocoDataset) -> list[str]:
    """Return the files of `val` that are files of `train` too."""
    files = [
        {str(Path(os.path.realpath(data.folder), data.file_name(int(i)))) for i in data.images} for data in (train, val)
    ]
    return sorted(files[0] & files[1])

"""What of a file is not trained on: images held back for validation, and categories that only name a group."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ifpn.data.coco.annotations import CocoAnnotations
from ifpn.data.coco.defects import DataError

log = logging.getLogger(__name__)


def held_back(names: Sequence[str], share: float) -> NDArray[np.bool_]:
    """Return which images are for validation: the share with the smallest hashes of their names, (I,) bool.

    At least one image, and all but one at most.

    Raises:
        DataError: a share of a single image.
    """
    if not share:
        return np.zeros(len(names), np.bool_)
    if len(names) < 2:
        raise DataError(f"data.val_share={share:g}: must be 0 or null for a single image, which cannot be shared")
    hashes = (hashlib.sha256(name.encode()).digest() for name in names)
    order = np.array([int.from_bytes(digest[:8], "big") for digest in hashes], np.uint64)
    count = min(max(1, round(share * len(order))), len(order) - 1)
    held: NDArray[np.bool_] = order <= np.sort(order)[count - 1]
    return held


def empty_groups(train: CocoAnnotations, val: CocoAnnotations | None) -> list[int]:
    """Return the ids of categories that are only the name of a group and have no box in either file; log each."""
    empty = [i for i in train.parents if val is None or i in val.parents or i not in val.categories.ids]
    for number, name in zip(train.categories.ids, train.categories.names, strict=True):
        if number in empty:
            log.warning(
                "%s: category %d %r is left out: it is only the name of the group of the others, and has no box",
                *(train.path, number, name),
            )
    return empty


def left_out(found: CocoAnnotations) -> str:
    """Say with counts why boxes are not trained on; empty if there is nothing to say."""
    crowd = int(found.crowd.sum())
    reasons = [f"{crowd} x crowd regions (iscrowd 1)"] * bool(crowd) + [found.log.reasons()] * bool(found.log.counts)
    return f". Left out: {'; '.join(reasons)}" if reasons else ""

"""What can be wrong in an annotation file, and what is done about each kind of defect."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from ifpn.errors import UserError

Action = Literal["fix", "drop", "refuse"]


class DataError(UserError):
    """A data set that cannot be used as it is; the message names the file, the place and the remedy."""


@dataclass(frozen=True)
class DefectPolicy:
    """What to do with each kind of defect: "fix", "drop" (leave it out and count it) or "refuse" (stop,
    listing them).

    Only `partly_outside` can be fixed (the box is clipped to the picture). A defect in an image entry drops
    the image with its boxes. `strict` refuses every kind. `max_dropped` is the share of all boxes that may
    be dropped: above it (and above 10 boxes) the file is refused, for then it is probably not what it seems,
    e.g. boxes stored as corners and not as x, y, width, height.
    """

    partly_outside: str = "fix"  # box reaches over the picture's edge by more than TOLERANCE pixels
    outside: str = "drop"  # box lies wholly outside the picture
    zero_area: str = "drop"  # width or height is exactly 0
    negative_size: str = "drop"  # width or height below 0
    too_small: str = "drop"  # width or height at most 1 pixel inside the picture: detectors cannot use it
    not_finite: str = "drop"  # NaN or infinity
    malformed_box: str = "drop"  # not a list of four numbers
    malformed_annotation: str = (
        "drop"  # not an object, a key missing, an id that is no whole number, iscrowd not 0 or 1
    )
    unknown_image: str = "drop"  # image_id of no image
    unknown_category: str = "drop"  # category_id of no category
    duplicate_annotation: str = "drop"  # id seen before: the first one stays
    malformed_image: str = "refuse"  # not an object, a key missing or of the wrong type, a size below 1
    duplicate_image: str = "refuse"  # id seen before: the first one stays
    unsafe_path: str = "refuse"  # file name that leaves the folder or that no file system can hold
    strict: bool = False
    max_dropped: float = 0.05

    def __post_init__(self) -> None:
        for kind in KINDS:
            allowed = ("fix", "drop", "refuse") if kind == "partly_outside" else ("drop", "refuse")
            value = getattr(self, kind)
            if value not in allowed:
                raise ValueError(f"data.policy.{kind}={value!r}: allowed are {', '.join(allowed)}")
        if not 0 <= self.max_dropped <= 1:
            raise ValueError(f"data.policy.max_dropped={self.max_dropped}: allowed is a share from 0 to 1")

    def action(self, kind: str) -> str:
        """What to do with a defect of this kind."""
        return "refuse" if self.strict else str(getattr(self, kind))


KINDS = tuple(f.name for f in fields(DefectPolicy) if f.type == "str")

# ours: the rounding of other tools' exports puts edges up to a pixel outside; that much is clipped silently
TOLERANCE = 1.0


@dataclass(frozen=True)
class Defect:
    """One defect: what kind, where (ids as written in the file, None where there is none), and in words."""

    kind: str
    image_id: int | str | None
    annotation_id: int | str | None
    detail: str

    def __str__(self) -> str:
        where = [f"image {self.image_id}"] if self.image_id is not None else []
        where += [f"annotation {self.annotation_id}"] if self.annotation_id is not None else []
        return f"{self.kind}: {', '.join(where)}{': ' if where else ''}{self.detail}"


@dataclass
class DefectLog:
    """All defects of one file: exact counts per kind, and the first `keep` of each kind in full."""

    keep: int = 1000
    counts: Counter[str] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)

    def add(self, kind: str, image_id: object, annotation_id: object, detail: str) -> None:
        """Record one defect; ids are shortened to what a report can show."""
        self.counts[kind] += 1
        if self.counts[kind] <= self.keep:
            self.defects.append(Defect(kind, _shown(image_id), _shown(annotation_id), detail))

    def refuse(self, path: object, policy: DefectPolicy, num_annotations: int) -> None:
        """Raise DataError if the policy refuses a kind found, or if too many boxes would be dropped."""
        refused = [kind for kind in KINDS if self.counts[kind] and policy.action(kind) == "refuse"]
        if refused:
            examples = [d for kind in refused for d in [d for d in self.defects if d.kind == kind][:3]]
            lines = "\n".join(f"  {d}" for d in examples[:10])
            counts = ", ".join(f"{kind} {self.counts[kind]}" for kind in refused)
            cure = "data.policy.strict=false" if policy.strict else f"data.policy.{refused[0]}=drop"
            raise DataError(
                f"{path}: refused because of {counts}:\n{lines}\n"
                f"Correct the file, or leave these out with {cure} (allowed: drop, refuse)"
            )
        drops = {k: n for k, n in self.counts.items() if k in BOX_KINDS and policy.action(k) == "drop"}
        dropped = sum(drops.values())
        if dropped > max(10, policy.max_dropped * num_annotations):
            worst, number = max(drops.items(), key=lambda item: item[1])
            example = next(d for d in self.defects if d.kind == worst)
            raise DataError(
                f"{path}: {dropped} of {num_annotations} boxes would be dropped, mostly {worst} ({number}), "
                f"e.g. {example}. "
                f"Boxes must be [x, y, width, height] in pixels. If the file is right, allow more with "
                f"data.policy.max_dropped (now {policy.max_dropped:g}, a share from 0 to 1)"
            )


BOX_KINDS = frozenset(KINDS) - {"malformed_image", "duplicate_image", "unsafe_path"}


def report_only(policy: DefectPolicy) -> DefectPolicy:
    """The same policy, but nothing is refused: what a check uses to see everything that is wrong."""
    drops = {kind: "drop" for kind in KINDS if policy.action(kind) == "refuse"}
    return replace(policy, strict=False, max_dropped=1.0, **drops)


def _shown(value: object) -> int | str | None:
    if value is None or (isinstance(value, int) and abs(value) < 2**63):
        return value
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

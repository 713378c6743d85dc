"""What can be wrong in an annotation file, and what is done about each kind of defect."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Annotated

from ifpn.bounds import OneOf, Probability, check
from ifpn.errors import UserError

# What may be done about a kind of defect.
Drop = Annotated[str, OneOf("drop", "refuse")]
Fix = Annotated[str, OneOf("fix", "drop", "refuse")]
Measure = Annotated[str, OneOf("measure", "drop", "refuse")]
GENTLEST = {"partly_outside": "fix", "unsafe_path": "fix", "missing_size": "measure"}  # of all others: drop
BOX_KINDS = (
    *("partly_outside", "outside", "zero_area", "negative_size", "too_small", "not_finite", "malformed_box"),
    *("malformed_annotation", "unknown_image", "unknown_category", "duplicate_annotation"),
)
IMAGE_KINDS = ("missing_size", "malformed_image", "duplicate_image", "unsafe_path")
KINDS = (*BOX_KINDS, *IMAGE_KINDS)
# ours: the rounding of other tools' exports puts edges up to a pixel outside; that much is clipped silently
TOLERANCE = 1.0
FEW = 10  # ours: so many boxes may be dropped of any file, if they are not most of it

_NOTES = {
    "text": "{n} values are text where a number belongs, and were read as that number, e.g. {example}",
    "no_id": "{n} annotations have no id that is a whole number: no box is lost, the ids are not needed",
    "repeated_id": "{n} annotation ids repeat an earlier one, e.g. {example}: no box is lost, the ids are not needed",
    "around": "{n} annotations have no bbox: the box around their polygon or mask was taken",
}
_GEOMETRY = ("outside", "zero_area", "negative_size", "too_small", "not_finite", "malformed_box")


class DataError(UserError):
    """A data set that cannot be used as it is; the message names the file, the place and the remedy."""


@check
@dataclass(frozen=True)
class DefectPolicy:
    """What to do with each kind of defect.

    "drop" leaves it out and counts it, "refuse" stops and lists what was found, "fix" clips a box to the picture or
    takes the relative part of a file name, "measure" reads the size from the image file. A defect in an image entry
    drops the image with its boxes.

    Attributes:
        implausible: "refuse" or "keep" a file whose boxes are probably corners, in 0..1, or of other pictures.
        box_format: what the four numbers of `bbox` are; c: centre, n: shares of the picture's size.
        strict: refuse every kind.
        max_dropped: share of all boxes that may be dropped. More than that and ten boxes, or than that and half of
            them, and the file is refused: it is then probably not what it seems.
    """

    partly_outside: Fix = "fix"  # box reaches over the picture's edge by more than TOLERANCE pixels
    outside: Drop = "drop"  # box lies wholly outside the picture
    zero_area: Drop = "drop"  # width or height is exactly 0
    negative_size: Drop = "drop"  # width or height below 0
    too_small: Drop = "drop"  # width or height at most 1 pixel inside the picture: detectors cannot use it
    not_finite: Drop = "drop"  # NaN or infinity
    malformed_box: Drop = "drop"  # not four numbers
    malformed_annotation: Drop = "drop"  # not an object, no box, an id of no whole number, iscrowd not 0 or 1
    unknown_image: Drop = "drop"  # image_id of no image
    unknown_category: Drop = "drop"  # category_id of no category
    duplicate_annotation: Drop = "drop"  # equal in id, image, class and box to an earlier one
    missing_size: Measure = "measure"  # width or height absent, or not a whole number from 1 on
    malformed_image: Drop = "refuse"  # not an object, no id or file name, or no size and no readable file
    duplicate_image: Drop = "refuse"  # id seen before: the first one stays
    unsafe_path: Fix = "refuse"  # file name that leaves the folder or that no file system can hold
    implausible: Annotated[str, OneOf("refuse", "keep")] = "refuse"
    box_format: Annotated[str, OneOf("xywh", "xyxy", "cxcywh", "xywhn", "xyxyn", "cxcywhn")] = "xywh"
    strict: bool = False
    max_dropped: Probability = 0.05

    def action(self, kind: str) -> str:
        """Return what to do with a defect of this kind."""
        return "refuse" if self.strict else str(getattr(self, kind))

    def report_only(self) -> DefectPolicy:
        """Return the same policy, but nothing is refused: what a check uses to see everything that is wrong."""
        drops = {kind: "drop" for kind in KINDS if self.action(kind) == "refuse"}
        return replace(self, strict=False, max_dropped=1.0, implausible="keep", **drops)


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
    """All defects of one file: exact counts per kind, and the first `keep` of each kind in full.

    `notes` counts what was read although it is unusual, with an example each.
    """

    keep: int = 1000
    counts: Counter[str] = field(default_factory=Counter)
    defects: list[Defect] = field(default_factory=list)
    notes: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, kind: str, image_id: object, annotation_id: object, detail: str) -> None:
        """Record one defect; ids are shortened to what a report can show."""
        self.counts[kind] += 1
        if self.counts[kind] <= self.keep:
            self.defects.append(Defect(kind, _shown(image_id), _shown(annotation_id), detail))

    def note(self, kind: str, example: str = "", times: int = 1) -> None:
        """Count something unusual that was understood."""
        if times:
            seen, first = self.notes.get(kind, (0, example))
            self.notes[kind] = (seen + times, first)

    def remarks(self) -> list[str]:
        """Return a sentence for each kind of note."""
        return [_NOTES[kind].format(n=n, example=example) for kind, (n, example) in self.notes.items()]

    def report(self, policy: DefectPolicy) -> list[str]:
        """Return a line for each kind of defect, with what was done about it, and for each kind of note."""
        counts = {kind: n for kind, n in self.counts.items() if kind != "implausible"}
        counted = [f"{n} x {kind} -> {policy.action(kind)}, e.g. {self.example(kind)}" for kind, n in counts.items()]
        doubts = [defect.detail for defect in self.defects if defect.kind == "implausible"]
        return doubts + counted + self.remarks()

    def example(self, kind: str) -> Defect:
        """Return the first defect of a kind."""
        return next(defect for defect in self.defects if defect.kind == kind)

    def reasons(self) -> str:
        """Return the counts of all kinds with an example of each, as one line; empty if there is none."""
        return "; ".join(f"{count} x {self.example(kind)}" for kind, count in self.counts.most_common())

    def refuse(self, path: object, policy: DefectPolicy, num_annotations: int) -> None:
        """Raise DataError if the policy refuses what was found, or if too many boxes would be dropped."""
        reasons = [self._implausible(policy), self._refused(policy), self._too_many(policy, num_annotations)]
        if any(reasons):
            raise DataError(f"{path}: " + "\n".join(reason for reason in reasons if reason))

    def _implausible(self, policy: DefectPolicy) -> str:
        if not self.counts["implausible"] or policy.action("implausible") == "keep":
            return ""
        cure = "data.policy.implausible=keep" + (" data.policy.strict=false" if policy.strict else "")
        return f"{self.example('implausible').detail}. If the file is right as it is: {cure}"

    def _refused(self, policy: DefectPolicy) -> str:
        refused = [kind for kind in KINDS if self.counts[kind] and policy.action(kind) == "refuse"]
        if not refused:
            return ""
        examples = [d for kind in refused for d in [d for d in self.defects if d.kind == kind][:3]]
        lines = "\n".join(f"  {d}" for d in examples[:10])
        counts = ", ".join(f"{kind} {self.counts[kind]}" for kind in refused)
        cure = "data.policy.strict=false" if policy.strict else f"data.policy.{refused[0]}=drop"
        gentler = GENTLEST.get(refused[0], "drop")
        keep = f"; data.policy.{refused[0]}={gentler} keeps them" if gentler != "drop" and not policy.strict else ""
        return f"refused because of {counts}:\n{lines}\nCorrect the file, or leave these out with {cure}{keep}"

    def _too_many(self, policy: DefectPolicy, num_annotations: int) -> str:
        drops = {k: self.counts[k] for k in BOX_KINDS if self.counts[k] and policy.action(k) == "drop"}
        dropped = sum(drops.values())
        if dropped <= max(min(FEW, num_annotations / 2), policy.max_dropped * num_annotations):
            return ""
        worst = max(drops, key=lambda kind: drops[kind])
        others = "".join(f", {kind} ({number})" for kind, number in drops.items() if kind != worst)
        advice = "Boxes must be [x, y, width, height] in pixels. " if worst in _GEOMETRY else ""
        return (
            f"{dropped} of {num_annotations} boxes would be dropped, mostly {worst} ({drops[worst]}){others}, "
            f"e.g. {self.example(worst)}. {advice}`ifpn check-data` lists them all. "
            + (
                "Correct the file"
                if dropped >= num_annotations
                else "If the file is right, allow more with data.policy.max_dropped (now "
                f"{policy.max_dropped:g}, a share from 0 to 1)"
            )
        )


def _shown(value: object) -> int | str | None:
    if value is None or (isinstance(value, int) and abs(value) < 2**63):
        return value
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

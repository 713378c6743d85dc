"""What COCO's evaluation compares: the checked annotations as ground truth, and one detection."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Union

from ifpn.data.coco.annotations import CocoAnnotations, load_annotations
from ifpn.data.coco.defects import DefectPolicy
from ifpn.errors import UserError

Annotation = dict[str, Any]
# What was read already, the path of an annotation file, its content, or a pycocotools.coco.COCO
Source = Union[str, Path, Mapping[str, Any], CocoAnnotations, "GroundTruth", Any]
log = logging.getLogger(__name__)


class CocoDetection(TypedDict):
    """One entry of a COCO result file: official ids; bbox is [x, y, width, height] in pixels."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


@dataclass(frozen=True)
class GroundTruth:
    """Images, classes and boxes of one data set.

    Attributes:
        image_ids: ids of all images, ascending.
        category_names: {official id: name}, ascending.
        annotations: one dict per box with `id` (1..), `image_id`, `category_id`, `bbox` [x, y, w, h] in pixels, `area`
            (the file's, which for COCO is the mask's) and `iscrowd` (0 or 1).
        sizes: {image id: (width, height)}, (0, 0) where unknown.
        file_names: {image id: file name}, "" where unknown.
        source: where it came from, for messages.
    """

    image_ids: tuple[int, ...]
    category_names: Mapping[int, str]
    annotations: tuple[Annotation, ...]
    sizes: Mapping[int, tuple[int, int]]
    file_names: Mapping[int, str]
    source: str

    @classmethod
    def load(
        cls,
        source: str | Path | Mapping[str, Any] | CocoAnnotations | GroundTruth | Any,
        policy: DefectPolicy | None = None,
    ) -> GroundTruth:
        """Read what training reads, by the same reader: `ifpn.data.load_annotations`.

        Args:
            source: what was read already, the path of a file, its content, or a `pycocotools.coco.COCO`.
            policy: what is done about defects; None: what training does by default, with a warning for each kind.

        Raises:
            UserError: not a COCO annotation file, or one with defects that the policy refuses.
        """
        if isinstance(source, GroundTruth):
            return source
        if not isinstance(source, CocoAnnotations):
            content = source if isinstance(source, str | Path) else getattr(source, "dataset", source)
            if not isinstance(content, str | Path | Mapping):
                raise UserError(
                    f"the given annotations are a {type(content).__name__}: give a COCO file or its content"
                )
            content = Path(content).expanduser() if isinstance(content, str) else content
            policy = DefectPolicy() if policy is None else policy
            source = load_annotations(content, policy=policy, files_needed=False)
            for line in source.log.report(policy):
                log.warning("%s: %s", source.path, line)
        ids = source.image_ids.tolist()
        return cls(
            image_ids=tuple(sorted(ids)),
            category_names=dict(zip(source.categories.ids, source.categories.names, strict=True)),
            annotations=tuple(source.to_coco()["annotations"]),
            sizes={i: (w, h) for i, (w, h) in zip(ids, source.sizes.tolist(), strict=True)},
            file_names=dict(zip(ids, source.file_names(), strict=True)),
            source=str(source.path),
        )

    def subset(self, image_ids: Iterable[int]) -> GroundTruth:
        """Return the same with only the given images."""
        kept = frozenset(image_ids)
        annotations = tuple(a for a in self.annotations if a["image_id"] in kept)
        return replace(self, image_ids=tuple(sorted(kept)), annotations=annotations)

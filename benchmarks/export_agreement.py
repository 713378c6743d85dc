"""Does an exported detector find what PyTorch finds? Box by box, on photographs of two sizes, alone and four at a time.

    python -m benchmarks.export_agreement runs/…/best.ckpt PHOTOS [--images 50] [--evals 2] [--sizes 640x480 400x500]

PyTorch applies G as often as the file does. A detection has its partner where label and place agree; one without a
partner counts as a neighbour where the threshold, the last of the best so many, or the score of a box that it overlaps
lies so close that rounding decides which is returned.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ifpn.necks import EquilibriumNeck
from ifpn.predictor import Predictor, load
from ifpn.solvers import Equilibrium, Picard, Unroll

PIXELS, SCORES = 0.01, 1e-4  # the bars: float32 in another order of summation
NEAR = 1.0  # pixels within which two detections of a class are the same one
Found = Mapping[str, NDArray[np.float32]]


@dataclass
class Agreement:
    """What two sets of detections have in common.

    Attributes:
        pairs: detections with a partner.
        pixels, scores: largest distance of a coordinate, and of a score, over the pairs.
        beyond: pairs outside the bars.
        neighbours: detections without a partner where rounding may decide.
        lost: all others without a partner.
    """

    pairs: int = 0
    pixels: float = 0.0
    scores: float = 0.0
    beyond: int = 0
    neighbours: int = 0
    lost: int = 0

    def add(self, a: Found, b: Found, threshold: float, most: int) -> None:
        """Compare the detections of one image: `boxes` (M, 4), `scores` (M,), `labels` (M,).

        Args:
            a: of one side.
            b: of the other.
            threshold: lowest score that is returned.
            most: detections that are returned at most.
        """
        free = np.ones(len(b["scores"]), dtype=bool)
        alone: list[int] = []
        for i, (box, score, label) in enumerate(zip(a["boxes"], a["scores"], a["labels"], strict=True)):
            apart = np.abs(b["boxes"] - box).max(axis=1, initial=0.0)
            apart[~free | (b["labels"] != label)] = np.inf
            k = int(apart.argmin()) if len(apart) else -1
            if k < 0 or apart[k] > NEAR:
                alone.append(i)
                continue
            free[k] = False
            self.pairs += 1
            difference = abs(float(score) - float(b["scores"][k]))
            self.pixels, self.scores = max(self.pixels, float(apart[k])), max(self.scores, difference)
            self.beyond += apart[k] >= PIXELS or difference >= SCORES
        lowest = min([*a["scores"].tolist(), *b["scores"].tolist()], default=1.0)
        full = min(len(a["scores"]), len(b["scores"])) >= most
        left = np.flatnonzero(free).tolist()
        for one, mine, other, theirs in ((a, alone, b, left), (b, left, a, alone)):
            for i in mine:
                score = float(one["scores"][i])
                near = abs(score - threshold) < SCORES or (full and score - lowest < SCORES)
                near = near or any(_tie(one, i, other, k) for k in theirs)
                self.neighbours, self.lost = self.neighbours + near, self.lost + (not near)

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.pairs} pairs, largest distance {self.pixels:.1e} px, in the score {self.scores:.1e}; {self.beyond} "
            f"beyond {PIXELS} px or {SCORES}; without a partner: {self.neighbours} neighbours, {self.lost} others"
        )


def _tie(a: Found, i: int, b: Found, k: int) -> bool:
    """Whether two overlapping detections of a class have one score: suppression keeps the one or the other."""
    apart = abs(float(a["scores"][i]) - float(b["scores"][k]))
    low, high = np.maximum(a["boxes"][i, :2], b["boxes"][k, :2]), np.minimum(a["boxes"][i, 2:], b["boxes"][k, 2:])
    return bool(apart < SCORES and a["labels"][i] == b["labels"][k] and (low < high).all())


def plainly_iterated(predictor: Predictor, evals: int) -> Predictor:
    """The same detector, whose equilibrium is `evals` applications of G from zero, or from its fitted start."""
    for part in predictor.detector.modules():
        if isinstance(part, EquilibriumNeck):
            part.solver = Equilibrium(Picard(), test_evals=evals, fit_start=1) if part.starts_fitted else Unroll(evals)
    return predictor


def eager(predictor: Predictor, image: Tensor) -> Found:
    """PyTorch's detections of an image (3, H, W) uint8."""
    found = predictor(image, score_threshold=0.0)
    return {name: found[name].numpy() for name in ("boxes", "scores", "labels")}


def exported(file: Predictor, images: Tensor) -> list[Found]:
    """Onnxruntime's detections of images (N, 3, H, W) uint8, in one batch."""
    session = file.detector.session
    boxes, scores, labels, count = session.run(None, {"images": images.numpy()})  # type: ignore[union-attr, operator]
    parts = {"boxes": boxes, "scores": scores, "labels": labels}
    return [{name: part[i, : int(count[i])] for name, part in parts.items()} for i in range(len(count))]


def limits(predictor: Predictor) -> tuple[float, int]:
    """The lowest score that the detector returns, and how many detections at most."""
    parts = predictor.detector
    post = getattr(parts, "postprocess", None)
    if post is not None:
        return float(post.score_threshold), int(post.max_detections)
    heads = parts.get_submodule("roi_heads")
    return float(heads.score_thresh), int(heads.detections_per_img)  # type: ignore[arg-type]


def photographs(folder: Path, count: int, size: tuple[int, int]) -> Tensor:
    """The first photographs of a folder at one size (width, height): (N, 3, H, W) uint8."""
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    arrays = [np.asarray(Image.open(file).convert("RGB").resize(size)) for file in files]
    return torch.from_numpy(np.stack(arrays).transpose(0, 3, 1, 2).copy())


def main() -> None:
    """Compare, one line per size and batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt")
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--evals", type=int, default=2)
    parser.add_argument("--sizes", nargs="+", default=["640x480", "400x500"])
    given = parser.parse_args()
    predictor = load(given.ckpt, "cpu")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "detector.onnx"
        solves = any(isinstance(part, EquilibriumNeck) for part in predictor.detector.modules())
        predictor.export(path, test_evals=given.evals if solves else None)
        file = load(path)
        plainly_iterated(predictor, given.evals)
        for size in given.sizes:
            width, height = map(int, size.split("x"))
            images = photographs(given.photos, given.images, (width, height))
            expected = [eager(predictor, image) for image in images]
            for batch in (1, 4):
                agreement = Agreement()
                for start in range(0, len(images), batch):
                    found = exported(file, images[start : start + batch])
                    for a, b in zip(expected[start : start + batch], found, strict=True):
                        agreement.add(a, b, *limits(predictor))
                print(f"{len(images)} photographs of {size}, batch {batch}: {agreement}")


if __name__ == "__main__":
    main()

"""From a checkpoint to boxes in two lines: `detector = ifpn.load("best.ckpt")`, `detector("photo.jpg")`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral, Real
from pathlib import Path
from threading import RLock
from typing import Any, overload

import torch
from torch import Tensor, nn

from ifpn.data.given import OneImage, to_tensor, unit_range
from ifpn.detections import Detections, SolverFacts
from ifpn.detectors.views import Found, detect_views, resized_to
from ifpn.errors import ConfigError
from ifpn.necks import EquilibriumNeck, Stream
from ifpn.runs.hub import on_hub
from ifpn.runs.restore import read_trained, restore_detector

Size = int | Sequence[int] | None


class Predictor:
    """A detector in evaluation mode with the names of its classes.

    Args:
        detector: torchvision's contract: a list of images (3, H, W) in 0..1 to a list of `boxes`, `scores`, `labels`.
        class_names, category_ids: by label 0..K-1.
        config: what it was trained with.
        device: where it computes.
        score_threshold: detections below are left out; a call may ask for another.
        size: shorter side in pixels that images are resized to; several: each of them is looked at, and what is found
            is merged by class-wise NMS; None: as trained.
        flip: whether mirror images are looked at, too, and merged in the same way.

    Attributes:
        detector, class_names, category_ids, config, device, score_threshold, flip: as given.
        sizes: those that were given, one or several.
    """

    def __init__(
        self,
        detector: nn.Module,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        config: dict[str, Any],
        device: torch.device,
        score_threshold: float = 0.0,
        size: Size = None,
        flip: bool = False,
    ) -> None:
        self.detector = detector.to(device).eval()
        self._necks = [part for part in self.detector.modules() if isinstance(part, EquilibriumNeck)]
        for neck in self._necks:
            neck.fold_weights = True
        self.class_names = list(class_names)
        self.category_ids = list(category_ids)
        self.config = config
        self.device = device
        self.score_threshold = _checked_threshold(score_threshold)
        self.sizes, self.flip = self._views(size), flip
        self._turn = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_turn"}  # a lock cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _turn=RLock())

    @overload
    def __call__(
        self,
        images: OneImage,
        *,
        score_threshold: float | None = ...,
        size: Size = ...,
        flip: bool | None = ...,
        bgr: bool = ...,
    ) -> Detections: ...
    @overload
    def __call__(
        self,
        images: list[OneImage] | tuple[OneImage, ...],
        *,
        score_threshold: float | None = ...,
        size: Size = ...,
        flip: bool | None = ...,
        bgr: bool = ...,
    ) -> list[Detections]: ...
    @torch.no_grad()
    def __call__(
        self,
        images: OneImage | list[OneImage] | tuple[OneImage, ...],
        *,
        score_threshold: float | None = None,
        size: Size = None,
        flip: bool | None = None,
        bgr: bool = False,
    ) -> Detections | list[Detections]:
        """Boxes of one image, or of each of a list of images, which go through the detector as one batch.

        Several threads may call it; they take turns.

        Args:
            images: a path, the bytes of an image file, a Pillow image, a numpy array (H, W, 3) uint8 in RGB, a tensor
                (3, H, W), uint8 or floating point in 0..1, or a list or tuple of any of these.
            score_threshold: detections below are left out; None: the predictor's.
            size: shorter side in pixels that images are resized to, or several; None: the predictor's.
            flip: whether mirror images are looked at, too; None: the predictor's.
            bgr: arrays have their channels in the order of OpenCV.

        Returns:
            `Detections`, or a list of them, best score first.

        Raises:
            ImageError: another shape or type, or values outside 0..1; the message says what is allowed.
            BadImage: a file that cannot be decoded.
        """
        several = isinstance(images, list | tuple)
        given: Sequence[Any] = images if several else [images]  # type: ignore[assignment]
        tensors = [to_tensor(image, bgr=bgr) for image in given]
        if not tensors:
            return []
        threshold = self.score_threshold if score_threshold is None else _checked_threshold(score_threshold)
        views = self.sizes if size is None else self._views(size), self.flip if flip is None else flip
        found = self._detect([unit_range(image) for image in tensors], *views)
        results = [
            self._result(*one, image, origin, threshold)
            for one, image, origin in zip(found, tensors, given, strict=True)
        ]
        return results if several else results[0]

    def stream(self) -> Stream:
        """Frames of a video, each of which starts its solve from the frame before; see `ifpn.necks.Stream`.

        with predictor.stream() as stream:
            for frame in frames:
                detections = stream(frame)  # .solver.evals: evaluations that this frame needed
        """
        return Stream(self.detector, self)

    def export(
        self,
        path: str | Path,
        *,
        form: str = "onnx",
        test_evals: int | None = None,
        height: int | None = None,
        width: int | None = None,
        batch: int = 1,
        dynamic: bool = True,
    ) -> dict[str, str]:
        """Write the whole detector, from pixels to boxes, as a file for other runtimes; see docs/export.md.

        Args:
            path: the file; images are resized in it to the predictor's size.
            form: `onnx`, `torchscript`, `torch_export` or `openvino`.
            test_evals: applications of G; None: the steps of an unrolled neck; of an equilibrium 2, or 1 if enough.
            height: of the images that the graph is recorded with; None: the shorter side that they are resized to.
            width: the same; None: 4/3 of the height.
            batch: images at a time with `dynamic=False` (Faster R-CNN: always).
            dynamic: images of any size, and batches.

        Returns:
            The metadata of the file.

        Raises:
            ConfigError: a detector or a combination that cannot be exported, or a missing package.
        """
        from ifpn.export import applications, check_exportable, export  # of the extra 'export'

        if getattr(self.detector, "resizes_itself", False):
            raise ConfigError("this detector is an exported file already: export the checkpoint that it was made from.")
        check_exportable(self.detector, form, dynamic)
        facts = {"class_names": self.class_names, "category_ids": self.category_ids}
        facts |= {"score_threshold": self.score_threshold, "data": self.config.get("data")}
        evals = applications(self.detector, test_evals)
        if self.flip or len(self.sizes) > 1:
            raise ConfigError("a file holds one view of an image: load the detector with one size and flip=False.")
        with resized_to(self.detector, self.sizes[0]):
            height = height or int(self.detector.transform.min_size[-1])  # type: ignore[union-attr, index]
            size = {"height": height, "width": width or height * 4 // 3, "batch": batch}
            return export(self.detector, facts, Path(path), form=form, evals=evals, dynamic=dynamic, **size)

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Found]:
        """Return plain detections of images (3, H, W) in 0..1, at the predictor's size and flip, none left out."""
        return [found for found, _ in self._detect(images, self.sizes, self.flip)]

    def _detect(
        self, images: Sequence[Tensor], sizes: Sequence[int | None], flip: bool
    ) -> list[tuple[Found, SolverFacts | None]]:
        """Images of one shape together, so that what the solver says can be told apart."""
        groups: dict[torch.Size, list[int]] = defaultdict(list)
        for number, image in enumerate(images):
            groups[image.shape].append(number)
        results: dict[int, tuple[Found, SolverFacts | None]] = {}
        for members in groups.values():
            with self._turn, _solver_facts(self._necks) as solved:
                found = detect_views(self.detector, [images[i].to(self.device) for i in members], sizes, flip)
            facts: Sequence[SolverFacts | None] = solved or [None] * len(members)
            results |= zip(members, zip(found, facts, strict=True), strict=True)
        return [results[i] for i in range(len(images))]

    def _views(self, size: Size) -> tuple[int | None, ...]:
        """The sizes to look at images in, checked."""
        if size is not None and getattr(self.detector, "resizes_itself", False):
            raise ConfigError(
                f"size={size}: an exported file resizes by itself. Leave size out, or export with another."
            )
        return _checked_sizes(size)

    def _result(
        self, found: Mapping[str, Tensor], facts: SolverFacts | None, image: Tensor, origin: Any, threshold: float
    ) -> Detections:
        boxes, scores, labels = (found[name].cpu() for name in ("boxes", "scores", "labels"))
        pixels = image.clone() if image.dtype == torch.uint8 else (image.float() * 255).round().to(torch.uint8)
        source = Path(origin) if isinstance(origin, str | os.PathLike) else None
        classes = self.class_names, self.category_ids
        result = Detections(boxes, scores, labels, *classes, pixels.cpu(), facts, source)
        kept: Detections = result[scores >= threshold]
        return kept


@contextmanager
def _solver_facts(necks: Sequence[EquilibriumNeck]) -> Iterator[list[SolverFacts]]:
    """A list that is filled when the block ends: the largest residual and all evaluations of each image."""
    calls: list[list[SolverFacts]] = []

    def note(neck: nn.Module, *_: object) -> None:
        assert isinstance(neck, EquilibriumNeck)
        if neck.stats is not None:
            residuals = neck.stats.forward.residual.detach().float().cpu().tolist()
            calls.append([SolverFacts(*facts) for facts in zip(residuals, neck.evals().tolist(), strict=True)])

    hooks = [neck.register_forward_hook(note) for neck in necks]
    facts: list[SolverFacts] = []
    try:
        yield facts
    finally:
        for hook in hooks:
            hook.remove()
    if calls:
        pairs = (zip(*of_image, strict=True) for of_image in zip(*calls, strict=True))
        facts += [SolverFacts(max(residuals), sum(evals)) for residuals, evals in pairs]


def _checked_threshold(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ConfigError(f"score_threshold={value}: must be a number from 0 to 1.")
    return float(value)


def _checked_sizes(value: Size) -> tuple[int | None, ...]:
    several = isinstance(value, Sequence) and not isinstance(value, str)
    sizes: tuple[Any, ...] = tuple(value) if several else (value,)  # type: ignore[arg-type]
    for size in sizes:
        whole = isinstance(size, Integral) and not isinstance(size, bool)
        if size is not None and not (whole and 1 <= size <= 10_000):
            raise ConfigError(f"size={value}: must be a whole number of pixels from 1 to 10000, several, or None.")
    if not sizes:
        raise ConfigError("size=[]: must have at least one size.")
    return tuple(None if size is None else int(size) for size in sizes)


def load(
    path: str | Path,
    device: str | torch.device = "auto",
    *,
    score_threshold: float | None = None,
    size: Size = None,
    flip: bool = False,
) -> Predictor:
    """Load a checkpoint that a run wrote, ready to predict. Loading never executes code from the file.

    Args:
        path: a .ckpt file, the folder `export` of a run (or its model.safetensors), an .onnx file of `ifpn export`, or
            `hf://user/name@revision`, an export on the Hugging Face hub.
        device: `auto` takes a GPU if there is one.
        score_threshold: detections below are left out. None: the score at which the last validation had the highest
            F1, if the file knows it, else 0.
        size: shorter side in pixels that images are resized to, or several (`Predictor`); None: as trained.
        flip: whether mirror images are looked at, too.

    Raises:
        ConfigError: missing, damaged, or foreign file.
    """
    if not on_hub(path):
        path = Path(path).expanduser()
        if path.suffix == ".onnx":
            if device != "auto" and pick_device(device).type != "cpu":
                raise ConfigError(
                    f"device={device}: must be cpu (or auto) for an .onnx file, which runs in onnxruntime."
                )
            return _load_onnx(path, score_threshold, size, flip)
    checkpoint = read_trained(path)
    metadata, detector = checkpoint["ifpn"], restore_detector(checkpoint, path)
    threshold = (metadata.get("score_threshold") or 0.0) if score_threshold is None else score_threshold
    names, ids, config = metadata["class_names"], metadata["category_ids"], metadata["config"]
    return Predictor(detector, names, ids, config, pick_device(device), threshold, size, flip)


def _load_onnx(path: Path, score_threshold: float | None, size: Size, flip: bool) -> Predictor:
    from ifpn.export.runtime import read_onnx  # of the extra 'export'

    detector, facts = read_onnx(path)
    threshold = facts["score_threshold"] if score_threshold is None else score_threshold
    names, ids = facts["class_names"], facts["category_ids"]
    return Predictor(detector, names, ids, {"data": facts["data"]}, torch.device("cpu"), threshold, size, flip)


def pick_device(device: str | torch.device) -> torch.device:
    """`auto` is a GPU if there is one.

    Raises:
        ConfigError: a device that torch does not know, or that is not here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"device={device}: must be auto, cpu, cuda or cuda:N.") from error
    try:
        torch.zeros(1, device=found).item()
    except Exception as error:  # torch has an exception of its own for each kind of device that is missing
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"device={device}: cannot be used here ({reason}). Take device=auto or device=cpu."
        ) from error
    return found

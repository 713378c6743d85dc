"""Write an exported detector in one of the formats, and check the file before it gets its name."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

import ifpn
from ifpn.csc import NASFPNCell
from ifpn.errors import ConfigError
from ifpn.export.graph import ExportedDetector
from ifpn.layers.deform import DeformableConv, ModulatedDeformConv2d
from ifpn.necks import MDEQNeck
from ifpn.necks.implicit import EquilibriumNeck
from ifpn.solvers import Unroll

FACTS = ("class_names", "category_ids", "score_threshold", "data")
OUTPUTS = ("boxes", "scores", "labels", "count")
LAYOUT = "uint8, (batch, 3, height, width), RGB"
LICENCE = (
    "Weights: as their training data and the backbone's weights allow; ifpn itself is Apache 2.0. "
    "Fill in the licence of your data before you pass this file on."
)
OPSET = 17


def export(
    detector: nn.Module,
    facts: Mapping[str, Any],
    path: Path,
    *,
    form: str,
    evals: int,
    height: int,
    width: int,
    batch: int,
    dynamic: bool,
) -> dict[str, str]:
    """Write `path` and return the metadata that it carries.

    Args:
        detector: a loaded detector; it is left as it is, the file has a copy on the CPU.
        facts: `class_names`, `category_ids`, `score_threshold`, and `data`, the node of the data set or None.
        path: the file to write.
        form: one of `FORMATS`.
        evals: applications of G of an equilibrium neck; ignored by others.
        height: of the images that the graph is recorded with, in pixels.
        width: the same.
        batch: images at a time.
        dynamic: whether the file takes images of any size (and any batch, but for Faster R-CNN).

    Raises:
        ConfigError: a detector or a combination that cannot be exported, or a missing package.
    """
    check_exportable(detector, form, dynamic)
    for name, value, most in (("height", height, 4096), ("width", width, 4096), ("batch", batch, 64)):
        check_whole(name, value, most, optional=False)
    if form == "onnx" and path.suffix != ".onnx":
        raise ConfigError(f"{path}: a file of format=onnx must end in .onnx, by which ifpn.load knows it again.")
    graph = ExportedDetector(detector, evals)
    example = torch.randint(
        0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    metadata = describe(detector, facts, evals, example, dynamic)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A format may need several files; none gets its name before all are written.
    with TemporaryDirectory(dir=path.parent, prefix=".export") as folder:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about Python values that are constants on purpose
            FORMATS[form](graph, example, Path(folder) / path.name, dynamic, metadata)
        for file in Path(folder).iterdir():
            file.replace(path.parent / file.name)
    return metadata


def check_exportable(detector: nn.Module, form: str, dynamic: bool) -> None:
    """Refuse what no format can hold.

    Raises:
        ConfigError: the reason, and what can be done.
    """
    if form not in FORMATS:
        raise ConfigError(f"format={form}: must be one of {', '.join(FORMATS)}.")
    if any(isinstance(part, DeformableConv | ModulatedDeformConv2d) for part in detector.modules()):
        raise ConfigError("a detector with deformable convolutions cannot be exported: no format has the operation.")
    if any(isinstance(part, MDEQNeck) for part in detector.modules()):
        raise ConfigError("neck=mdeq cannot be exported: must be implicit, unroll, stack, fpn, pafpn or none.")
    if (dynamic or form == "torchscript") and any(_pools_by_size(part) for part in detector.modules()):
        raise ConfigError(
            "csc=nasfpn with csc.attention=mm: must be exported with dynamic=false, nor as torchscript, which takes "
            "any size: its pooling windows depend on the size of the image."
        )
    if form == "torch_export" and dynamic:
        raise ConfigError(
            "format=torch_export dynamic=true: must be dynamic=false; onnx and torchscript take any size."
        )


def _pools_by_size(part: nn.Module) -> bool:
    return isinstance(part, NASFPNCell) and part.attention == "mm"


def describe(
    detector: nn.Module, facts: Mapping[str, Any], evals: int, example: Tensor, dynamic: bool
) -> dict[str, str]:
    """What a reader of the file needs to know, as texts."""
    neck = next((m for m in detector.modules() if isinstance(m, EquilibriumNeck)), None)
    return {
        "ifpn": ifpn.__version__,
        **{name: json.dumps(facts.get(name), default=str) for name in FACTS},
        "input": LAYOUT,
        "size": json.dumps({"recorded": list(example.shape), "dynamic": dynamic}),
        "evals": json.dumps(None if neck is None else evals),
        "licence": LICENCE,
    }


def applications(detector: nn.Module, asked: int | None) -> int:
    """Applications of G in the file: as asked, else the unrolled steps; of an equilibrium 2, or 1 where it is enough.

    Raises:
        ConfigError: a number for a neck that solves nothing, or that has its own.
    """
    check_whole("test_evals", asked, 100)
    neck = next((m for m in detector.modules() if isinstance(m, EquilibriumNeck)), None)
    if neck is None:
        if asked is not None:
            raise ConfigError(f"test_evals={asked}: this detector's neck solves no fixed point; leave it out.")
        return 0
    if isinstance(neck.solver, Unroll):
        if asked not in (None, neck.solver.steps):
            raise ConfigError(
                f"test_evals={asked}: must be {neck.solver.steps}, the steps that this neck was unrolled for."
            )
        return neck.solver.steps
    return (1 if neck.one_is_enough else 2) if asked is None else asked


def check_whole(name: str, value: object, most: int, *, optional: bool = True) -> None:
    """Refuse what is no whole number from 1 to `most`; None passes where it is `optional`.

    Raises:
        ConfigError: it is none.
    """
    if not (value is None and optional) and (
        isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most
    ):
        raise ConfigError(f"{name}={value}: must be a whole number from 1 to {most}.")


def needed(package: str, extra: str = "export") -> Any:
    """Import a package of an extra.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs the package {package}: pip install 'ifpn[{extra}]'.") from error


def _onnx(graph: ExportedDetector, example: Tensor, path: Path, dynamic: bool, metadata: Mapping[str, str]) -> None:
    onnx = needed("onnx")
    needed("onnxruntime")
    axes = {"images": {0: "batch", 2: "height", 3: "width"}, **{name: {0: "batch"} for name in OUTPUTS}}
    torch.onnx.export(
        graph,
        (example,),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["images"],
        output_names=list(OUTPUTS),
        dynamic_axes=axes if dynamic else None,
    )
    model = onnx.load(str(path))
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def _torchscript(
    graph: ExportedDetector, example: Tensor, path: Path, dynamic: bool, metadata: Mapping[str, str]
) -> None:
    del dynamic  # a trace takes any size
    traced = torch.jit.trace(graph, (example,), check_trace=False)  # type: ignore[no-untyped-call]
    torch.jit.save(traced, str(path), _extra_files={"metadata.json": json.dumps(dict(metadata)).encode()})


def _torch_export(
    graph: ExportedDetector, example: Tensor, path: Path, dynamic: bool, metadata: Mapping[str, str]
) -> None:
    del dynamic  # refused before
    program = torch.export.export(graph, (example,), strict=False)
    torch.export.save(program, str(path), extra_files={"metadata.json": json.dumps(dict(metadata))})


def _openvino(graph: ExportedDetector, example: Tensor, path: Path, dynamic: bool, metadata: Mapping[str, str]) -> None:
    openvino = needed("openvino", "openvino")
    if path.suffix != ".xml":
        raise ConfigError(f"out={path.name}: must end in .xml; the weights are written beside it, in .bin.")
    with TemporaryDirectory() as folder:
        _onnx(graph, example, Path(folder) / "detector.onnx", dynamic, metadata)
        model = openvino.convert_model(str(Path(folder) / "detector.onnx"))
        for name, text in metadata.items():
            model.set_rt_info(text, ["ifpn", name])
        openvino.save_model(model, str(path), compress_to_fp16=False)


Writer = Callable[[ExportedDetector, Tensor, Path, bool, Mapping[str, str]], None]
FORMATS: dict[str, Writer] = {
    "onnx": _onnx,
    "torchscript": _torchscript,
    "torch_export": _torch_export,
    "openvino": _openvino,
}
SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "torch_export": ".pt2", "openvino": ".xml"}

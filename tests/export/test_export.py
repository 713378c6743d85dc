"""An exported file finds what the detector finds, at sizes and batches that it was not recorded with."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from benchmarks.export_agreement import Agreement, eager, limits
from benchmarks.export_agreement import plainly_iterated as iterated
from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.errors import ConfigError
from ifpn.export import export
from ifpn.export.write import applications, check_exportable
from ifpn.predictor import Predictor, load
from ifpn.training.solver_state import equilibrium_neck
from tests.processes import in_processes

pytestmark = pytest.mark.slow
SMALL = (
    "backbone=resnet18",
    "backbone.weights=none",
    "image.min_size=[64]",
    "image.max_size=112",
    "neck.out_channels=16",
)


def detector(*overrides: str) -> Predictor:
    """A random detector of three classes that finds dozens of boxes in noise."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=[*SMALL, "run_dir=x", *overrides])
    resolved = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(resolved, DictConfig)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built = build_detector(resolved, 3).eval()
    predictor = Predictor(built, ["a", "b", "c"], [1, 5, 7], {"data": None}, torch.device("cpu"))
    classifiers = [part for name, part in built.named_modules() if name.endswith((".cls", "cls_score", "cls_logits"))]
    for std in (0.5, 8.0, 128.0, 8000.0):  # as large as the features of this detector need it
        for part in classifiers:
            if isinstance(part, nn.Conv2d | nn.Linear):
                nn.init.normal_(part.weight, std=std)
        if len(predictor(noise(1, 72, 96)[0])) > 20:
            break
    return predictor


def noise(count: int, height: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(height + width)
    return [torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator) for _ in range(count)]


def written(predictor: Predictor, path: Path, form: str = "onnx", *, dynamic: bool = True, batch: int = 1) -> Path:
    facts = {"class_names": predictor.class_names, "category_ids": predictor.category_ids, "score_threshold": 0.0}
    kind = {"form": form, "evals": 2, "height": 72, "width": 96, "batch": batch, "dynamic": dynamic}
    export(predictor.detector, facts, path, **kind)  # type: ignore[arg-type]
    return path


def assert_same(found: list[np.ndarray], predictor: Predictor, images: list[Tensor]) -> None:
    """Every image's detections are eager mode's; neighbours of the threshold and ties may differ, two at most."""
    agreement = Agreement()
    for i, image in enumerate(images):
        count = int(found[3][i])
        parts = {name: part[i, :count] for name, part in zip(("boxes", "scores", "labels"), found, strict=False)}
        agreement.add(eager(predictor, image), parts, *limits(predictor))
    assert agreement.pairs > 5 * len(images)
    assert agreement.beyond == agreement.lost == 0, agreement
    assert agreement.neighbours <= 2


def test_the_comparison_sees_what_is_not_the_same() -> None:
    """Else nothing below would prove anything."""
    boxes = np.array([[0, 0, 9, 9], [20, 20, 30, 30], [50, 50, 60, 60]], dtype=np.float32)
    a = {"boxes": boxes, "scores": np.array([0.9, 0.8, 0.05005], np.float32), "labels": np.array([0, 1, 1])}
    for b, expected in (
        (a, {"pairs": 3}),
        ({**a, "boxes": boxes + 0.02}, {"pairs": 3, "beyond": 3}),
        ({**a, "scores": a["scores"] + 0.01}, {"pairs": 3, "beyond": 3}),
        ({**a, "labels": np.array([1, 1, 1])}, {"pairs": 2, "lost": 2}),
        ({name: part[:2] for name, part in a.items()}, {"pairs": 2, "neighbours": 1}),
        ({name: part[1:] for name, part in a.items()}, {"pairs": 2, "lost": 1}),
        ({name: part[:0] for name, part in a.items()}, {"neighbours": 1, "lost": 2}),
    ):
        agreement = Agreement()
        agreement.add(a, b, threshold=0.05, most=100)
        counts = {name: getattr(agreement, name) for name in ("pairs", "beyond", "neighbours", "lost")}
        assert {name: count for name, count in counts.items() if count} == expected


@pytest.mark.parametrize(
    "overrides",
    [
        ("detector=autoassign", "neck=implicit", "csc=pyramid", "stabilise=true"),
        ("detector=atss", "neck=fpn"),
        ("detector=retina", "neck=stack", "csc=dense", "neck.repeats=1", "neck.inject=true", "stabilise=true"),
        ("detector=faster_rcnn", "neck=implicit", "csc=none", "stabilise=true"),
        ("detector=autoassign", "neck=implicit", "csc=bifpn", "stabilise=true"),
        ("detector=autoassign", "neck=implicit", "csc=nasfpn", "stabilise=true"),
    ],
    ids=" ".join,
)
def test_onnx_files_take_any_size(overrides: tuple[str, ...], tmp_path: Path) -> None:
    predictor = iterated(detector(*overrides), 2)
    file = load(written(predictor, tmp_path / "model.onnx"), score_threshold=0.0)
    session = file.detector.session  # type: ignore[union-attr]
    batch = 1 if "faster_rcnn" in overrides[0] else 2
    for height, width in ((72, 96), (90, 53), (61, 150)):
        images = noise(batch, height, width)
        assert_same(session.run(None, {"images": torch.stack(images).numpy()}), predictor, images)
    assert file.class_names == predictor.class_names
    assert file.category_ids == [1, 5, 7]
    alone = file(images[0])
    assert len(alone) == len(predictor(images[0], score_threshold=0.0))


@pytest.mark.parametrize(
    "overrides",
    [
        ("detector=fcos", "neck=implicit", "csc=bifpn", "stabilise=true"),
        ("detector=autoassign", "neck=implicit", "csc=nasfpn", "csc.attention=mm", "stabilise=true"),
    ],
    ids=" ".join,
)
def test_onnx_files_of_one_size(overrides: tuple[str, ...], tmp_path: Path) -> None:
    predictor = iterated(detector(*overrides), 2)
    file = load(written(predictor, tmp_path / "model.onnx", dynamic=False, batch=2), score_threshold=0.0)
    images = noise(2, 72, 96)
    found = file.detector.session.run(None, {"images": torch.stack(images).numpy()})  # type: ignore[union-attr]
    assert_same(found, predictor, images)
    with pytest.raises(ConfigError, match="takes 96 x 72 only"):
        file(noise(1, 80, 80)[0])


def test_a_fitted_start_is_in_the_file(tmp_path: Path) -> None:
    predictor = detector("detector=autoassign", "neck=implicit", "stabilise=true", "solver=fast")
    neck = equilibrium_neck(predictor.detector)
    assert neck is not None
    with neck.fitting_start():
        for seed in range(6):
            predictor(noise(1, 72 + seed, 96)[0])
    assert neck.starts_fitted
    predictor = iterated(predictor, 2)
    file = load(written(predictor, tmp_path / "model.onnx"), score_threshold=0.0)
    for height, width in ((72, 96), (90, 53)):
        images = noise(2, height, width)
        found = file.detector.session.run(None, {"images": torch.stack(images).numpy()})  # type: ignore[union-attr]
        assert_same(found, predictor, images)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")  # torch means to drop the format; users have it
def test_torchscript_and_torch_export_hold_the_same(tmp_path: Path) -> None:
    predictor = iterated(detector("detector=autoassign", "neck=implicit", "stabilise=true"), 2)
    script = torch.jit.load(str(written(predictor, tmp_path / "model.pt", "torchscript")))
    images = noise(2, 90, 53)
    assert_same([part.numpy() for part in script(torch.stack(images))], predictor, images)
    # After torch.export a process that has trained cannot fork any more, as other tests do: so in one of its own.
    assert in_processes(_torch_export_holds_the_same, 1, tmp_path) == [0]


def _torch_export_holds_the_same(_: int, folder: Path) -> None:
    predictor = iterated(detector("detector=autoassign", "neck=implicit", "stabilise=true"), 2)
    program = torch.export.load(written(predictor, folder / "model.pt2", "torch_export", dynamic=False))
    images = noise(1, 72, 96)
    assert_same([part.numpy() for part in program.module()(torch.stack(images))], predictor, images)


def test_the_detector_is_left_as_it_was(tmp_path: Path) -> None:
    predictor = iterated(detector("detector=atss", "neck=implicit", "stabilise=true"), 2)
    before = {name: value.clone() for name, value in predictor.detector.state_dict().items()}
    image = noise(1, 72, 96)[0]
    found = predictor(image).boxes
    written(predictor, tmp_path / "model.onnx")
    after = predictor.detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(predictor(image).boxes, found)
    assert [f.name for f in tmp_path.iterdir()] == ["model.onnx"]


def test_what_cannot_be_exported_is_refused() -> None:
    with pytest.raises(ConfigError, match="deformable"):
        check_exportable(detector("detector=atss", "neck=implicit", "csc.deform=true").detector, "onnx", True)
    with pytest.raises(ConfigError, match="neck=mdeq"):
        check_exportable(detector("detector=atss", "neck=mdeq").detector, "onnx", True)
    fpn = detector("detector=atss", "neck=fpn").detector
    with pytest.raises(ConfigError, match="format=tflite: must be one of onnx"):
        check_exportable(fpn, "tflite", True)
    with pytest.raises(ConfigError, match="dynamic=false"):
        check_exportable(fpn, "torch_export", True)
    pooling = detector("detector=atss", "neck=implicit", "csc=nasfpn", "csc.attention=mm").detector
    for form, dynamic in (("onnx", True), ("torchscript", True), ("torchscript", False)):
        with pytest.raises(ConfigError, match=r"csc\.attention=mm: must be exported with dynamic=false"):
            check_exportable(pooling, form, dynamic)
    check_exportable(pooling, "onnx", False)
    with pytest.raises(ConfigError, match="solves no fixed point"):
        applications(fpn, 3)
    unrolled = iterated(detector("detector=atss", "neck=implicit"), 4).detector
    assert applications(unrolled, None) == 4
    with pytest.raises(ConfigError, match="must be 4"):
        applications(unrolled, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"test_evals": 0}, "test_evals=0: must be a whole number from 1"),
        ({"test_evals": -1}, "test_evals=-1: must be"),
        ({"height": -5, "width": 9}, "height=-5: must be"),
        ({"batch": 0}, "batch=0: must be"),
    ],
)
def test_numbers_that_make_no_file_are_refused(settings: dict[str, int], message: str, tmp_path: Path) -> None:
    predictor = detector("detector=atss", "neck=implicit", "stabilise=true")
    with pytest.raises(ConfigError, match=message):
        predictor.export(tmp_path / "a.onnx", **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"must end in \.onnx"):
        predictor.export(tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_a_file_takes_no_other_size_and_is_no_source_of_another_file(tmp_path: Path) -> None:
    file = load(written(detector("detector=atss", "neck=fpn"), tmp_path / "model.onnx"))
    with pytest.raises(ConfigError, match="size=64: an exported file resizes by itself"):
        file(noise(1, 72, 96)[0], size=64)
    with pytest.raises(ConfigError, match="is an exported file already"):
        file.export(tmp_path / "again.onnx")
    with pytest.raises(ConfigError, match="device="):
        load(tmp_path / "model.onnx", "cuda")


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra 'export'")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x08" * 50)
    with pytest.raises(ConfigError, match="cannot be read by onnxruntime"):
        load(tmp_path / "broken.onnx")
    with pytest.raises(ConfigError, match="there is no such file"):
        load(tmp_path / "none.onnx")
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = [value("x", 1, [1])], [value("y", 1, [1])]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", *ends), ir_version=9)
    model.opset_import[0].version = 17
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(ConfigError, match="is no detector that ifpn exported"):
        load(tmp_path / "foreign.onnx")


def test_metadata_of_strangers_is_not_believed(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="the extra 'export'")
    path = written(iterated(detector("detector=atss", "neck=none"), 2), tmp_path / "model.onnx")
    model = onnx.load(path)
    told = {entry.key: entry.value for entry in model.metadata_props}
    for changes in ({"class_names": "[1, 2]"}, {"category_ids": "[1]"}, {"data": "["}, {"class_names": "{}"}):
        onnx.helper.set_model_props(model, {**told, **changes})
        onnx.save(model, tmp_path / "changed.onnx")
        with pytest.raises(ConfigError, match="metadata"):
            load(tmp_path / "changed.onnx")
    assert json.loads(told["evals"]) is None


def test_openvino_holds_the_same(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino'")
    predictor = iterated(detector("detector=autoassign", "neck=implicit", "stabilise=true"), 2)
    path = written(predictor, tmp_path / "model.xml", "openvino")
    assert {file.name for file in tmp_path.iterdir()} == {"model.xml", "model.bin"}
    assert '"c"' in openvino.Core().read_model(path).get_rt_info(["ifpn", "class_names"]).value
    model = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images = noise(2, 90, 53)
    found = model(torch.stack(images).numpy())
    assert_same([found[i] for i in range(4)], predictor, images)


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = detector("detector=atss", "neck=fpn")
    for form, package, extra in (("onnx", "onnx", "export"), ("openvino", "openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]  # what makes an import fail
        with pytest.raises(ConfigError, match=rf"package {package}: pip install 'ifpn\[{extra}\]'"):
            predictor.export(tmp_path / "model.onnx", form=form)
        assert not list(tmp_path.iterdir())

"""The numbers are COCO's: compared with pycocotools called by hand, and with what must be true."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from ifpn.data import DefectPolicy
from ifpn.evaluation import SUMMARY_NAMES, CocoEvaluator, GroundTruth
from tests.evaluation.cases import random_case

ENGINES = ["pycocotools", "faster-coco-eval"]


def by_hand(truth, found) -> COCOeval:
    """pycocotools as its own demo uses it."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(truth)
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def category_ids(truth) -> list[int]:
    return [c["id"] for c in truth["categories"]]


def fed(evaluator: CocoEvaluator, found) -> CocoEvaluator:
    """Detections of every image, through tensors as a detector gives them (float64, to compare exactly)."""
    labels = {category_id: label for label, category_id in enumerate(evaluator.category_ids)}
    for image_id in evaluator.image_ids:
        mine = [f for f in found if f["image_id"] == image_id]
        boxes = torch.tensor([f["bbox"] for f in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        scores = torch.tensor([f["score"] for f in mine], dtype=torch.float64)
        evaluator.update(
            [image_id],
            [
                {
                    "boxes": boxes,
                    "scores": scores,
                    "labels": torch.tensor([labels[f["category_id"]] for f in mine]).long(),
                }
            ],
        )
    return evaluator


def engine_or_skip(engine: str) -> str:
    if engine == "faster-coco-eval":
        pytest.importorskip("faster_coco_eval", reason="optional package")
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(12))
def test_twelve_numbers_and_curves_equal_pycocotools(seed: int, engine: str) -> None:
    crowded = seed >= 9  # more than 100 detections of an image and class
    truth, found = random_case(
        seed, images=2 if crowded else 6, classes=1 if crowded else 4, most=140 if crowded else 10
    )
    reference = by_hand(truth, found)
    evaluator = fed(CocoEvaluator(truth, category_ids(truth), engine_or_skip(engine)), found)
    result = evaluator.compute()
    # 1e-9: the same sums, in another order in the C++ engine; x2 - x1 of float64 boxes costs another 1e-16
    np.testing.assert_allclose([result.summary[n] for n in SUMMARY_NAMES], reference.stats, rtol=0, atol=1e-9)
    np.testing.assert_allclose(result.precision, reference.eval["precision"][:, :, :, 0, -1], rtol=0, atol=1e-9)
    present = [row["AP"] for row in result.per_class.values() if row["AP"] != -1]
    assert np.mean(present) == pytest.approx(result.summary["AP"], abs=1e-9)
    assert [row["AP"] for row in result.per_size.values()] == pytest.approx(
        [result.summary[n] for n in ("APs", "APm", "APl")], abs=1e-9
    )


@pytest.mark.slow
def test_the_faster_engine_equals_the_reference_on_many_random_cases() -> None:
    engine_or_skip("faster-coco-eval")
    worst = 0.0
    for seed in range(100, 200):
        truth, found = random_case(seed, images=1 + seed % 5, classes=1 + seed % 6, most=3 + seed % 60)
        one, two = (fed(CocoEvaluator(truth, category_ids(truth), e), found).compute() for e in ENGINES)
        worst = max(worst, *(abs(one.summary[name] - two.summary[name]) for name in SUMMARY_NAMES))
    assert worst < 1e-9


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", ["no detections", "no boxes", "neither", "only crowd", "equal scores", "no size"])
def test_degenerate_cases_equal_pycocotools(kind: str, engine: str) -> None:
    truth, found = random_case(3)
    if kind in ("no boxes", "neither"):
        truth["annotations"] = []
    if kind == "only crowd":
        truth["annotations"] = [{**a, "iscrowd": 1} for a in truth["annotations"]]
    if kind == "equal scores":
        found = [{**f, "score": 0.5} for f in found]
    if kind == "no size":
        found = [{**f, "bbox": [*f["bbox"][:2], 0.0, 0.0]} for f in found]
    result = fed(
        CocoEvaluator(truth, category_ids(truth), engine_or_skip(engine)),
        [] if kind in ("no detections", "neither") else found,
    ).compute()
    if kind in ("no detections", "neither"):
        expected = [-1.0 if kind == "neither" else 0.0] * 12  # pycocotools cannot load an empty list
    else:
        expected = by_hand(truth, found).stats
    np.testing.assert_allclose([result.summary[n] for n in SUMMARY_NAMES], expected, rtol=0, atol=1e-9)


def oracle(truth):
    return [{**a, "score": 0.9} for a in truth["annotations"] if not a["iscrowd"]]


def test_oracle_boxes_give_one_and_tables_say_so() -> None:
    truth, _ = random_case(0, images=20, classes=3)
    result = fed(CocoEvaluator(truth, category_ids(truth)), oracle(truth)).compute()
    for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "ARs", "ARm", "ARl"):
        assert result.summary[name] == pytest.approx(1.0, abs=1e-12), name
    assert sum(row["boxes"] for row in result.per_class.values()) == len(oracle(truth))
    console = Console(record=True, width=120, file=io.StringIO())
    for table in result.tables():
        console.print(table)
    text = console.export_text()
    for part in ("COCO box AP on 20 images", "AP50", "class 1", "medium", "1.000"):
        assert part in text
    json.dumps([result.summary, result.per_class, result.per_size])  # plain values


def test_what_is_absent_is_minus_one_and_a_dash() -> None:
    truth, found = random_case(1)
    truth["categories"].append({"id": 99, "name": "never"})
    result = fed(CocoEvaluator(truth, category_ids(truth)), found).compute()
    assert result.per_class["never"] == {"AP": -1.0, "AP50": -1.0, "AR100": -1.0, "boxes": 0}
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(result.tables([*"abcd", "unseen"])[2])
    row = next(line for line in console.export_text().splitlines() if "unseen" in line)
    assert row.count(" - ") == 3


def test_label_order_is_free_and_classes_can_be_left_out() -> None:
    truth, found = random_case(5)
    ids = category_ids(truth)
    straight = fed(CocoEvaluator(truth, ids), found).compute()
    mixed = fed(CocoEvaluator(truth, dict(enumerate(reversed(ids)))), found).compute()
    assert mixed.summary == straight.summary
    assert mixed.per_class == straight.per_class
    assert list(mixed.per_class) == list(reversed(straight.per_class))
    kept = ids[:2]
    part = {**truth, "annotations": [a for a in truth["annotations"] if a["category_id"] in kept]}
    fewer = fed(CocoEvaluator(truth, kept), [f for f in found if f["category_id"] in kept]).compute()
    np.testing.assert_allclose(
        [fewer.summary[n] for n in ("AP", "AR100")],
        [np.mean([straight.per_class[f"class {k}"][n] for k in kept]) for n in ("AP", "AR100")],
        atol=1e-12,
    )
    assert sum(row["boxes"] for row in fewer.per_class.values()) == sum(not a["iscrowd"] for a in part["annotations"])


def test_the_first_detections_of_an_image_count_and_reset_forgets() -> None:
    truth, found = random_case(2)
    evaluator = fed(CocoEvaluator(truth, category_ids(truth)), found)
    before = evaluator.compute()
    fed(evaluator, [])  # padding: the same images again
    assert evaluator.compute().summary == before.summary
    evaluator.reset()
    with pytest.raises(ValueError, match="no image"):
        evaluator.compute()


def test_a_partial_evaluation_says_so_and_ignores_unseen_images() -> None:
    truth, found = random_case(4)
    some = [image["id"] for image in truth["images"]][:3]
    part = {
        **truth,
        "images": truth["images"][:3],
        "annotations": [a for a in truth["annotations"] if a["image_id"] in some],
    }
    seen = [f for f in found if f["image_id"] in some]
    evaluator = CocoEvaluator(truth, category_ids(truth))
    whole_part = fed(CocoEvaluator(part, category_ids(truth)), seen)
    labels = torch.zeros(0)
    for image_id in some:
        mine = [p for p in whole_part.predictions() if p["image_id"] == image_id]
        boxes = torch.tensor([p["bbox"] for p in mine], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([category_ids(truth).index(p["category_id"]) for p in mine]).long()
        scores = torch.tensor([p["score"] for p in mine], dtype=torch.float64)
        evaluator.update([image_id], [{"boxes": boxes, "scores": scores, "labels": labels}])
    result = evaluator.compute()
    assert (result.images, result.images_total) == (3, 6)
    assert result.summary == pytest.approx(whole_part.compute().summary, abs=1e-9)
    assert "only 3 of 6 images" in str(result.tables()[0].title)


def test_annotation_ids_do_not_matter() -> None:
    truth, found = random_case(6)
    expected = fed(CocoEvaluator(truth, category_ids(truth)), found).compute().summary
    for start, step in ((0, 1), (5, 0)):  # ids from 0, and one id for all
        other = copy.deepcopy(truth)
        for i, a in enumerate(other["annotations"]):
            a["id"] = start + step * i
        assert fed(CocoEvaluator(other, category_ids(truth)), found).compute().summary == expected


def test_ground_truth_from_path_dict_and_coco_object_agree(tmp_path) -> None:
    truth, found = random_case(7)
    (tmp_path / "instances.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(tmp_path / "instances.json"))
    results = [
        fed(CocoEvaluator(source, category_ids(truth)), found).compute().summary
        for source in (truth, tmp_path / "instances.json", str(tmp_path / "instances.json"), coco)
    ]
    assert all(summary == results[0] for summary in results)


def test_evaluation_prints_nothing(capfd) -> None:
    truth, found = random_case(8)
    for engine in ENGINES:
        fed(CocoEvaluator(truth, category_ids(truth), engine_or_skip(engine)), found).compute()
    out, err = capfd.readouterr()
    assert out == err == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[0.0, 0.0, float("nan"), 1.0]])}, "nan"),
        ({"boxes": torch.tensor([[5.0, 0.0, 1.0, 1.0]])}, r"5\.0, 0\.0, 1\.0, 1\.0"),
        ({"scores": torch.tensor([float("inf")])}, "inf"),
        ({"labels": torch.tensor([4])}, r"label 4.*0\.\.3"),
        ({"labels": torch.tensor([-1])}, "label -1"),
        ({"scores": torch.zeros(2)}, "1 boxes, 2 scores"),
    ],
)
def test_unusable_detections_are_refused_by_image_and_value(change, message) -> None:
    truth, _ = random_case(0)
    good = {
        "boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
        "scores": torch.ones(1),
        "labels": torch.zeros(1).long(),
    }
    with pytest.raises(ValueError, match=f"image 8.*{message}"):
        CocoEvaluator(truth, category_ids(truth)).update([8], [{**good, **change}])


def test_unknown_images_categories_and_engines_are_refused() -> None:
    truth, _ = random_case(0)
    with pytest.raises(ValueError, match="image id 2 is not in"):
        CocoEvaluator(truth, category_ids(truth)).update([2], [{}])
    with pytest.raises(ValueError, match=r"\[2\] not in the given annotations, which has \[1, 4, 7, 10\]"):
        CocoEvaluator(truth, [1, 2])
    with pytest.raises(ValueError, match="repeated"):
        CocoEvaluator(truth, [1, 1])
    with pytest.raises(ValueError, match="must be 0"):
        CocoEvaluator(truth, {1: 1, 2: 4})
    with pytest.raises(ValueError, match=r"engine='fast'.*faster-coco-eval"):
        CocoEvaluator(truth, [1], "fast")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": [1, 2, 3]}, r"annotation 3: bbox .*\[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation 3: bbox .*nan"),
        ({"bbox": [1, 2, 3, "four"]}, "annotation 3: bbox.*'four'"),
        ({"bbox": None}, "annotation 3: bbox .*None"),
        ({"image_id": "one"}, "annotation 3: .*image_id is 'one'"),
        ({"category_id": None}, "annotation 3: .*category_id is None"),
    ],
)
def test_unusable_annotations_are_refused_by_id_and_value(change, message) -> None:
    truth, _ = random_case(0)
    sound = CocoEvaluator(truth, category_ids(truth)).ground_truth.annotations
    truth["annotations"][2].update(change)
    with pytest.raises(ValueError, match=message):
        GroundTruth.load(truth, DefectPolicy(strict=True))
    assert len(CocoEvaluator(truth, category_ids(truth)).ground_truth.annotations) == len(sound) - 1  # as in training


@pytest.mark.parametrize("area", [float("inf"), float("nan"), -1.0, "large", None])
def test_an_area_that_is_none_is_that_of_the_box(area) -> None:
    truth, _ = random_case(0)
    truth["annotations"][2]["area"] = area
    box = truth["annotations"][2]["bbox"]
    assert GroundTruth.load(truth).annotations[2]["area"] == box[2] * box[3]


@pytest.mark.parametrize("engine", ENGINES)
def test_more_detections_count_by_a_setting(engine: str) -> None:
    boxes = [[10.0 * (i % 40), 10.0 * (i // 40), 8.0, 8.0] for i in range(150)]
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 480, "height": 480}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [{"id": i, "image_id": 1, "category_id": 1, "bbox": b} for i, b in enumerate(boxes)],
    }
    found = [{"image_id": 1, "category_id": 1, "bbox": b, "score": 1 - i / 200} for i, b in enumerate(boxes)]
    for limit, expected in ((100, 100 / 150), (150, 1.0), (60, 60 / 150)):
        evaluator = fed(CocoEvaluator(truth, [1], engine_or_skip(engine), max_detections=limit), found)
        result = evaluator.compute()
        assert result.summary["AR100"] == pytest.approx(expected, abs=1e-12)
        assert result.per_class["a"]["AR100"] == pytest.approx(expected, abs=1e-12)
        assert result.summary["AP"] == pytest.approx(np.floor(expected * 100 + 1) / 101, abs=1e-12)  # of 101 recalls
        assert f"{limit} per image" in table_text(result)


def test_fewer_detections_than_cocos_ten_are_refused() -> None:
    truth, _ = random_case(0)
    with pytest.raises(ValueError, match=r"max_detections=9.*from 10 on"):
        CocoEvaluator(truth, [1], max_detections=9)


def table_text(result) -> str:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(result.tables()[0])
    return console.export_text()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"images": 3}', "\udcff", "[" * 100_000])
def test_files_that_are_no_annotations_are_refused_by_name(tmp_path, content: str) -> None:
    file = tmp_path / "instances.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"instances\.json"):
        CocoEvaluator(file, [1])
    with pytest.raises(ValueError, match="absent"):
        CocoEvaluator(tmp_path / "absent.json", [1])

"""Prediction files: what is written comes back, and what is wrong is named."""

import json
import math
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ifpn.evaluation import (
    CocoEvaluator,
    PredictionError,
    read_predictions,
    write_predictions,
    write_submission,
)
from tests.evaluation.cases import random_case

number = st.floats(allow_nan=False, allow_infinity=False)
side = st.floats(min_value=0, allow_infinity=False)
prediction = st.fixed_dictionaries(
    {
        "image_id": st.integers(),
        "category_id": st.integers(),
        "bbox": st.tuples(number, number, side, side).map(list),
        "score": number,
    }
)


@settings(max_examples=60)
@given(records=st.lists(prediction, max_size=6))
def test_every_number_survives_the_file(tmp_path_factory, records) -> None:
    file = tmp_path_factory.mktemp("predictions") / "predictions.json"
    assert read_predictions(write_predictions(records, file)) == records


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=9), inner, max_size=5),
    max_leaves=12,
)
nearly = st.fixed_dictionaries(
    {},
    optional={
        "image_id": st.sampled_from([1, 8, 2, 8.0, True, "8", None]),
        "category_id": st.sampled_from([1, 4, 5, 1.5, "1"]),
        "bbox": st.lists(
            st.sampled_from([0, 1.5, -2, math.nan, math.inf, 10**400, "1", None, True]),
            min_size=3,
            max_size=5,
        ),
        "score": st.sampled_from([0.5, 1, -3.0, math.nan, "high", None, True, 10**400]),
    },
)


def _wraps_a_list(content: object) -> bool:
    return isinstance(content, dict) and content.get("annotations") == []


@settings(max_examples=200)
@given(content=st.lists(nearly, max_size=4) | anything)
def test_any_json_is_read_or_refused_with_a_sentence(tmp_path_factory, content) -> None:
    truth, _ = random_case(0)
    evaluator = CocoEvaluator(truth, [1, 4, 7, 10])
    file = tmp_path_factory.mktemp("predictions") / "foreign.json"
    file.write_text(json.dumps(content))
    refusal, records = "", []
    try:
        records = read_predictions(file, evaluator)
    except PredictionError as error:
        refusal = str(error)
    faulty = not isinstance(content, list) or len(records) < len(content)
    assert ("foreign.json" in refusal) == bool(refusal) == (faulty and not _wraps_a_list(content))
    evaluator.update_records(records)
    assert len(evaluator.predictions()) == len(records)
    for record in records:
        assert record["image_id"] in evaluator.image_ids
        assert all(math.isfinite(value) for value in [*record["bbox"], record["score"]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 2}, "image_id=2 is not in the data set"),
        ({"category_id": 3}, r"category_id=3 is not in the data set, which has \[1, 4, 7, 10\]"),
        ({"image_id": "eight"}, "image_id='eight' is not a whole number"),
        ({"image_id": True}, "image_id=True is not a whole number"),
        ({"bbox": [1, 2, 3]}, r"bbox=\[1, 2, 3\] is not"),
        ({"bbox": [1, 2, math.nan, 3]}, "nan"),
        ({"bbox": [10, 10, -5, 3]}, "negative width or height"),
        ({"score": math.inf}, "score=inf is not a finite number"),
        ({"score": "high"}, "score='high'"),
        ({"score": True}, "score=True"),
    ],
)
def test_a_faulty_entry_is_named_with_its_value(tmp_path, change, message) -> None:
    truth, _ = random_case(0)
    good = {"image_id": 8, "category_id": 4, "bbox": [1, 2, 3, 4], "score": 0.5}
    file = tmp_path / "foreign.json"
    file.write_text(json.dumps([good, {**good, **change}]))
    with pytest.raises(PredictionError, match=f"1 faulty entries: entry 1: .*{message}"):
        read_predictions(file, CocoEvaluator(truth, [1, 4, 7, 10]))


def test_missing_fields_and_many_faults_are_counted(tmp_path) -> None:
    file = tmp_path / "foreign.json"
    file.write_text(json.dumps([{"image_id": 1, "label": 3}] * 7))
    with pytest.raises(
        PredictionError, match=r"7 faulty.*no category_id, bbox, score \(it has image_id, label\).*4 more"
    ):
        read_predictions(file)


@pytest.mark.parametrize("content", ["", "{", '{"a": 1}', "3", "\udcff"])
def test_other_files_are_refused_by_name(tmp_path, content: str) -> None:
    (tmp_path / "foreign.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(PredictionError, match=r"foreign\.json"):
        read_predictions(tmp_path / "foreign.json")
    with pytest.raises(PredictionError, match="No such file"):
        read_predictions(tmp_path / "absent.json")


def test_scoring_the_written_file_gives_the_same_numbers(tmp_path) -> None:
    truth, found = random_case(9)
    first = CocoEvaluator(truth, [1, 4, 7, 10])
    rng = torch.Generator().manual_seed(0)
    for image_id in first.image_ids:
        mine = [f for f in found if f["image_id"] == image_id]
        boxes = torch.tensor([f["bbox"] for f in mine]).reshape(-1, 4)  # fp32, as a detector's
        boxes[:, 2:] += boxes[:, :2]
        detection = {
            "boxes": boxes,
            "scores": torch.rand(len(mine), generator=rng),
            "labels": torch.tensor([(f["category_id"] - 1) // 3 for f in mine]).long(),
        }
        first.update([image_id], [detection])
    file = write_predictions(first.predictions(), tmp_path / "new folder" / "predictions.json")
    second = CocoEvaluator(truth, [1, 4, 7, 10])
    second.update_records(read_predictions(file, second))
    assert second.compute().summary == first.compute().summary
    assert second.predictions() == first.predictions()
    wrapped = tmp_path / "wrapped.json"
    wrapped.write_text(json.dumps({"images": [], "annotations": first.predictions()}))
    assert read_predictions(wrapped, second) == first.predictions()


def test_images_without_records_count(tmp_path) -> None:
    truth, found = random_case(10)
    evaluator = CocoEvaluator(truth, [1, 4, 7, 10])
    evaluator.update_records(f for f in found if f["image_id"] == 1)
    result = evaluator.compute()
    assert result.images == result.images_total == 6
    with pytest.raises(ValueError, match="image id 3"):
        evaluator.update_records([{"image_id": 3, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 1.0}])


def test_the_submission_has_the_servers_name_and_fields(tmp_path) -> None:
    _, found = random_case(11)
    archive = write_submission(found, tmp_path, algorithm="ifpn-atss")
    assert archive.name == "detections_test-dev2017_ifpn-atss_results.zip"
    with zipfile.ZipFile(archive) as content:
        assert content.namelist() == ["detections_test-dev2017_ifpn-atss_results.json"]
        written = json.loads(content.read(content.namelist()[0]))
    assert [set(entry) for entry in written] == [{"image_id", "category_id", "bbox", "score"}] * len(found)
    for entry, record in zip(written, found, strict=True):
        assert entry["bbox"] == pytest.approx(record["bbox"], abs=0.005)
        assert (entry["image_id"], entry["category_id"]) == (record["image_id"], record["category_id"])
    for name in ("my_alg", "", "../x"):
        with pytest.raises(ValueError, match="algorithm="):
            write_submission([], tmp_path, algorithm=name)

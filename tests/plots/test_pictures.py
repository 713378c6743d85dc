"""The pictures show what they are given: colours where boxes are, curves where numbers are."""

import csv

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from ifpn.plots import draw_convergence, draw_curves, draw_detections, draw_samples
from ifpn.plots.boxes import labelled
from ifpn.plots.curves import Curve, read_curves
from ifpn.plots.style import BLUE, INK, ORANGE, class_color, figure

NAMES = ["cat", "dog", "bird"]


def detection(boxes, labels, scores=None) -> dict[str, torch.Tensor]:
    out = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels).long(),
    }
    return out if scores is None else {**out, "scores": torch.tensor(scores)}


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def has_color(picture: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    return (np.asarray(picture.convert("RGB")) == np.array(color)).all(axis=2)


def rgb(code: str) -> tuple[int, int, int]:
    return tuple(int(code[i : i + 2], 16) for i in (1, 3, 5))  # type: ignore[return-value]


def test_boxes_lie_where_they_belong_and_weak_ones_are_left_out() -> None:
    found = detection([[100, 200, 300, 500], [400, 50, 600, 90], [0, 0, 50, 50]], [0, 1, 2], [0.9, 0.8, 0.2])
    picture = draw_detections(grey(600, 800), found, NAMES, score_threshold=0.5)
    assert picture.size == (800, 600)
    for box, label in (((100, 200, 300, 500), 0), ((400, 50, 600, 90), 1)):
        rows, columns = np.nonzero(has_color(picture, class_color(label)))
        # the line is drawn one pixel inside its dark rim; the tag stands above the box
        assert columns.min() == pytest.approx(box[0], abs=2)
        assert columns.max() == pytest.approx(box[2], abs=2)
        assert rows.max() == pytest.approx(box[3], abs=2)
        assert rows.min() < box[1]
    assert not has_color(picture, class_color(2)).any()


def test_small_images_are_enlarged_with_their_boxes() -> None:
    picture = draw_detections(grey(60, 80), detection([[20, 30, 40, 50]], [0], [0.9]), NAMES, score_threshold=0.5)
    assert picture.size == (640, 480)
    rows, columns = np.nonzero(has_color(picture, class_color(0)))
    assert (columns.max(), rows.max()) == (pytest.approx(320, abs=3), pytest.approx(400, abs=3))


@pytest.mark.parametrize("box", [[-50, -50, 900, 900], [10, 10, 10, 10], [799, 599, 800, 600], [900, 900, 950, 950]])
def test_odd_boxes_and_unknown_labels_are_drawn_without_complaint(box) -> None:
    picture = draw_detections(grey(600, 800), detection([box], [7], [1.0]), NAMES, score_threshold=0.0)
    assert has_color(picture, class_color(7)).any()


def test_tags_never_cover_each_other() -> None:
    found = detection([[100, 100, 140, 140]] * 9, [0] * 9, [0.9] * 9)
    picture = draw_detections(grey(600, 800), found, ["a very long class name"], score_threshold=0.0)
    one = draw_detections(
        grey(600, 800),
        detection([[100, 100, 140, 140]], [0], [0.9]),
        ["a very long class name"],
        score_threshold=0.0,
    )
    shown = has_color(picture, class_color(0)).sum() / has_color(one, class_color(0)).sum()
    assert shown < 5  # at most four places per box


def test_images_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uint8 \(3, H, W\), got torch.float32 \(3, 8, 8\)"):
        draw_detections(torch.zeros(3, 8, 8), detection([], [], []), NAMES, score_threshold=0.5)
    with pytest.raises(ValueError, match=r"\(1, 8, 8\)"):
        draw_detections(torch.zeros(1, 8, 8, dtype=torch.uint8), detection([], [], []), NAMES, score_threshold=0.5)


def test_the_best_come_first_and_the_threshold_is_inclusive() -> None:
    found = detection([[0, 0, 1, 1]] * 3, [0, 1, 2], [0.25, 0.75, 0.5])
    items = labelled(found["boxes"], found["labels"], found["scores"], 0.5)
    assert [item.label for item in items] == [1, 2]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_page_shows_truth_left_and_prediction_right(tmp_path, count: int) -> None:
    sizes = [(300, 400), (500, 200), (90, 700), (64, 64), (333, 401)][:count]
    images = [grey(*size) for size in sizes]
    truths = [detection([[2, 2, w / 2, h / 2]], [0]) for h, w in sizes]
    found = [detection([[2, 2, w / 2, h / 2], [5, 5, w / 3, h / 3]], [1, 2], [0.6, 0.1]) for h, w in sizes]
    draw_samples(images, truths, found, NAMES, tmp_path / "deep" / "samples.png", score_threshold=0.3)
    with Image.open(tmp_path / "deep" / "samples.png") as page:
        assert page.width == 1500
        _, truth_columns = np.nonzero(has_color(page, class_color(0))[130:])  # below the legend
        _, found_columns = np.nonzero(has_color(page, class_color(1))[130:])
        assert not has_color(page, class_color(2))[130:].any()  # below the threshold
        greys = has_color(page, (128, 128, 128)).sum() / (page.width * page.height)
    assert truth_columns.min() < found_columns.min()
    assert truth_columns.max() < found_columns.max()
    assert greys > 0.3  # the page is not mostly margin


def test_a_page_without_boxes_and_a_page_without_images(tmp_path) -> None:
    none = detection([], [], [])
    draw_samples([grey(50, 50)], [none], [none], NAMES, tmp_path / "samples.png", score_threshold=0.3)
    assert (tmp_path / "samples.png").stat().st_size > 0
    with pytest.raises(ValueError, match="0 images"):
        draw_samples([], [], [], NAMES, tmp_path / "samples.png", score_threshold=0.3)


def test_class_colors_differ_for_a_hundred_classes() -> None:
    assert len({class_color(label) for label in range(100)}) == 100


def write_metrics(path, rows) -> None:
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, keys)
        writer.writeheader()
        writer.writerows(rows)


def test_metrics_are_read_sparsely_and_texts_skipped(tmp_path) -> None:
    write_metrics(
        tmp_path / "metrics.csv",
        [
            {"step": 4, "epoch": 0, "train/loss": 2.0, "note": "warm"},
            {"step": 2, "epoch": 0, "train/loss": "nan"},
            {"step": 4, "epoch": 0, "val/AP": 0.5},
        ],
    )
    curves = read_curves(tmp_path / "metrics.csv")
    assert set(curves) == {"train/loss", "val/AP"}
    assert curves["train/loss"].steps.tolist() == [2, 4]
    np.testing.assert_array_equal(curves["train/loss"].values, [np.nan, 2.0])
    assert curves["val/AP"].values.tolist() == [0.5]


@pytest.mark.parametrize("length", [1, 2, 59, 60, 600])
def test_smoothing_keeps_constants_lines_and_length(length: int) -> None:
    steps = np.arange(length, dtype=float)
    np.testing.assert_allclose(Curve(steps, np.full(length, 3.0)).smoothed(), 3.0)
    half = length // 60
    inner = slice(half, length - half)  # a symmetric mean leaves a line unchanged away from the ends
    np.testing.assert_allclose(Curve(steps, steps).smoothed()[inner], steps[inner], atol=1e-9)
    broken = np.full(length, 3.0)
    broken[length // 2] = np.nan
    smooth = Curve(steps, broken).smoothed()
    np.testing.assert_allclose(smooth[np.isfinite(smooth)], 3.0)  # one broken step does not spread


FULL = [
    {
        "step": s,
        "train/loss": 3 / (1 + s),
        "train/loss_cls": 1 / (1 + s),
        "lr-SGD": 0.01,
        "val/AP": s / 100,
        "val/AP50": s / 50,
    }
    for s in range(40)
]


@pytest.mark.parametrize(
    ("rows", "inks", "absent"),
    [
        (FULL, (INK, BLUE, ORANGE), ()),
        ([{"step": 1, "train/loss": 1.0}, {"step": 2, "train/loss": float("nan")}], (INK,), (ORANGE,)),
        ([{"step": 1, "val/AP": 0.5}, {"step": 5, "val/AP": -1}], (BLUE,), (ORANGE,)),
        ([{"step": 1, "something": 1.0}], (), (BLUE, ORANGE)),
        ([], (), (BLUE, ORANGE)),
    ],
)
@pytest.mark.slow
def test_curves_appear_for_the_columns_present(tmp_path, rows, inks, absent) -> None:
    write_metrics(tmp_path / "metrics.csv", rows)
    draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width == 1650
        for ink in inks:
            assert has_color(picture, rgb(ink)).any(), ink
        for ink in absent:
            assert not has_color(picture, rgb(ink)).any(), ink


def test_files_that_are_no_metrics_are_refused_by_name(tmp_path) -> None:
    (tmp_path / "metrics.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="no column 'step'; it has a, b"):
        draw_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    with pytest.raises(ValueError, match=r"absent\.csv cannot be read"):
        read_curves(tmp_path / "absent.csv")


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("samples", [1, 5])
def test_convergence_draws_one_panel_per_solve(tmp_path, samples: int, backward: bool) -> None:
    trace = 0.5 ** torch.arange(1.0, 16)[:, None].repeat(1, samples)
    draw_convergence(trace, trace[:7] if backward else None, tmp_path / "convergence.png")
    with Image.open(tmp_path / "convergence.png") as picture:
        assert has_color(picture, rgb(BLUE)).any()
        assert has_color(picture, rgb(ORANGE)).any() == backward
        assert (picture.width > 1000) == backward


@pytest.mark.parametrize(
    "trace",
    [
        [[float("nan")], [float("nan")]],
        [[1.0, float("nan")], [0.1, float("inf")]],
        [[1.0], [0.0]],
        [[0.0]],
        [[1e-3]],
    ],
)
def test_broken_exact_and_short_traces_are_drawn(tmp_path, trace) -> None:
    draw_convergence(torch.tensor(trace), None, tmp_path / "convergence.png")
    assert (tmp_path / "convergence.png").stat().st_size > 0


def test_empty_traces_are_refused(tmp_path) -> None:
    for trace in (torch.zeros(0, 3), torch.zeros(3)):
        with pytest.raises(ValueError, match="evaluations, samples"):
            draw_convergence(trace, None, tmp_path / "convergence.png")


def test_drawing_leaves_matplotlib_as_it_was(tmp_path) -> None:
    before = dict(matplotlib.rcParams)
    with figure(3, 2, tmp_path / "figure.png") as drawing:
        drawing.subplots().plot([1, 2])
    assert dict(matplotlib.rcParams) == before

"""`ifpn predict source=clip.mp4 stream=true`: a film with boxes and a line per frame."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ifpn.cli import predict as command
from ifpn.cli import video
from ifpn.data import BadImage, DataError
from ifpn.errors import ConfigError
from ifpn.necks import ImplicitFPN
from ifpn.predictor import Predictor
from ifpn.solvers import Equilibrium
from scripts.make_clip import make_clip
from tests.data.cases import picture

SIZE = (66, 50)


class Implicit(torch.nn.Module):
    """Stands for a trained detector: a neck is solved, and the box is the left half of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.neck = ImplicitFPN([3, 3], 4, solver=Equilibrium(test_evals=30, rtol=1e-2))
        self.batches: list[int] = []

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        self.batches.append(len(images))
        x = torch.stack(images)[:, :, :48, :64]
        self.neck({"c3": torch.nn.functional.avg_pool2d(x, 4), "c4": torch.nn.functional.avg_pool2d(x, 8)})
        width, height = images[0].shape[2], images[0].shape[1]
        box = torch.tensor([[0.0, 0.0, width / 2, height], [0.0, 0.0, 9.0, 9.0]])
        return [{"boxes": box, "scores": torch.tensor([0.75, 0.1]), "labels": torch.tensor([1, 0])} for _ in images]


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames over two photographs, ten a second."""
    for seed in (1, 2):
        picture(tmp_path / f"{seed}.jpg", 200, 150, seed)
    photographs = [tmp_path / "1.jpg", tmp_path / "2.jpg"]
    assert make_clip(photographs, tmp_path / "clip.mp4", seconds=0.6, rate=10, size=SIZE) == 12
    return tmp_path / "clip.mp4"


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    def run(source: object, out: Path = tmp_path / "out", **settings: Any) -> list[dict[str, Any]]:
        torch.manual_seed(0)
        detector = settings.pop("detector", None) or Implicit()
        given = Predictor(detector, ["cat", "dog"], [3, 17], {}, torch.device("cpu"))
        monkeypatch.setattr(video, "load", lambda path, device, size: given)
        base = {"on_bad_image": "skip", "size": None, "flip": False, "score_threshold": 0.3}
        base |= {"ckpt": "x", "device": "cpu"}
        cfg = {**base, "source": str(source), "run_dir": str(out), "stream": True, **settings}
        command.predict(OmegaConf.create(cfg))
        return [json.loads(line) for line in (out / "detections.jsonl").read_text().splitlines()]

    return run


def film(path: Path) -> list[tuple[float, np.ndarray]]:
    """Seconds and pixels of the frames that a player shows."""
    found: list[tuple[float, np.ndarray]] = []
    with av.open(str(path)) as container, contextlib.suppress(av.error.FFmpegError):  # the end of a cut file
        found.extend((frame.time, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0))
    return found


def test_a_film_with_boxes_and_a_line_per_frame(
    predict: Callable[..., Any], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = predict(clip)
    assert [line["frame"] for line in lines] == list(range(12))
    assert [line["seconds"] for line in lines] == pytest.approx(
        [i / 10 for i in range(12)], abs=1e-6
    )  # rounded to a µs
    left = {"category_id": 17, "name": "dog", "bbox": [0, 0, 33, 50], "score": 0.75}
    assert lines[3]["detections"][0] == left
    assert len(lines[3]["detections"]) == 2  # also those that are not drawn
    shown = film(tmp_path / "out" / "clip.mp4")
    assert [seconds for seconds, _ in shown] == pytest.approx([i / 10 for i in range(12)], abs=1e-3)  # the film's clock
    # Frames are drawn 640 pixels wide; the right side of the box, at half of them, is a coloured line.
    original = film(clip)[3][1].astype(int)
    drawn = shown[3][1].astype(int)
    height, width = drawn.shape[:2]
    assert (width, height) == (640, 484)  # 485 made even
    scaled = original[:, np.arange(width) * SIZE[0] // width][np.arange(height) * SIZE[1] // height]
    difference = np.abs(drawn - scaled).mean(axis=(0, 2))
    assert int(difference.argmax()) in range(width // 2 - 8, width // 2 + 8)
    said = capsys.readouterr().out
    assert "12 frames, " in said
    assert "frames/s" in said
    assert "evaluations per frame, 12 boxes drawn; clip.mp4 and detections.jsonl" in said


def test_warm_frames_need_fewer_evaluations_than_cold_batches(predict: Callable[..., Any], clip: Path) -> None:
    warm_detector, cold_detector = Implicit(), Implicit()
    cold_detector.load_state_dict(warm_detector.state_dict())
    cold = predict(clip, stream=False, detector=cold_detector)
    warm = predict(clip, stream=True, detector=warm_detector)
    assert warm_detector.batches == [1] * 12
    assert cold_detector.batches == [8, 4]
    assert warm[0]["evals"] == cold[0]["evals"]  # nothing to start from
    assert sum(line["evals"] for line in warm) < sum(line["evals"] for line in cold)
    assert [line["seconds"] for line in warm] == [line["seconds"] for line in cold]


def test_memory_does_not_grow_with_the_frames(clip: Path) -> None:
    """What is decoded is taken only when the frame before is done, and no frame is kept."""
    frames = video.Frames(str(clip))
    taken: list[int] = []

    def counted() -> Any:
        for frame in frames:
            taken.append(frame.number)
            yield frame

    given = Predictor(Implicit(), ["cat", "dog"], [3, 17], {}, torch.device("cpu"))
    for number, _ in enumerate(video.detect(given, counted(), warm=True)):
        assert taken[-1] == number


def test_broken_frames_are_skipped_and_counted(
    predict: Callable[..., Any], clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    with av.open(str(clip)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    content = bytearray(clip.read_bytes())
    at, size = packets[-3]
    content[at : at + size] = b"\xff" * size
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(content)
    lines = predict(broken)
    assert 0 < len(lines) < 12
    assert f"{len(lines)} frames ({12 - len(lines)} broken, skipped)" in capsys.readouterr().out
    with pytest.raises(BadImage, match=r"a frame is broken .*on_bad_image=skip"):
        predict(broken, tmp_path / "refused", on_bad_image="refuse")


def test_a_film_that_was_cut_off_still_plays(tmp_path: Path) -> None:
    """As on disk when the command is killed: nothing is closed."""
    given = Predictor(Implicit(), ["cat", "dog"], [3, 17], {}, torch.device("cpu"))
    report = video.Report(tmp_path / "film.mp4", tmp_path / "lines.jsonl", Fraction(2), 0.3)
    pixels = np.random.default_rng(0).integers(0, 256, (50, 66, 3), dtype=np.uint8)
    found = given(pixels)
    for number in range(12):
        report.add(video.Frame(number, number / 2, pixels), found)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes((tmp_path / "film.mp4").read_bytes())
    assert len((tmp_path / "lines.jsonl").read_text().splitlines()) == 12
    assert 8 <= len(film(cut)) < 12  # fragments of two frames; the last ones are still open
    report.__exit__()
    assert len(film(tmp_path / "film.mp4")) == 12


def test_uneven_and_backward_time_stamps_still_make_a_film(tmp_path: Path) -> None:
    given = Predictor(Implicit(), ["cat", "dog"], [3, 17], {}, torch.device("cpu"))
    pixels = np.zeros((50, 66, 3), dtype=np.uint8)
    larger = np.zeros((700, 900, 3), dtype=np.uint8)
    with video.Report(tmp_path / "film.mp4", tmp_path / "lines.jsonl", Fraction(25), 0.3) as report:
        for number, seconds in enumerate((0.0, 0.0, 0.5, 0.4, 2.0)):
            report.add(video.Frame(number, seconds, pixels), given(pixels))
        report.add(video.Frame(5, 2.5, larger), given(larger))
    seconds = [at for at, _ in film(tmp_path / "film.mp4")]
    assert seconds == pytest.approx([0, 0.001, 0.5, 0.501, 2, 2.5], abs=1e-4)


def test_a_phone_held_upright(clip: Path, tmp_path: Path) -> None:
    """Its file says: to be turned by 90 degrees clockwise."""
    content = clip.read_bytes()
    at = content.index(b"tkhd") + 44  # behind version, times, track, duration, layer, volume: the matrix
    one = 1 << 16
    turn = struct.pack(">9i", 0, one, 0, -one, 0, 0, SIZE[1] * one, 0, 1 << 30)
    (tmp_path / "turned.mp4").write_bytes(content[:at] + turn + content[at + 36 :])
    plain = next(iter(video.Frames(str(clip)))).pixels
    turned = next(iter(video.Frames(str(tmp_path / "turned.mp4")))).pixels
    assert np.array_equal(turned, np.rot90(plain, -1))


def test_a_camera_runs_until_it_is_stopped(
    predict: Callable[..., Any],
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    class Stopped(Implicit):
        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            if len(self.batches) == 5:
                raise KeyboardInterrupt
            return super().forward(images)

    asked = []
    monkeypatch.setattr(video, "open_camera", lambda number: asked.append(number) or av.open(str(clip)))
    lines = predict("7", detector=Stopped())
    assert asked == [7]
    assert len(lines) == 5
    assert len(film(tmp_path / "out" / "camera7.mp4")) == 5
    assert "stopped" in capsys.readouterr().out


def test_what_is_refused_leaves_nothing(
    predict: Callable[..., Any], clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "half.mp4").write_bytes(clip.read_bytes()[:600])  # an ordinary mp4 without its table of contents
    before = clip.read_bytes()
    for source, error, words in (
        (tmp_path, DataError, "must be a video file or the number of a camera"),
        (tmp_path / "gone.mp4", DataError, "must be a video file"),
        (tmp_path / "half.mp4", BadImage, "cannot be opened as a video"),
        ("977", BadImage, "source=977: cannot be opened"),
    ):
        with pytest.raises(error, match=words):
            predict(source)
    with pytest.raises(ConfigError, match="stream=warm: must be true or false"):
        predict(clip, stream="warm")
    with pytest.raises(ConfigError, match="would overwrite its source"):
        predict(clip, clip.parent)
    monkeypatch.setattr(video, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"pip install 'ifpn\[video\]'"):
        predict(clip)
    assert not (tmp_path / "out").exists()
    assert clip.read_bytes() == before

"""`ifpn predict source=clip.mp4 stream=true`: boxes for every frame of a video or of a camera."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from ifpn.cli.sources import drawn_from, printable
from ifpn.data import BadImage, DataError
from ifpn.detections import Detections
from ifpn.errors import ConfigError
from ifpn.predictor import Predictor, load

BATCH = 8  # frames at a time with stream=false
_ENCODERS = ("libx264", "libopenh264", "mpeg4")  # the first that PyAV was built with
_CLOCK = Fraction(1, 1000)  # s; of the film's time stamps, so that a camera's uneven ones are kept
# A fragment per key frame, the table of contents first: what is on disk plays, whenever the command was killed.
_CUTTABLE = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"}


class Frame(NamedTuple):
    """pixels: (H, W, 3) uint8 RGB, upright; seconds: since the first frame; number: from 0, broken ones counted."""

    number: int
    seconds: float
    pixels: NDArray[np.uint8]


def predict_video(cfg: DictConfig) -> None:
    """Write the film with boxes and `detections.jsonl`, a line per frame, while the frames come in.

    Raises:
        ConfigError: PyAV is missing, `stream` is no switch, or the film would overwrite its source.
        DataError: no file and no camera.
        BadImage: nothing can be decoded; or a frame cannot under `on_bad_image=refuse`.
    """
    if not isinstance(cfg.stream, bool):
        raise ConfigError(f"stream={cfg.stream}: must be true or false.")
    frames = Frames(str(cfg.source), refuse=cfg.on_bad_image == "refuse")
    out, console = Path(cfg.run_dir), Console(highlight=False)
    film = out / f"{frames.name}.mp4"
    if os.path.realpath(film) == os.path.realpath(str(cfg.source)):
        raise ConfigError(f"run_dir={printable(out)}: the film would overwrite its source. Choose another folder.")
    predictor = load(cfg.ckpt, cfg.device, size=cfg.size)
    tally = Tally(frames)
    with Report(film, out / "detections.jsonl", frames.rate, drawn_from(cfg, predictor)) as report:
        try:
            with _progress(console) as bar:
                task = bar.add_task("", total=frames.total, facts="")
                for frame, found in detect(predictor, iter(frames), warm=cfg.stream):
                    report.add(frame, found)
                    tally.add(found)
                    bar.update(task, advance=1, facts=tally.facts())
        except KeyboardInterrupt:  # how a camera ends
            console.print("stopped")
    if not tally.frames:
        raise BadImage(f"source={cfg.source}: no frame could be decoded ({frames.skipped} broken).")
    skipped = f" ({frames.skipped} broken, skipped)" if frames.skipped else ""
    written = f"{film.name} and detections.jsonl in {printable(out)}"
    line = f"{tally.frames} frames{skipped}, {tally.facts()}, {report.drawn} boxes drawn; {written}"
    console.print(line, markup=False, soft_wrap=True)


def detect(predictor: Predictor, frames: Iterator[Frame], *, warm: bool) -> Iterator[tuple[Frame, Detections]]:
    """Every frame with all its detections.

    Args:
        predictor: the detector.
        frames: in order.
        warm: each solve starts from the frame before; else anew, `BATCH` frames at a time.
    """
    if warm:
        with predictor.stream() as stream:
            for frame in frames:
                yield frame, stream(frame.pixels, score_threshold=0.0)
                stream.evals.clear()  # a camera may run for days
        return
    while batch := list(islice(frames, BATCH)):
        yield from zip(batch, predictor([frame.pixels for frame in batch], score_threshold=0.0), strict=True)


class Frames:
    """The frames of a video file, or of a camera, upright, one at a time; broken ones are left out and counted.

    Args:
        source: a file, or the number of a camera.
        refuse: raise at the first broken frame.

    Attributes:
        name: of the film to write, without ending.
        rate: frames per second, as the file says; 25 where it does not.
        total: frames, if the file says how many.
        skipped: broken frames, and broken ends, so far.

    Raises:
        ConfigError: PyAV is not installed.
        DataError: no such file.
        BadImage: no video, or a camera that does not open.
    """

    def __init__(self, source: str, *, refuse: bool = False) -> None:
        camera = source.isdecimal() and not Path(source).exists()
        if not camera and not Path(source).expanduser().is_file():
            raise DataError(f"source={source}: must be a video file or the number of a camera where stream is given.")
        if find_spec("av") is None:
            raise ConfigError(f"source={source}: needs PyAV, which is not installed: pip install 'ifpn[video]'.")
        import av

        self._broken: type[Exception] = av.error.FFmpegError
        try:
            self._container = open_camera(int(source)) if camera else av.open(str(Path(source).expanduser()))
            self._stream = self._container.streams.video[0]
        except (av.error.FFmpegError, IndexError) as error:
            raise BadImage(f"source={source}: cannot be opened as a video ({error}).") from error
        self._stream.thread_type = "AUTO"
        self._source, self._refuse = source, refuse
        self.name = f"camera{source}" if camera else Path(source).stem
        self.rate = Fraction(self._stream.average_rate or 25)
        self.total = self._stream.frames or None
        self.skipped = 0

    def __iter__(self) -> Iterator[Frame]:
        """Decode from the beginning; once."""
        first, number = None, 0
        with self._container:
            for frame in self._decoded():
                if frame is not None:
                    seconds = float(number / self.rate) if frame.time is None else float(frame.time)
                    first = seconds if first is None else first
                    yield Frame(number, round(seconds - first, 6), upright(frame.to_ndarray(format="rgb24"), frame))
                number += 1

    def _decoded(self) -> Iterator[Any]:
        """PyAV's frames; None for a broken one."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except self._broken as error:  # cut off
                self._skip(error)
                yield None
                return
            if packet is None:
                return
            try:
                found = packet.decode()
            except self._broken as error:
                self._skip(error)
                yield None
                continue
            for frame in found:
                if frame.is_corrupt:
                    self._skip("damaged")
                yield None if frame.is_corrupt else frame

    def _skip(self, reason: Exception | str) -> None:
        if self._refuse:
            raise BadImage(f"source={self._source}: a frame is broken ({reason}). Go on without: on_bad_image=skip")
        self.skipped += 1


def open_camera(number: int) -> Any:
    """Camera `number` of this computer, as PyAV's container.

    Raises:
        ConfigError: an operating system whose cameras have no numbers.
    """
    import av

    system = platform.system()
    if system == "Linux":
        return av.open(f"/dev/video{number}", format="v4l2")
    if system == "Darwin":
        return av.open(str(number), format="avfoundation", options={"framerate": "30"})
    raise ConfigError(f"source={number}: must be a file, as cameras are read on Linux and macOS only.")


def upright(pixels: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """Turn (H, W, 3) as a phone noted it; `frame.rotation`: degrees, counterclockwise."""
    return np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4))


class Report:
    """The film and the lines of detections, both written frame by frame; nothing is left where no frame came.

    Args:
        film: the mp4.
        lines: the JSON lines.
        rate: frames per second, a hint for the encoder.
        shown: boxes below are not drawn.

    Attributes:
        drawn: boxes so far.
    """

    def __init__(self, film: Path, lines: Path, rate: Fraction, shown: float) -> None:
        self.film, self.lines, self.rate, self.shown = film, lines, rate, shown
        self.drawn = 0
        self._container: Any = None
        self._file: TextIO | None = None
        self._last = -1  # time stamp

    def __enter__(self) -> Report:
        """Open nothing yet: the first frame tells the size."""
        return self

    def add(self, frame: Frame, found: Detections) -> None:
        """Append one frame."""
        picture = found.draw(self.shown)
        if self._file is None:
            self._open(picture)
        assert self._file is not None
        self._file.write(json.dumps(line(frame, found)) + "\n")
        self._file.flush()
        self.drawn += int((found.scores >= self.shown).sum())
        self._encode(picture, frame.seconds)

    def _open(self, picture: Image.Image) -> None:
        import av

        self.film.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.lines.open("w", encoding="utf-8")
        encoder = next(name for name in _ENCODERS if name in av.codecs_available)
        self._container = av.open(str(self.film), "w", format="mp4", options=_CUTTABLE)
        self._stream = self._container.add_stream(encoder, rate=self.rate)
        # Colour is stored at half the resolution: even sides.
        self._stream.width, self._stream.height = (max(2, side - side % 2) for side in picture.size)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _CLOCK
        self._stream.codec_context.gop_size = max(1, round(self.rate))  # a key frame, and with it a fragment, a second
        if encoder == "libx264":
            self._stream.options = {
                "preset": "veryfast",
                "crf": "21",
                "tune": "zerolatency",
            }  # no frame waits in the encoder
        else:
            self._stream.bit_rate = round(0.2 * picture.width * picture.height * float(self.rate))

    def _encode(self, picture: Image.Image, seconds: float) -> None:
        import av

        size = self._stream.width, self._stream.height
        pixels = np.asarray(picture if picture.size == size else _fitted(picture, size))
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._last = max(self._last + 1, round(seconds / _CLOCK))  # strictly increasing, whatever the source says
        frame.pts, frame.time_base = self._last, _CLOCK
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        """Finish both files."""
        if self._file is not None:
            self._file.close()
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()


def _fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Cut an odd last line off; shrink or enlarge only where the video changed its size on the way."""
    near = all(0 <= have - want <= 1 for have, want in zip(picture.size, size, strict=True))
    return picture.crop((0, 0, *size)) if near else picture.resize(size)


def line(frame: Frame, found: Detections) -> dict[str, Any]:
    """One line of `detections.jsonl`: every box that the detector returned, x, y, width, height in pixels."""
    boxes = [
        {"category_id": record["category_id"], "name": name, "bbox": record["bbox"], "score": record["score"]}
        for record, name in zip(found.to_coco(frame.number), found.names, strict=True)
    ]
    evals = None if found.solver is None else found.solver.evals
    return {"frame": frame.number, "seconds": frame.seconds, "evals": evals, "detections": boxes}


class Tally:
    """Frames, seconds and evaluations so far. frames: the source, whose broken frames are told."""

    def __init__(self, source: Frames) -> None:
        self.source, self.frames, self.evals, self.solved = source, 0, 0, 0
        self.start = time.perf_counter()

    def add(self, found: Detections) -> None:
        """Count one frame."""
        self.frames += 1
        if found.solver is not None:
            self.evals, self.solved = self.evals + found.solver.evals, self.solved + 1

    def facts(self) -> str:
        """`4.1 frames/s, 3.2 evaluations per frame`; without the latter where nothing is solved."""
        speed = f"{self.frames / (time.perf_counter() - self.start):.1f} frames/s"
        return speed + (f", {self.evals / self.solved:.1f} evaluations per frame" if self.solved else "")


def _progress(console: Console) -> Progress:
    columns = TextColumn("{task.completed} frames"), BarColumn(), TextColumn("{task.fields[facts]}")
    return Progress(*columns, console=console, transient=True)

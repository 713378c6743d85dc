"""`python predict.py`: boxes for photographs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from ifpn.cli.cores import limit_threads
from ifpn.cli.sources import download_folder, drawn_from, find_sources, printable
from ifpn.data import BadImage
from ifpn.detections import Detections
from ifpn.errors import ConfigError, UserError
from ifpn.predictor import Predictor, load

_LONGEST_NAME = 255  # bytes: what file systems allow


def predict(cfg: DictConfig) -> None:
    """Draw boxes on every image that `cfg.source` stands for, and write them all as one COCO-format JSON.

    With `cfg.stream` given it is a video, see `ifpn.cli.video`.

    Raises:
        ConfigError: the pictures would overwrite the images.
        BadImage: an unusable image under `on_bad_image=refuse`, or no usable one at all.
    """
    limit_threads()
    if cfg.stream is not None:
        if cfg.flip or not (cfg.size is None or isinstance(cfg.size, int)):
            raise ConfigError("flip=true and several sizes are for images: leave them out with stream=….")
        from ifpn.cli.video import predict_video  # which imports this file

        predict_video(cfg)
        return
    console, out = Console(highlight=False), Path(cfg.run_dir)
    with download_folder() as downloads:
        sources = find_sources(str(cfg.source), leave_out=out, downloads=Path(downloads))
        names = picture_names([sources.name(file) for file in sources.files])
        _spare_images(sources.files, [out / name for name in names])
        predictor = load(cfg.ckpt, cfg.device, size=cfg.size, flip=cfg.flip)
        shown = drawn_from(cfg, predictor)
        found, refused = [], []
        for number, file in enumerate(track(sources.files, "predicting", console=console, transient=True), start=1):
            try:
                detections = detect(predictor, file)
            except UserError as error:
                if cfg.on_bad_image == "refuse":
                    raise BadImage(f"{error}. Go on without such images: on_bad_image=skip") from error
                console.print(f"skipped: {printable(error)}", markup=False, soft_wrap=True)
                refused.append(error)
                continue
            found.append((number, sources.name(file), detections))
            (out / names[number - 1]).parent.mkdir(parents=True, exist_ok=True)
            detections.draw(shown).save(out / names[number - 1], quality=92)
    if not found:
        raise BadImage(f"source={cfg.source}: none of {len(refused)} image files could be read, e.g. {refused[0]}")
    out.mkdir(parents=True, exist_ok=True)
    (out / "predictions.json").write_text(json.dumps(coco_content(predictor, found)) + "\n")
    if sources.note:
        console.print(printable(sources.note), markup=False, soft_wrap=True)
    drawn = sum(int((detections.scores >= shown).sum()) for *_, detections in found)
    skipped = f" ({len(refused)} skipped)" if refused else ""
    console.print(
        f"{len(found)} images{skipped}, {drawn} boxes with a score of at least {shown:.3g} drawn; "
        f"pictures and predictions.json in {printable(out)}",
        markup=False,
        soft_wrap=True,
    )


def detect(predictor: Predictor, file: Path) -> Detections:
    """The detections of one file.

    Raises:
        BadImage: it cannot be decoded, or the detector cannot work on it (too large for the memory, say).
    """
    try:
        return predictor(file, score_threshold=0.0)  # the file of predictions holds every box
    except OSError as error:  # a link that leads round in a circle
        raise BadImage(f"{file} cannot be read: {error.strerror or error}") from error
    except RuntimeError as error:
        raise BadImage(f"{file} cannot be predicted: {str(error).splitlines()[0]}") from error


def coco_content(predictor: Predictor, found: Sequence[tuple[int, Path, Detections]]) -> dict[str, Any]:
    """Images, categories and annotations in COCO's format; every box that the detector returned."""
    images, records = [], []
    for number, name, detections in found:
        height, width = detections.image.shape[1:]
        images.append({"id": number, "file_name": name.as_posix(), "height": height, "width": width})
        records += detections.to_coco(number)
    classes = [{"id": i, "name": n} for i, n in zip(predictor.category_ids, predictor.class_names, strict=True)]
    numbered = [{"id": i, **record} for i, record in enumerate(records, start=1)]
    return {"images": images, "categories": classes, "annotations": numbered}


def picture_names(files: Sequence[Path]) -> list[Path]:
    """The name of each file's picture, a JPEG: the file's own, with another ending only if it is no .jpg.

    No two are alike, not even to a file system that knows no capitals, and none is too long for one.
    """
    taken: set[str] = set()
    names: list[Path] = []
    for file in files:
        ending = "" if file.suffix == ".jpg" else file.suffix.replace(".", "_")
        for number in count(1):
            end = f"{ending}{'' if number == 1 else f'_{number}'}.jpg"
            name = file.with_name(_shortened(file.stem, _LONGEST_NAME - len(os.fsencode(end))) + end)
            if str(name).casefold() not in taken:
                break
        taken.add(str(name).casefold())
        names.append(name)
    return names


def _shortened(text: str, most: int) -> str:
    """The beginning of a file name, at most `most` bytes, no letter cut through."""
    while len(os.fsencode(text)) > most:
        text = text[:-1]
    return text


def _spare_images(files: Sequence[Path], pictures: Sequence[Path]) -> None:
    # Not Path.resolve, which raises where links lead round in a circle.
    sources = {os.path.realpath(file) for file in files}
    for picture in pictures:
        if os.path.realpath(picture) in sources:
            raise ConfigError(
                f"run_dir={printable(picture.parent)}: the picture with boxes would overwrite the image "
                f"{printable(picture)}. Choose another folder: run_dir=FOLDER."
            )

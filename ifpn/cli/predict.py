"""`python predict.py`: boxes for photographs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import track

from ifpn.data import BadImage, ImageFolder
from ifpn.errors import ConfigError
from ifpn.plots.samples import draw_detections
from ifpn.predictor import load

_LONGEST_NAME = 255  # bytes: what file systems allow


def predict(cfg: DictConfig) -> None:
    """Draw boxes on one image or on each image below a folder, and write them all as one COCO-format JSON.

    Raises:
        ConfigError: the pictures would overwrite the images.
        BadImage: an unreadable image under `on_bad_image=refuse`, or no readable one at all.
    """
    console, out = Console(highlight=False), Path(cfg.run_dir)
    folder = ImageFolder(cfg.source, leave_out=out)
    names = picture_names([file.relative_to(folder.root) for file in folder.files])
    _spare_images(folder.files, [out / name for name in names])
    predictor = load(cfg.ckpt, cfg.device)
    records: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    refused: list[BadImage] = []
    for index in track(range(len(folder)), "predicting", console=console, transient=True):
        try:
            path, image = folder[index]
        except BadImage as error:
            if cfg.on_bad_image == "refuse":
                raise BadImage(f"{error}. Go on without such images: on_bad_image=skip") from error
            console.print(f"skipped: {printable(error)}", markup=False, soft_wrap=True)
            refused.append(error)
            continue
        found = predictor(image)
        name = path.relative_to(folder.root).as_posix()
        images.append({"id": index + 1, "file_name": name, "height": image.shape[1], "width": image.shape[2]})
        records += coco_records(index + 1, found, predictor.category_ids)
        picture = draw_detections(image, found, predictor.class_names, score_threshold=cfg.score_threshold)
        (out / names[index]).parent.mkdir(parents=True, exist_ok=True)
        picture.save(out / names[index], quality=92)
    if not images:
        raise BadImage(f"source={cfg.source}: none of {len(refused)} image files could be read, e.g. {refused[0]}")
    numbered = [{"id": i, **record} for i, record in enumerate(records, start=1)]
    classes = [{"id": i, "name": n} for i, n in zip(predictor.category_ids, predictor.class_names, strict=True)]
    content = {"images": images, "categories": classes, "annotations": numbered}
    out.mkdir(parents=True, exist_ok=True)
    (out / "predictions.json").write_text(json.dumps(content) + "\n")
    drawn = sum(r["score"] >= cfg.score_threshold for r in records)
    skipped = f" ({len(refused)} skipped)" if refused else ""
    console.print(
        f"{len(images)} images{skipped}, {drawn} boxes with a score of at least {cfg.score_threshold:g} drawn; "
        f"pictures and predictions.json in {printable(out)}",
        markup=False,
        soft_wrap=True,
    )


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
    sources = {file.resolve() for file in files}
    for picture in pictures:
        if picture.resolve() in sources:
            raise ConfigError(
                f"run_dir={printable(picture.parent)}: the picture with boxes would overwrite the image "
                f"{printable(picture)}. Choose another folder: run_dir=FOLDER."
            )


def printable(text: object) -> str:
    """Text for a terminal: file names may hold bytes that are no text."""
    return str(text).encode("utf-8", "backslashreplace").decode()


def coco_records(image_id: int, found: dict[str, torch.Tensor], category_ids: Sequence[int]) -> list[dict[str, Any]]:
    """Detections of one image as COCO's entries: official category ids, boxes as x, y, width, height."""
    boxes = found["boxes"].clone()
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
            "score": score,
        }
        for box, score, label in zip(boxes.tolist(), found["scores"].tolist(), found["labels"].tolist(), strict=True)
    ]

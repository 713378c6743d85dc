"""Evaluation's first state after a training: fitted to the weights that are validated, and saved with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor

from ifpn.runs.checkpoint import read_checkpoint
from tests.training.harness import TinyImplicit, build_tiny, configuration, train_here

pytestmark = pytest.mark.process

IMPLICIT = ("solver.warmup=1", "solver.fit_start=4")


def weights(path: Path) -> dict[str, Tensor]:
    return {k.removeprefix("detector."): v for k, v in read_checkpoint(path)["state_dict"].items()}


def fitted_again(path: Path, cfg: Any) -> dict[str, Tensor]:
    """The fit of the weights in a checkpoint, made once more."""

    detector = build_tiny(cfg, 8)
    assert isinstance(detector, TinyImplicit)
    detector.load_state_dict(weights(path))
    detector.eval()
    data = instantiate(cfg.data)
    with torch.no_grad(), detector.neck.fitting_start():
        for image in data.plain_training_images(4):
            detector([image.float() / 255])
    return {k: v for k, v in detector.state_dict().items() if "fitted_start" in k}


@pytest.mark.parametrize("more", [(), ("callbacks=ema",), ("data.val_share=0",)])
def test_it_belongs_to_the_weights_it_is_saved_with(small_data: Path, tmp_path: Path, more: tuple[str, ...]) -> None:
    cfg = configuration(small_data, tmp_path / "run", *IMPLICIT, *more)
    train_here(cfg)
    for name in ("last.ckpt", "best.ckpt"):
        saved = {k: v for k, v in weights(tmp_path / "run" / name).items() if "fitted_start" in k}
        wanted = fitted_again(tmp_path / "run" / name, cfg)
        assert saved.keys() == wanted.keys()
        assert len(saved) == 6
        for key, value in wanted.items():
            assert torch.equal(saved[key], value), (name, key)


def test_it_changes_nothing_in_the_training(small_data: Path, tmp_path: Path) -> None:
    for count in (4, 0):
        train_here(configuration(small_data, tmp_path / str(count), "solver.warmup=1", f"solver.fit_start={count}"))
    with_fit, without = (weights(tmp_path / str(count) / "last.ckpt") for count in (4, 0))
    assert without.keys() == {k for k in with_fit if "fitted_start" not in k}
    for key, value in without.items():
        assert torch.equal(with_fit[key], value), key


def test_plain_training_images_are_as_evaluation_reads_them(small_data: Path, tmp_path: Path) -> None:

    cfg = configuration(small_data, tmp_path / "run", "data.augment.flip=1.0")
    data = instantiate(cfg.data)
    images = list(data.plain_training_images(100))
    assert len(images) == len(data.train_dataset)
    assert [i.dtype for i in images] == [torch.uint8] * len(images)
    flipped = data.train_dataset[0][0]
    assert torch.equal(images[0], flipped.flip(-1))
    few = list(data.plain_training_images(3))
    assert torch.equal(few[0], images[0])
    assert torch.equal(few[-1], images[-1])

"""The video panned from photographs: pixels, boxes and pyramids move together; a warm start saves evaluations."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmarks import video
from benchmarks.video import Options, moved, pan
from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.data import DefectPolicy, load_annotations
from ifpn.data.shapes import ensure_shapes
from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import FORMAT

OPTIONS = Options("a", "b", frames=3, window=64, side=128)


@pytest.mark.parametrize("tall", [False, True])
def test_boxes_move_with_the_pixels(tall: bool) -> None:
    """A bright box on black, 256 x 160 pixels scaled by a half to 128 x 80: the box is where it is bright."""
    image = torch.zeros(3, 160, 256, dtype=torch.uint8)
    image[:, 64:96, 128:192] = 255
    boxes = torch.tensor([[128.0, 64, 192, 96], [0, 0, 8, 8]])
    if tall:
        image, boxes = image.transpose(1, 2), boxes[:, [1, 0, 3, 2]]
    frames = list(pan(image, boxes, 8, OPTIONS))
    assert len(frames) == 3
    for pixels, shifted, visible in frames:
        assert pixels.shape == (3, 64, 64)
        ys, xs = torch.nonzero(pixels[0] > 127, as_tuple=True)
        found = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
        assert shifted[0].tolist() == found
        assert visible[1] == 0
    along = [shifted[0, 1 if tall else 0].item() for _, shifted, _ in frames]
    assert [a - b for a, b in itertools.pairwise(along)] == [8, 8]
    # The path of 80 pixels lies in the middle of 128: the window of the first frame is columns 24 to 88.
    assert along[0] == 64 - 24
    _, _, visible = next(pan(image, boxes, 8, Options("a", "b", frames=3, window=48, side=128)))
    assert visible[0] == pytest.approx((32 + 48 - 64) / 32)


def test_a_pyramid_moves_by_pixels_of_the_image() -> None:
    """8 pixels of 64 are one of 8 cells, and half a cell of 4."""
    fine, coarse = torch.randn(1, 2, 8, 8), torch.arange(4.0).expand(1, 1, 4, 4)
    right = moved([fine, coarse], 8, 64, horizontal=True)
    torch.testing.assert_close(right[0][..., :-1], fine[..., 1:], rtol=0, atol=1e-5)
    torch.testing.assert_close(right[1][0, 0, 0], torch.tensor([0.5, 1.5, 2.5, 3.0]))
    down = moved([fine], 8, 64, horizontal=False)[0]
    torch.testing.assert_close(down[:, :, :-1], fine[:, :, 1:], rtol=0, atol=1e-5)


def checkpoint(path: Path, root: Path, *overrides: str) -> str:
    """An untrained detector as a run would save it."""
    given = ["run_dir=.", "data=shapes", f"data.root={root}", "backbone=resnet18", "backbone.weights=none"]
    given += ["neck.out_channels=16", "image.min_size=[64]", "image.max_size=128", "detector=atss", *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=given), resolve=True)
    torch.manual_seed(0)
    detector = build_detector(OmegaConf.create(config), 8)
    state = {f"detector.{name}": value for name, value in detector.state_dict().items()}
    names = load_annotations(root / "annotations" / "instances_val.json", policy=DefectPolicy()).categories.names
    facts = {"format": FORMAT, "config": config, "class_names": list(names), "category_ids": list(range(1, 9))}
    torch.save({"state_dict": state, "ifpn": facts}, path)
    return str(path)


@pytest.mark.slow
def test_the_whole_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ensure_shapes(tmp_path / "shapes", num_train=2, num_val=2, seed=0)
    ours = checkpoint(tmp_path / "a.ckpt", root, "solver=fast")
    fpn = checkpoint(tmp_path / "b.ckpt", root, "neck=fpn")
    monkeypatch.setattr(video, "SPEEDS", (1, 2))
    small = ["frames=3", "window=64", "side=128", "images=2", "rtol=0.2"]  # an untrained G is hard
    found = video.main([f"ckpt={ours}", f"fpn={fpn}", f"out={tmp_path / 'video.png'}", *small])
    assert [(row["speed"], row["start"]) for row in found] == [
        (speed, start) for speed in (1, 2) for start in ("cold", "warm", "moved", "fpn")
    ]
    by_start = {row["start"]: row for row in found if row["speed"] == 1}
    assert 1 <= by_start["warm"]["evals"] < by_start["cold"]["evals"] <= 7
    assert by_start["fpn"]["ratio"] == 1
    assert by_start["fpn"]["evals"] is None
    assert capsys.readouterr().out.count("| warm |") == 2
    assert (tmp_path / "video.png").stat().st_size > 5000
    with pytest.raises(ConfigError, match="must be a detector whose neck solves"):
        video.main([f"ckpt={fpn}", f"fpn={fpn}"])


@pytest.mark.parametrize("arguments", [["ckpt=a"], ["ckpt=a", "fpn=b", "speed=3"], ["ckpt=a", "fpn=b", "frames=x"]])
def test_wrong_arguments_are_refused_in_a_sentence(arguments: list[str]) -> None:
    with pytest.raises(ConfigError):
        Options.parse(arguments)

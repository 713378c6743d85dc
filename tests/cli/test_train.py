"""One small training from end to end: the run folder's story, exact resume, evaluation, prediction."""

from __future__ import annotations

import csv
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from ifpn.runs.checkpoint import read_checkpoint
from ifpn.runs.folder import BATCH, PICTURES
from tests.cli.cases import SMALL
from tests.conftest import ROOT
from tests.processes import PATIENCE, command

pytestmark = pytest.mark.process

STEPS = 2 * 24 // 4


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = command(script, *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def weights_hash(checkpoint: Path) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(read_checkpoint(checkpoint)["state_dict"].items()):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A finished run and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "uninterrupted"
    done = run("train.py", *SMALL, f"data.root={data}", f"run_dir={folder}", "data.workers=0")
    stray = [line for line in done.stderr.splitlines() if "starts from random values" not in line]  # asked for
    assert stray == []
    return folder, done.stdout


def test_the_run_folder_tells_its_story(finished: tuple[Path, str]) -> None:
    folder, printed = finished
    result = json.loads((folder / "result.json").read_text())
    assert result["complete"] is True
    assert result["steps"] == STEPS
    assert len(result["summary"]) == 12
    assert result["seconds_per_step"] > 0
    assert result["solver"]["forward_evals"] == 3
    assert 0 < result["solver"]["forward_residual"] < 10
    radius, depth = result["solver"]["spectral_radius"], result["solver"].get("effective_depth")
    assert radius > 0
    assert depth == (pytest.approx(1 / (1 - radius)) if radius < 1 else None)
    for picture in PICTURES:
        with Image.open(folder / picture) as image:
            assert min(image.size) > (100 if picture == BATCH else 300)  # two images of 64 px, not enlarged
    assert "detector  autoassign, neck implicit, csc pyramid, solver fast, backbone efficientnet_lite0\n" in printed
    assert "precision 32-true" in printed
    assert "AP50" in printed
    with open(folder / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row.get("val/AP")) for row in rows) == 2
    assert (folder / "best.ckpt").is_file()


def test_a_checkpoint_holds_plain_values_only(finished: tuple[Path, str]) -> None:
    facts = read_checkpoint(finished[0] / "last.ckpt")["ifpn"]
    assert json.loads(json.dumps(facts)) == facts
    assert facts["batches_seen"] == STEPS


def test_a_killed_command_resumes_to_the_same_weights_bit_for_bit(
    finished: tuple[Path, str], data: Path, tmp_path: Path
) -> None:
    """The real command and the real detector; test_resume.py kills a small one in many more places."""
    folder = tmp_path / "killed"
    quiet = ("~callbacks.run_report", "~callbacks.pictures", "~callbacks.export")
    arguments = (*SMALL, f"data.root={data}", f"run_dir={folder}", "data.workers=2", *quiet)
    started = [sys.executable, "train.py", *arguments]
    process = subprocess.Popen(started, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200 * PATIENCE
    while time.monotonic() < deadline and process.poll() is None and not (folder / "last.ckpt").is_file():
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 1 <= read_checkpoint(folder / "last.ckpt")["global_step"] < STEPS, "over before it could be killed"
    printed = run("train.py", *arguments, "ckpt=last").stdout
    assert "resumed" in printed
    assert read_checkpoint(folder / "last.ckpt")["global_step"] == STEPS
    assert weights_hash(folder / "last.ckpt") == weights_hash(finished[0] / "last.ckpt")


def test_evaluate_repeats_the_numbers_of_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = finished
    run("evaluate.py", f"ckpt={folder / 'last.ckpt'}", f"run_dir={tmp_path}", "device=cpu")
    again = json.loads((tmp_path / "scores.json").read_text())["summary"]
    first = json.loads((folder / "result.json").read_text())["summary"]
    # The same weights on the same images; 1e-6 allows for another batch size changing the order of sums.
    assert again == pytest.approx(first, abs=1e-6)


def test_validation_evaluation_and_prediction_find_the_same_boxes(finished: tuple[Path, str], data: Path) -> None:
    """In batches of 4, 8 and 1: to 1e-3 px and probability, for sums in another order."""
    import ifpn

    detector = ifpn.load(finished[0] / "last.ckpt", device="cpu")
    written = json.loads((finished[0] / "predictions.json").read_text())  # of the last validation
    truth = json.loads((data / "annotations" / "instances_val.json").read_text())
    files = {path.name: path for path in data.rglob("*.jpg") if "val" in path.as_posix().removeprefix(str(data))}
    for entry in truth["images"]:
        found = detector(files[entry["file_name"]], score_threshold=0.0).to_coco(entry["id"])
        mine = [record for record in written if record["image_id"] == entry["id"]]
        assert [r["category_id"] for r in found] == [r["category_id"] for r in mine]
        assert [r["score"] for r in found] == pytest.approx([r["score"] for r in mine], abs=1e-3)
        assert [v for r in found for v in r["bbox"]] == pytest.approx([v for r in mine for v in r["bbox"]], abs=1e-3)


def test_predict_draws_every_picture_and_writes_one_json(finished: tuple[Path, str], tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    for name, size in {"wide.jpg": (200, 90), "tall.png": (70, 160), "tiny.jpg": (20, 20)}.items():
        Image.effect_noise(size, 80).convert("RGB").save(source / name)
    out = tmp_path / "out"
    run("predict.py", f"ckpt={finished[0] / 'last.ckpt'}", f"source={source}", f"run_dir={out}")
    content = json.loads((out / "predictions.json").read_text())
    assert sorted(i["file_name"] for i in content["images"]) == ["tall.png", "tiny.jpg", "wide.jpg"]
    assert len(list(out.glob("*.jpg"))) == 3
    sizes = {i["id"]: (i["width"], i["height"]) for i in content["images"]}
    ids = {c["id"] for c in content["categories"]}
    for record in content["annotations"]:
        x, y, w, h = record["bbox"]
        width, height = sizes[record["image_id"]]
        # 1e-3 px: rounding of x + w in float32.
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3
        assert record["category_id"] in ids


def test_a_checkpoint_is_a_detector_in_two_lines(finished: tuple[Path, str]) -> None:
    import ifpn

    detector = ifpn.load(finished[0] / "best.ckpt", device="cpu")
    found = detector(torch.rand(3, 50, 120))
    assert set(found.keys()) == {"boxes", "scores", "labels"}
    assert len(detector.class_names) == len(detector.category_ids)
    with pytest.raises(ValueError, match=r"must be \(3, H, W\)"):
        detector(torch.rand(1, 50, 120))


def test_the_exported_detector_answers_as_the_checkpoint(finished: tuple[Path, str]) -> None:
    import ifpn

    image = torch.rand(3, 60, 90)
    first = ifpn.load(finished[0] / "best.ckpt", device="cpu")(image)
    second = ifpn.load(finished[0] / "export", device="cpu")(image)
    assert all(torch.equal(first[name], second[name]) for name in first)

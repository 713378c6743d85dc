"""A detector goes to the hub with a card and comes back the same, and nothing else is taken from there."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from omegaconf import OmegaConf

from ifpn.cli import push
from ifpn.config.build import build_detector
from ifpn.errors import ConfigError
from ifpn.predictor import load
from ifpn.runs.card import without_paths
from ifpn.runs.export import CONFIG, WEIGHTS, export
from ifpn.runs.hub import Address, fetch
from ifpn.runs.restore import read_trained
from ifpn.training.start import find_start
from tests.config.composing import composed
from tests.runs.stand_in_hub import Hub, serving


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run, with all that a card is written from; two more seeds lie beside it."""
    cfg = composed("backbone=stem", "neck.out_channels=16", "data.root=/home/me/cells", "run_dir=/home/me/runs/one")
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    weights = {f"detector.{name}": value for name, value in build_detector(cfg, 2).state_dict().items()}
    facts = {"format": 1, "class_names": ["red", "white"], "category_ids": [1, 4], "score_threshold": 0.25}
    folder = tmp_path_factory.mktemp("sweep")
    export({"state_dict": weights, "ifpn": {**facts, "config": config}}, folder / "seed=0" / "export")
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
    for seed, score in enumerate((0.30, 0.32, 0.34)):
        result = {"complete": True, "seed": seed, "steps": 160, "batch": 8, "best_AP": 0.31}
        result |= {"config": {**config, "seed": seed}}
        result |= {"summary": {**dict.fromkeys(names, score), "APs": -1}, "solver": {"forward_residual": 0.0123}}
        result |= {"machine": "a machine", "versions": {"ifpn": "0.1.0"}, "choices": {"detector": "autoassign"}}
        (folder / f"seed={seed}" / "hydra").mkdir(parents=True)
        (folder / f"seed={seed}" / "result.json").write_text(json.dumps(result))
        words = ["recipe=quick", "data.root=/home/me/cells", f"seed={seed}", "run_dir=/home/me/runs/one"]
        (folder / f"seed={seed}" / "hydra" / "overrides.yaml").write_text(yaml.safe_dump(words))
    return folder / "seed=0"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_TOKEN", "token-that-may-write")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        yield hub


def pushed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The pinned address that `ifpn push` printed."""
    assert push.main([str(word) for word in arguments]) == 0
    return capsys.readouterr().out.split()[1]


def test_what_was_pushed_loads_as_it_was(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pinned = pushed(capsys, run / "export", "hf://me/cells", "--licence", "mit")
    commit = hub.heads["me/cells"]
    assert pinned == f"hf://me/cells@{commit}"
    assert set(hub.repos["me/cells"][commit]) == {WEIGHTS, CONFIG, "README.md"}
    before, after = read_trained(run / "export"), read_trained("hf://me/cells")
    assert capsys.readouterr().err == f"ckpt={pinned}\n"
    assert all(torch.equal(value, after["state_dict"][name]) for name, value in before["state_dict"].items())
    assert before["state_dict"].keys() == after["state_dict"].keys()
    assert after["ifpn"]["score_threshold"] == 0.25
    assert load("hf://me/cells", "cpu").class_names == ["red", "white"]
    hub.commit("me/cells", {WEIGHTS: b"others"})
    # The pinned one stays what it was; the newest is another, and is refused.
    assert load(pinned, "cpu").score_threshold == 0.25
    with pytest.raises(ConfigError, match="is damaged"):
        read_trained("hf://me/cells")


def test_the_card_says_what_the_run_measured(run: Path, hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    pushed(capsys, run, "hf://me/cells")
    files = hub.repos["me/cells"][hub.heads["me/cells"]]
    text = files["README.md"].decode()
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert (front["license"], front["library_name"]) == ("other", "ifpn")
    assert front["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.3
    for words in (
        "# autoassign, neck ImplicitFPN",
        "2 classes: red, white.",
        "| 0.300 | 0.300 | 0.300 | - |",
        "best validation, AP 0.310",
        "3 seeds: AP 0.320 ± 0.020",  # by hand
        "residual at the end of training 0.012",
        "At most 7 evaluations of G",
        "ifpn train recipe=quick data.root=cells seed=0\n",
        "160 steps of 8 images, on a machine",
        "not stated",
        'ifpn.load("hf://me/cells")',
    ):
        assert words in body, words
    assert "/home/me" not in text + files[CONFIG].decode()


def test_a_card_without_a_result_claims_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(copy.deepcopy(read_trained(run / "export")), tmp_path / "alone" / "export")
    assert push.main(["alone/export", "hf://me/cells", "--dry-run"]) == 0
    text = (tmp_path / "hub" / "cells" / "README.md").read_text()
    assert "nothing is known of their accuracy" in text
    assert "AP" not in text.replace("AP50", "")


def test_nothing_but_two_files_is_asked_for_and_pickles_are_refused(hub: Hub, run: Path) -> None:
    hub.commit("me/pickle", {"best.ckpt": b"\x80\x04", "pytorch_model.bin": b"\x80\x04"})
    with pytest.raises(ConfigError, match=r"init=hf://me/pickle: the repository has no config\.json.*could run code"):
        fetch("hf://me/pickle", "init")
    assert not [path for path in hub.asked if "best.ckpt" in path or ".bin" in path]
    with pytest.raises(ConfigError, match="no pickle is pushed"):
        push.main([str(run / "best.ckpt"), "hf://me/cells"])


def test_what_cannot_be_found_is_said(hub: Hub, run: Path) -> None:
    with pytest.raises(ConfigError, match="no such repository"):
        fetch("hf://me/nothing")
    hub.commit("me/cells", {CONFIG: b"{}"})
    with pytest.raises(ConfigError, match="me/cells has no revision v9"):
        fetch("hf://me/cells@v9")
    with pytest.raises(ConfigError, match="Start from them: init=hf://me/cells"):
        find_start("hf://me/cells", run)


@pytest.mark.slow
def test_offline_the_files_to_fetch_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    by_hand = "http://127.0.0.1:9/me/cells/resolve/main"
    with pytest.raises(ConfigError) as caught:
        fetch("hf://me/cells")
    assert f"download {by_hand}/config.json and {by_hand}/model.safetensors into one folder" in str(caught.value)
    assert "ckpt=FOLDER" in str(caught.value)
    with pytest.raises(ConfigError, match=r"could not be written.*--dry-run"):
        push.main([str(run), "hf://me/cells"])


@pytest.mark.parametrize(
    "text", ["hf://", "hf://name", "hf://a/b/c", "hf://a/../b", "hf://a/b@", "hf://a/b@x y", "hf:/a/b", "hf://a/b?c"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="must be hf://user/name"):
        Address.parse(text, "ckpt")


def test_folders_of_a_machine_are_left_out() -> None:
    config = {"a": "/home/me/x/", "b": ["~/y", "relative/z"], "c": {"d": r"C:\data\w", "e": 3}, "f": "/"}
    assert without_paths(config) == {"a": "x", "b": ["y", "relative/z"], "c": {"d": "w", "e": 3}, "f": "."}

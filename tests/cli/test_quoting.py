"""A path on the command line arrives as it was typed, whatever is in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from ifpn.cli.quoting import expand_seeds, quote_paths
from ifpn.errors import ConfigError


def arrived(argument: str) -> object:
    """What the configuration holds after Hydra has read the argument."""
    (override,) = OverridesParser.create().parse_overrides(quote_paths([argument]))
    cfg = OmegaConf.create({"value": override.value()})
    return OmegaConf.to_container(cfg, resolve=True)["value"]  # type: ignore[index,call-overload]


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=40))
@example("my folder (old), 2024 = best")
@example('a"b\\')
@example("C:\\photos\\")
@example("bücher/😀.jpg")
@example("[1,2]")
@example("${oc.env:HOME}"[1:])
def test_any_name_of_a_folder_survives(name: str) -> None:
    path = f"/data/{name}"
    assert arrived(f"data.root={path}") == path


def test_the_home_folder_is_expanded() -> None:
    assert arrived("data.root=~/my data") == str(Path.home() / "my data")
    assert arrived("ckpt=~/best.ckpt") == str(Path.home() / "best.ckpt")


@pytest.mark.parametrize(
    ("argument", "value"),
    [("ckpt=null", None), ("ckpt=last", "last"), ("data.root='quoted already'", "quoted already")],
)
def test_words_and_quotes_keep_their_meaning(argument: str, value: object) -> None:
    assert arrived(argument) == value


def test_other_settings_are_left_to_hydra() -> None:
    arguments = ["image.min_size=[64,96]", "-m", "seed=0,1", "+x={a: 1}", "~callbacks.best"]
    assert quote_paths(arguments) == arguments


def test_in_a_sweep_a_comma_separates_folders() -> None:
    assert quote_paths(["-m", "data.root=a,b", "run_dir=my runs"]) == ["-m", "data.root=a,b", 'run_dir="my runs"']


def test_an_experiment_that_sweeps_does_so_without_m(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python train.py experiment=sets data.root=a,b` of docs/reproduce.md is two data sets."""
    monkeypatch.chdir(tmp_path)
    assert quote_paths(["experiment=sets", "data.root=a,b"]) == ["experiment=sets", "data.root=a,b"]
    each = quote_paths(["experiment=sets", "data.root=~/a,my data,2024"])[1]
    assert each == f'data.root={Path.home()}/a,"my data","2024"'
    for single in (["experiment=sets", "hydra.mode=RUN"], ["experiment=debug/overfit"], []):
        assert quote_paths([*single, "data.root=a,b"])[-1] == 'data.root="a,b"'
    for hydras in ('"a b",c', "choice(a,b)", "glob(*)"):
        assert quote_paths(["-m", f"data.root={hydras}"]) == ["-m", f"data.root={hydras}"]
    (tmp_path / "a,b").mkdir()  # a folder of this name can only be meant
    assert quote_paths(["-m", "data.root=a,b"]) == ["-m", 'data.root="a,b"']


def test_seeds_are_a_sweep_over_seed() -> None:
    assert expand_seeds(["-m", "seeds=3", "neck=fpn"]) == ["-m", "neck=fpn", "seed=0,1,2"]
    assert expand_seeds(["experiment=table4", "seeds=1"]) == ["experiment=table4", "seed=0"]
    assert expand_seeds(["-m", "seed=1,2"]) == ["-m", "seed=1,2"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seeds=0"], "whole number from 1 to 1000"),
        (["-m", "seeds=x"], "whole number from 1 to 1000"),
        (["-m", "seeds=2", "seed=1"], "cannot stand beside seed"),
        (["seeds=2"], "add -m"),
    ],
)
def test_seeds_that_cannot_be_meant(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        expand_seeds(arguments)

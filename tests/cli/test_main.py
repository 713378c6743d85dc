"""`ifpn` without a command, with a wrong one, and with those that need no configuration."""

from __future__ import annotations

import re

import pytest

import ifpn
from ifpn.cli.main import COMMANDS, main


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "error: ifpn needs a command."),
        (["trian"], r"error: ifpn trian: must be one of train, evaluate, .* Did you mean ifpn train\?"),
        (["data=coco"], "error: ifpn data=coco: must be one of"),
    ],
)
def test_a_wrong_command_names_the_right_ones(
    words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ifpn", *words])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 2
    shown = capsys.readouterr()
    assert not shown.out
    first, _, usage = shown.err.partition("\n")
    assert re.match(message, first)
    assert all(f"\n  {name} " in usage for name in COMMANDS)


def test_the_version_is_the_packages(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ifpn", "--version"])
    main()
    assert capsys.readouterr().out == f"ifpn {ifpn.__version__}\n"


def test_user_errors_of_a_command_without_hydra_are_sentences(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["ifpn", "check-data", "nowhere", "--iou-crop", "7"])
    with pytest.raises(SystemExit) as exit_status:
        main()
    assert exit_status.value.code == 2
    assert capsys.readouterr().err.startswith("error: data.augment.iou_crop=7")

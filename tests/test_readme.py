"""What the README shows is true: its example runs, its commands compose, its links exist."""

from __future__ import annotations

import re

import pytest
import torch
from hydra import compose, initialize_config_dir

from ifpn.cli.quoting import quote_paths
from ifpn.config.paths import CONF
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_drop_in_example_trains_torchvisions_fcos() -> None:
    blocks = [b for b in re.findall(r"```python\n(.*?)```", README, flags=re.S) if "ImplicitFPN" in b]
    assert len(blocks) == 1
    scope: dict[str, dict[str, torch.Tensor]] = {}
    exec(blocks[0], scope)
    losses = torch.stack(list(scope["losses"].values()))
    assert torch.isfinite(losses).all()
    assert losses.requires_grad


COMMANDS = [line.split("#")[0].split()[2:] for line in README.splitlines() if line.startswith("python train.py")]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_the_training_commands_compose(arguments: list[str]) -> None:
    overrides = quote_paths([re.sub(r"=([^,]+),.*", r"=\1", a) for a in arguments if a != "-m"])
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("train", overrides=overrides).seed == 0


def test_every_relative_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md"]  # test_docs.py has the others
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"

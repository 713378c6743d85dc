"""What the README shows is true: its example runs, its commands compose, its links exist."""

from __future__ import annotations

import re
from importlib import import_module

import pytest
import torch
from hydra import compose, initialize_config_dir

from ifpn.cli.quoting import quote_paths
from ifpn.config.paths import CONF
from tests.cases import imports
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


CHAINS = re.findall(r"^\* .*→.*(?:\n  .*)*", README, flags=re.M)
ARROWS = [
    arrow
    for chain in CHAINS
    for arrow in re.findall(r"\]\(([\w/.]+)\) →\s+(?:\(`(conf/\w+)`\)\s+)?(?=\[`[^`]*`\]\(([\w/.]+)\))", chain)
]


@pytest.mark.parametrize(("source", "group", "target"), ARROWS)
def test_every_arrow_of_the_main_path_is_an_import_or_a_class_of_the_configuration(
    source: str, group: str, target: str
) -> None:
    if group:
        texts = [path.read_text() for path in (ROOT / group).rglob("*.yaml")]
        named = [name.rpartition(".") for text in texts for name in re.findall(r"_target_: (ifpn\.\S+)", text)]
        taken = [(module, (name,)) for module, _, name in named]
    else:
        taken = [(module, names) for module, names in imports(ROOT / source) if module.startswith("ifpn.")]
    homes = {module for module, _ in taken}
    homes |= {getattr(getattr(import_module(m), name), "__module__", "") for m, names in taken for name in names}
    assert target.removesuffix(".py").replace("/", ".") in homes


def test_the_main_path_fits_in_one_sitting() -> None:
    files = {file for source, _, target in ARROWS for file in (source, target)}
    assert len(ARROWS) == sum(chain.count("→") for chain in CHAINS) >= 10
    assert len(files) <= 16
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= 2000


def test_every_relative_link_leads_somewhere() -> None:
    pages = [ROOT / "README.md"]  # test_docs.py has the others
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name} links to {target}"

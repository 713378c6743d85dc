"""A configuration is input: it may name our classes and Lightning's, and nothing that runs commands."""

from __future__ import annotations

import re

import pytest
from omegaconf import OmegaConf

from ifpn.config.allowlist import check_targets
from ifpn.config.paths import CONF
from ifpn.errors import ConfigError


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "subprocess.Popen",
        "ifpn.cli.command.os.system",  # begins below ifpn, ends elsewhere
        "torch.optim.optimizer.torch.hub.load",
        "torch.os.system",
        "pytorch_lightning.callbacks.model_checkpoint.os.system",
        "pytorch_lightning.plugins.environments.slurm_environment.subprocess.run",
        "ifpn.training.distributed.signal.signal",
        "ifpn.csc.pyramid.nn.Conv2d",
        "ifpn.data.module.torch.load",
        "ifpn.cli.processes.Processes.run",  # defined by us, and runs any command
        "ifpn.cli.processes.Processes",
        "ifpn.training.callbacks.Export.on_train_end",  # a method
        "ifpn.runs.export.export",  # writes where it is told to
        "ifpn.training.callbacks",  # a module
        "hydra.utils.get_method",
        "hydra.utils.get_object",
        "hydra.utils.call",
        "hydra.utils.instantiate",
        "ifpn",
        "ifpn.",
        "ifpnx.evil",
        "ifpn.solvers.__builtins__",
        "",
        42,
        None,
    ],
)
def test_a_foreign_target_is_refused_wherever_it_stands(target: object) -> None:
    hidden = {"_target_": "ifpn.necks.FPN", "_args_": [{"_target_": target}]}
    for node in ({"_target_": target}, {"a": [{"b": {"_target_": target}}]}, hidden, OmegaConf.create({"x": hidden})):
        with pytest.raises(ConfigError, match="is not allowed"):
            check_targets(node)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("ifpn.necks.NoSuch", "ifpn.necks has no NoSuch; it has .*ImplicitFPN"),
        ("ifpn.necks.no_such.Neck", "is not allowed, because there is no such thing: ifpn.necks has no no_such"),
        ("torch.optim.Adamm", "torch.optim has no Adamm"),
    ],
)
def test_a_misspelt_target_is_told(target: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_targets({"_target_": target})


@pytest.mark.parametrize(
    "target",
    [
        "ifpn.solvers.Broyden",
        "ifpn.csc.pyramid.PyramidConv",
        "torch.optim.SGD",
        "torch.optim.lr_scheduler.StepLR",
        "pytorch_lightning.Trainer",
        "pytorch_lightning.loggers.CSVLogger",
        "pytorch_lightning.plugins.environments.TorchElasticEnvironment",  # of lightning_fabric, as Lightning's own
    ],
)
def test_our_own_targets_pass(target: str) -> None:
    check_targets({"x": {"_target_": target}})


def test_every_target_of_the_configuration_files_passes() -> None:
    files = sorted(CONF.rglob("*.yaml"))
    found = {t for f in files for t in re.findall(r"^\s*-?\s*_target_:\s*(\S+)", f.read_text(), re.MULTILINE)}
    # Hydra builds the launcher itself, and takes it from packages below hydra_plugins only.
    ours = sorted(t for t in found if not t.startswith("hydra_plugins."))
    assert len(ours) > 40
    check_targets([{"_target_": target} for target in ours])

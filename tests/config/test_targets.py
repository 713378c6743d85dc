"""A configuration is input: it may name our classes and Lightning's, and nothing that runs commands."""

from __future__ import annotations

import pytest

from ifpn.config.errors import ConfigError
from ifpn.config.targets import check_targets


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "torch.hub.load",
        "torch.load",
        "subprocess.Popen",
        "ifpn.config.command.os.system",  # begins below ifpn, ends elsewhere
        "torch.optim.optimizer.torch.hub.load",
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
    for node in ({"_target_": target}, {"a": [{"b": {"_target_": target}}]}):
        with pytest.raises(ConfigError, match="is not allowed"):
            check_targets(node)


@pytest.mark.parametrize(
    "target",
    ["ifpn.solvers.Broyden", "torch.optim.SGD", "pytorch_lightning.Trainer", "pytorch_lightning.loggers.CSVLogger"],
)
def test_our_own_targets_pass(target: str) -> None:
    check_targets({"x": {"_target_": target}})

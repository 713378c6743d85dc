"""Options that need a package which a plain installation does not bring."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from ifpn.errors import ConfigError

# (group, option): the package that is imported; the extra of pyproject.toml has the same name
EXTRAS = {("logger", "tensorboard"): "tensorboard"}


def check_extras(choices: Mapping[str, str | None]) -> None:
    """Refuse an option whose package is missing, before anything is built.

    Args:
        choices: The chosen option of each group.

    Raises:
        ConfigError: The package of a chosen option is not installed.
    """
    for (group, option), package in EXTRAS.items():
        if choices.get(group) == option and find_spec(package) is None:
            raise ConfigError(
                f"{group}={option}: must be another option while the package {package} is not installed. "
                f"Install it: pip install 'ifpn[{package}]'."
            )

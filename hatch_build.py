"""What pyproject.toml cannot say: dependencies stand in requirements.txt; a wheel carries conf/ and train.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# From the top of a clone to where a wheel has it: `ifpn.config.paths.CONF` and `ifpn.cli.main.TRAIN` find both.
IN_WHEEL = {"conf": "ifpn/conf", "train.py": "ifpn/commands/train.py"}


class Dependencies(MetadataHookInterface):
    """`dependencies` from requirements.txt, where each bound has its reason beside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Fill in the field that pyproject.toml calls dynamic."""
        lines = (Path(self.root) / "requirements.txt").read_text(encoding="utf-8").splitlines()
        metadata["dependencies"] = [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


class TopLevelFiles(BuildHookInterface[Any]):
    """conf/ and train.py inside the package; an editable installation reads those of the clone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to a wheel that is built for installation."""
        if version == "standard":
            build_data["force_include"].update({str(Path(self.root) / path): to for path, to in IN_WHEEL.items()})

"""What pyproject.toml cannot say: dependencies stand in requirements.txt; a wheel carries conf/ and the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

# Where the files that stand at the top of a clone go in a wheel: `ifpn/config/paths.py` finds both.
IN_WHEEL = {
    "conf": "ifpn/conf",
    **{f"{name}.py": f"ifpn/commands/{name}.py" for name in ("train", "evaluate", "predict")},
}


class Dependencies(MetadataHookInterface):
    """`dependencies` from requirements.txt, where each bound has its reason beside it."""

    def update(self, metadata: dict[str, Any]) -> None:
        lines = (Path(self.root) / "requirements.txt").read_text(encoding="utf-8").splitlines()
        metadata["dependencies"] = [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


class TopLevelFiles(BuildHookInterface[Any]):
    """conf/ and the commands inside the package; an editable installation reads those of the clone."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            build_data["force_include"].update({str(Path(self.root) / path): to for path, to in IN_WHEEL.items()})

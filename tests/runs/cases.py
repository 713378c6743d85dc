"""A file that would run a command."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return (os.system, (f"touch {self.marker}",))

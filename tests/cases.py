"""What the tests of the sources share."""

from __future__ import annotations

import ast
from pathlib import Path


def imports(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    """(module, names taken from it) of every import of a file, at any depth."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = [(n.module or "", tuple(a.name for a in n.names)) for n in nodes if isinstance(n, ast.ImportFrom)]
    return found + [(a.name, ()) for n in nodes if isinstance(n, ast.Import) for a in n.names]

"""Where the configuration files are."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A wheel carries conf/ inside the package; a clone has it at the top level, where a reader looks for it.
CONF = next((path for path in (_PACKAGE / "conf", _PACKAGE.parent / "conf") if path.is_dir()), _PACKAGE / "conf")

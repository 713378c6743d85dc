"""The command `ifpn`: a table of commands. Each is imported when it is called, so that help answers without torch."""

from __future__ import annotations

import difflib
import runpy
import sys
from importlib import import_module
from pathlib import Path

import ifpn

PACKAGE = Path(ifpn.__file__).resolve().parent
# name: (module with `main(arguments) -> exit status`, or None for the file of that name which Hydra runs; what it does)
COMMANDS: dict[str, tuple[str | None, str]] = {
    "train": (None, "train a detector, evaluate it, draw what happened"),
    "evaluate": (None, "the 12 COCO numbers of a checkpoint, or of a file of predictions"),
    "predict": (None, "boxes for a photograph or for a folder of photographs"),
    "report": ("ifpn.cli.report", "a table of the runs in a folder"),
    "check-data": ("ifpn.cli.check_data", "every defect of a COCO-format folder, and pictures with its boxes"),
}


def main() -> None:
    """Run `ifpn COMMAND …`; exit status 2 for what a user can mend."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in ("-h", "--help"):
        print(usage())
    elif name == "--version":
        print(f"ifpn {ifpn.__version__}")
    elif name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean ifpn {close[0]}?" if close else ""
        wrong = f"ifpn {name}: must be one of {', '.join(COMMANDS)}.{hint}" if name else "ifpn needs a command."
        sys.exit(_refused(f"error: {wrong}\n\n{usage()}"))
    else:
        run(name, arguments)


def run(name: str, arguments: list[str]) -> None:
    """Run a command of the table in this process."""
    module = COMMANDS[name][0]
    if module is None:
        # As `python FILE …`: ranks and jobs of a sweep are started by repeating sys.argv.
        sys.argv = [str(command_file(name)), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        from ifpn.cli.command import reporting_user_errors

        with reporting_user_errors():
            sys.exit(import_module(module).main(arguments))


def command_file(name: str) -> Path:
    """`train.py` and its like: a wheel carries them in `ifpn/commands`, a clone has them at the top level."""
    inside = PACKAGE / "commands" / f"{name}.py"
    return inside if inside.is_file() else PACKAGE.parent / f"{name}.py"


def usage() -> str:
    """The table as text."""
    rows = "\n".join(f"  {name:12}{what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: ifpn COMMAND [settings]\n\n"
        f"{rows}\n\n"
        "ifpn COMMAND --help shows the settings of each. First try: ifpn train, which draws its own data."
    )


def _refused(message: str) -> int:
    print(message, file=sys.stderr)
    return 2

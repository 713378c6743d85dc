"""The command `ifpn`: a table of commands. Each is imported when it is called, so that help answers without torch."""

from __future__ import annotations

import difflib
import runpy
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import ifpn

_PACKAGE = Path(ifpn.__file__).resolve().parent
# A training starts itself again, as ranks and as jobs of a sweep, by repeating `sys.argv`: it has to be a file. A wheel
# carries the clone's train.py inside the package.
TRAIN = next(p for p in (_PACKAGE / "commands" / "train.py", _PACKAGE.parent / "train.py") if p.is_file())


@dataclass(frozen=True)
class Command:
    """A command of `ifpn`.

    Attributes:
        what: What it does, for the usage.
        module: Where its function is: `function(cfg)`, named as the command, or `main(arguments) -> exit status`.
        hydra: Whether `conf/<command>.yaml` is its configuration; else it reads its arguments itself.
    """

    what: str
    module: str
    hydra: bool = True


COMMANDS = {
    "train": Command("train a detector, evaluate it, draw what happened", "ifpn.cli.train"),
    "evaluate": Command("the 12 COCO numbers of a checkpoint, or of a file of predictions", "ifpn.cli.evaluate"),
    "predict": Command("boxes for a photograph or for a folder of photographs", "ifpn.cli.predict"),
    "export": Command("a detector as a file for other runtimes: ONNX, TorchScript, torch.export", "ifpn.cli.export"),
    "push": Command("a detector on the Hugging Face hub, with a card", "ifpn.cli.push", hydra=False),
    "report": Command("a table of any sweep, with paired differences", "ifpn.cli.report"),
    "check-data": Command("every defect of a COCO-format folder, and pictures", "ifpn.cli.check_data", hydra=False),
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
    """Run a command of the table in this process; its module is imported when its configuration is complete."""
    command = COMMANDS[name]
    sys.argv = [str(TRAIN) if name == "train" else f"ifpn {name}", *arguments]
    if name == "train":
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    from ifpn.cli.command import command as composed
    from ifpn.cli.command import reporting_user_errors

    if command.hydra:
        composed(config_name=name)(lambda cfg: getattr(import_module(command.module), name)(cfg))()
        return
    with reporting_user_errors():
        sys.exit(import_module(command.module).main(arguments))


def usage() -> str:
    """The table as text."""
    rows = "\n".join(f"  {name:12}{command.what}" for name, command in COMMANDS.items())
    return (
        "usage: ifpn COMMAND [settings]\n\n"
        f"{rows}\n\n"
        "ifpn COMMAND --help shows the settings of each. First try: ifpn train, which draws its own data."
    )


def _refused(message: str) -> int:
    print(message, file=sys.stderr)
    return 2

"""`ifpn push RUN/export hf://user/name`: a trained detector on the Hugging Face hub, with a card that describes it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ifpn.runs.hub import Address

DESCRIPTION = """\
Upload model.safetensors, config.json and a model card to the Hugging Face hub. The card is written from the run's
result.json; folders of this machine are left out of both texts.

  ifpn push runs/one/export hf://user/name
  ifpn push runs/one/export hf://user/name --licence mit --private
  ifpn push runs/one/export hf://user/name --dry-run       # writes the three files, uploads nothing

Log in first (hf auth login), or set HF_TOKEN. HF_ENDPOINT names another hub."""


def main(arguments: Sequence[str]) -> int:
    """Push what the arguments name.

    Args:
        arguments: the words after `ifpn push`.

    Returns:
        Exit status 0.

    Raises:
        ConfigError: no export there, or no way to write to the hub.
    """
    options = _parse(arguments)

    from rich.console import Console

    from ifpn.runs.hub import Address, publish

    console = Console(highlight=False)
    address = Address.parse(options.address, "ADDRESS")
    if options.dry_run:
        folder = Path("hub") / address.name
        prepare(options.source, folder, address, options.licence)
        console.print(f"In {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}", soft_wrap=True)
        return 0
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(options.source, folder, address, options.licence)
        message = options.message or f"{Path(options.source).resolve().parent.name}, pushed by ifpn"
        pinned = publish(folder, address, message=message, private=options.private)
    console.print(f"[bold]pushed[/]   {pinned}", soft_wrap=True)
    console.print(f"[bold]next[/]     ifpn predict ckpt={pinned} source=photos/", soft_wrap=True)
    return 0


def prepare(source: Path, folder: Path, address: Address, licence: str | None) -> None:
    """Write to `folder` what is uploaded: the export without paths of this machine, and its card.

    Args:
        source: the folder `export` of a run, or the run's folder.
        folder: where to; made if need be.
        address: for the card.
        licence: for the card; None: not stated.

    Raises:
        ConfigError: `source` holds no export.
    """
    from ifpn.errors import ConfigError
    from ifpn.runs.card import model_card, without_paths
    from ifpn.runs.export import export, read_export
    from ifpn.runs.files import write_text
    from ifpn.runs.folder import EXPORT, RESULT

    if source.suffix == ".ckpt":
        raise ConfigError(f"{source}: must be a folder, e.g. {source.parent / EXPORT}: no pickle is pushed.")
    exported = source / EXPORT if (source / EXPORT).is_dir() else source
    content: dict[str, Any] = read_export(exported)
    run = exported.resolve().parent
    content["ifpn"]["config"] = without_paths(content["ifpn"]["config"])
    export(content, folder)
    known = run if (run / RESULT).is_file() else None
    write_text(folder / "README.md", model_card(content["ifpn"], known, str(address), licence))


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "ifpn push", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the folder `export` of a run, or the run's folder")
    parser.add_argument("address", help="hf://user/name, or hf://user/name@branch")
    parser.add_argument("--licence", help="of the weights, as the hub calls it: mit, cc-by-4.0 … (default: not stated)")
    parser.add_argument("--message", help="of the commit")
    parser.add_argument("--private", action="store_true", help="if the repository is new: only you see it")
    parser.add_argument("--dry-run", action="store_true", help="write the files to hub/NAME, upload nothing")
    return parser.parse_args(arguments)

"""A trained detector as two files without any training state: model.safetensors and config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from safetensors import safe_open
from safetensors.torch import load_file, save

from ifpn.errors import ConfigError
from ifpn.reading import read_bytes
from ifpn.runs.checkpoint import FORMAT, check_digest, first_line, read_checkpoint, with_digest
from ifpn.runs.content import ContentError, checked_metadata
from ifpn.runs.files import refuse_links, replacing, write_json
from ifpn.runs.folder import BEST, LAST

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Of what a checkpoint says about itself, what is needed to build and use the detector.
KEPT = ("format", "config", "class_names", "category_ids")
ALSO_KEPT = ("score_threshold",)  # of a run that was validated


class Export(Checkpoint):
    """Writes `<dirpath>/model.safetensors` and `config.json` when training ends, from best.ckpt, else last.ckpt."""

    def __init__(self, dirpath: str, source: str) -> None:
        self.folder = Path(dirpath)
        self.source = Path(source)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export on the first rank, when the last checkpoint is written."""
        if not trainer.is_global_zero:
            return
        for name in (BEST, LAST):
            if (self.source / name).is_file():
                export(read_checkpoint(self.source / name), self.folder)
                return


def export(checkpoint: dict[str, Any], folder: Path) -> None:
    """Write the weights and the description of a checkpoint (`read_checkpoint`) to `folder`.

    Raises:
        WriteError: the folder cannot be written.
    """
    prefix = "detector."
    weights = {
        # A clone each: the file format refuses tensors that share memory.
        name.removeprefix(prefix): value.contiguous().clone()
        # In the order in which the file keeps them, so that the digest is the same when they are read.
        for name, value in sorted(checkpoint["state_dict"].items())
        if name.startswith(prefix)
    }
    found = checkpoint["ifpn"]
    metadata = {name: found[name] for name in (*KEPT, *ALSO_KEPT) if name in KEPT or found.get(name) is not None}
    described = with_digest({"state_dict": weights, "ifpn": json.loads(json.dumps(metadata))})
    refuse_links(folder.parent, [folder.name])
    with replacing(folder / WEIGHTS) as file:
        # The digest stands in both files: neither can lose it unnoticed, and files of two exports do not mix.
        file.write(save(weights, metadata={"format": "pt", "digest": described["ifpn"]["digest"]}))
    write_json(folder / CONFIG, described["ifpn"])


def read_export(path: Path) -> dict[str, Any]:
    """What `export` wrote, in the form of `read_checkpoint`: {"state_dict", "ifpn"}.

    Args:
        path: the folder, or one of its two files.

    Raises:
        ConfigError: a file is missing, damaged or foreign. Neither format can hold code.
    """
    folder = path if path.is_dir() else path.parent
    for name in (WEIGHTS, CONFIG):
        if not (folder / name).is_file():
            raise ConfigError(
                f"ckpt={path}: {folder} has no {name}. Give a folder that a run exported, e.g. runs/…/export."
            )
    try:
        metadata = json.loads(read_bytes(folder / CONFIG))
        weights = dict(sorted(load_file(folder / WEIGHTS).items()))
        with safe_open(folder / WEIGHTS, "pt") as file:
            digest = (file.metadata() or {}).get("digest")
        if isinstance(metadata, dict):
            if digest != metadata.get("digest"):
                raise ContentError(f"{WEIGHTS} and {CONFIG} have different digests")
            check_digest({"state_dict": weights, "ifpn": metadata}, (folder / WEIGHTS).stat().st_size)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file fails in many ways, which all mean the same
        raise ConfigError(f"ckpt={path} is damaged ({first_line(error)}): use another copy.") from error
    try:
        metadata = checked_metadata(metadata, required=KEPT)
        if metadata["format"] != FORMAT:
            raise ConfigError(f"it has format {metadata['format']!r:.40}.")
    except ConfigError as error:
        raise ConfigError(f"ckpt={path}: {CONFIG} was not written by this version of ifpn: {error}") from error
    return {"state_dict": {f"detector.{name}": value for name, value in weights.items()}, "ifpn": metadata}

"""A trained detector as two files without any training state: model.safetensors and config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import FORMAT, cannot_write, read_checkpoint

WEIGHTS, CONFIG = "model.safetensors", "config.json"
# Of what a checkpoint says about itself, what is needed to build and use the detector.
KEPT = ("format", "config", "class_names", "category_ids")


class Export(Checkpoint):
    """Writes `<dirpath>/model.safetensors` and `config.json` when training ends, from best.ckpt, else last.ckpt."""

    def __init__(self, dirpath: str, source: str) -> None:
        self.folder = Path(dirpath)
        self.source = Path(source)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        for name in ("best.ckpt", "last.ckpt"):
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
        for name, value in checkpoint["state_dict"].items()
        if name.startswith(prefix)
    }
    facts = {name: checkpoint["ifpn"][name] for name in KEPT}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(weights, folder / f".{WEIGHTS}.partial", metadata={"format": "pt"})
        (folder / f".{CONFIG}.partial").write_text(json.dumps(facts, indent=1) + "\n")
        for name in (WEIGHTS, CONFIG):
            (folder / f".{name}.partial").replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise cannot_write(folder, error if isinstance(error, OSError) else OSError(str(error))) from error


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
        facts = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
    except (ValueError, OSError, SafetensorError) as error:
        raise ConfigError(f"ckpt={path} is damaged ({error}): use another copy.") from error
    if not isinstance(facts, dict) or not all(name in facts for name in KEPT) or facts["format"] != FORMAT:
        raise ConfigError(f"ckpt={path}: {CONFIG} was not written by this version of ifpn.")
    return {"state_dict": {f"detector.{name}": value for name, value in weights.items()}, "ifpn": facts}

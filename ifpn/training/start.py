"""Where a training begins: anew, from weights alone (`init=`), or exactly where a checkpoint stands (`ckpt=`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ifpn.errors import ConfigError
from ifpn.necks.fitted_start import is_fitted_start
from ifpn.runs.checkpoint import latest_readable, read_checkpoint
from ifpn.runs.folder import CONFIG
from ifpn.runs.hub import on_hub
from ifpn.runs.restore import PREFIX

# What Lightning reads of a checkpoint, and its types there.
_STATE = {"optimizer_states": list, "lr_schedulers": list, "loops": dict, "callbacks": dict, "global_step": int}


@dataclass(frozen=True)
class Start:
    """A checkpoint to continue from.

    Args:
        path: its file; None: the run is new.
        checkpoint: its content.
        own: whether it is one of this run's folder; another run's leaves metrics.csv and best.ckpt where they are.
    """

    path: Path | None = None
    checkpoint: Mapping[str, Any] | None = None
    own: bool = False

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the checkpoint says about itself; empty for a new run."""
        return self.checkpoint["ifpn"] if self.checkpoint else {}

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        return int(self.checkpoint["global_step"]) if self.checkpoint else 0


def find_start(ckpt: str | None, run_dir: Path) -> Start:
    """Read the checkpoint that `ckpt` names: a file, or `last` for the one with the most steps in `run_dir`.

    Raises:
        ConfigError: it cannot be read, or is no checkpoint of a training.
    """
    if ckpt is None:
        return Start()
    if ckpt == "last":
        # Killed before its first checkpoint: the whole run is still to be done.
        if (run_dir / CONFIG).is_file() and not list(run_dir.glob("*.ckpt")):
            return Start(own=True)
        path = latest_readable(run_dir)
    elif on_hub(ckpt):
        raise ConfigError(f"ckpt={ckpt}: the hub holds weights, no state of a training. Start from them: init={ckpt}.")
    else:
        path = Path(ckpt).resolve()
    checkpoint = read_checkpoint(path)
    wrong = [name for name, kind in _STATE.items() if not isinstance(checkpoint.get(name), kind)]
    missing = [name for name in ("config", "class_names", "batches_seen") if name not in checkpoint["ifpn"]]
    if wrong or missing:
        raise ConfigError(
            f"ckpt={ckpt} holds no state of a training ({', '.join([*wrong, *missing])}), only weights at most: "
            f"start from those with init={ckpt}."
        )
    return Start(path, checkpoint, own=path.parent.resolve() == run_dir.resolve())


def check_fits(start: Start, detector: nn.Module, optimizer: torch.optim.Optimizer, classes: Sequence[str]) -> None:
    """Check that a checkpoint continues this very training; other lengths and rates are no obstacle.

    Raises:
        ConfigError: classes, weights or optimiser are others.
    """
    if start.checkpoint is None:
        return
    what = f"ckpt={start.path}"
    remedy = f"To start a new run from its weights: init={start.path}."
    known = start.checkpoint["ifpn"]["class_names"]
    if list(known) != list(classes):
        raise ConfigError(f"{what} was trained on {_classes(known)}, the data have {_classes(classes)}. {remedy}")
    weights = _weights(start.checkpoint)
    own = {name: value for name, value in detector.state_dict().items() if not is_fitted_start(name)}
    weights = {name: value for name, value in weights.items() if not is_fitted_start(name)}
    misfits = _misfits(own, weights)
    if misfits or own.keys() != weights.keys():
        different = misfits or sorted(own.keys() ^ weights.keys())
        raise ConfigError(
            f"{what} holds another detector: {len(different)} of its tensors differ in name or shape, e.g. "
            f"{different[0]}. Give the settings of its run (its config.yaml). {remedy}"
        )
    states = start.checkpoint["optimizer_states"]
    groups = [len(group["params"]) for group in optimizer.param_groups]
    try:
        stored = [len(group["params"]) for group in states[0]["param_groups"]]
        same_kind = set(states[0]["param_groups"][0]) == set(optimizer.state_dict()["param_groups"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise ConfigError(f"{what} holds no state of an optimiser that can be read. {remedy}") from error
    if stored != groups or not same_kind:
        raise ConfigError(
            f"{what} was trained with another optimiser, or with other parameter groups (schedule.optimizer, "
            f"schedule.backbone_lr): they cannot change within a run. {remedy}"
        )


def initialise(
    detector: nn.Module, trained: Mapping[str, Any], source: str, classes: Sequence[str], class_layers: Sequence[str]
) -> str:
    """Fill `detector` with all that fits of a checkpoint's or an export's weights; classes go by their names.

    Args:
        detector: filled in place.
        trained: what `read_trained` returned.
        source: its file or folder, as the user wrote it.
        classes: names of the detector's classes, by label.
        class_layers: names of the tensors whose shape depends on the number of classes.

    Returns:
        One line that says what was taken and what is new.

    Raises:
        ConfigError: nothing of it fits.
    """
    weights, known = _weights(trained), trained["ifpn"]["class_names"]
    own = detector.state_dict()
    fitting = {
        name: value
        for name, value in weights.items()
        if name in own and own[name].shape == value.shape and name not in class_layers
    }
    if not fitting:
        example = next(iter(weights), "none")
        raise ConfigError(f"init={source}: none of its {len(weights)} tensors fits this detector, e.g. {example}.")
    shared = [name for name in classes if name in known]
    for name in class_layers if shared else ():
        if name in weights and weights[name].shape[1:] == own[name].shape[1:]:
            fitting[name] = _rows_by_class(name, own[name], weights[name], classes, known)
    detector.load_state_dict({**own, **fitting})
    new = [name for name in own if name not in fitting]
    parts = sorted({".".join(name.split(".")[:2]) for name in new})
    fresh = [name for name in classes if name not in known]
    return (
        f"{source}: {len(fitting)} of {len(own)} tensors taken"
        + (f", new: {', '.join(parts[:4])}{', …' if len(parts) > 4 else ''}" if new else "")
        + (f"; {len(shared)} of {len(classes)} classes by name" + (f", new: {_classes(fresh)}" if fresh else ""))
    )


def _rows_by_class(name: str, own: Tensor, trained: Tensor, classes: Sequence[str], known: Sequence[str]) -> Tensor:
    """The rows of a class layer: those of classes with the same name from `trained`, others as they are."""
    pairs = [(i, list(known).index(c)) for i, c in enumerate(classes) if c in known]
    result = own.clone()
    if "box_predictor" in name:  # torchvision's RoI heads: the background, then a block of rows for each class
        size = own.shape[0] // (len(classes) + 1)
        for new, old in [(0, 0), *((i + 1, j + 1) for i, j in pairs)]:
            result[new * size : (new + 1) * size] = trained[old * size : (old + 1) * size]
        return result
    # Dense heads: for each anchor of a place a row for each class.
    anchors = own.shape[0] // len(classes)
    for anchor in range(anchors if trained.shape[0] == anchors * len(known) else 0):
        for new, old in pairs:
            result[anchor * len(classes) + new] = trained[anchor * len(known) + old]
    return result


def class_layers(build: Callable[[int], nn.Module], detector: nn.Module, num_classes: int) -> list[str]:
    """Names of the tensors of `detector` whose shape depends on the number of classes, found by building another."""
    with torch.device("meta"):
        other = build(num_classes + 1).state_dict()
    return [name for name, value in detector.state_dict().items() if name in other and other[name].shape != value.shape]


def _weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}


def _misfits(own: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    return [
        f"{name} {tuple(other[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in other and other[name].shape != value.shape
    ]


def _classes(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return f"{len(names)} class{'es' if len(names) != 1 else ''} ({shown})"

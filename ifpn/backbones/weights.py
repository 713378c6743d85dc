"""Where weights come from, and the check that they are the right ones."""

import logging
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file as load_safetensors
from torch import Tensor, nn

from ifpn.errors import WeightsError

logger = logging.getLogger(__name__)

State = dict[str, Tensor]

FROM_CHECKPOINT = "checkpoint"
"""As "none", without a word: every weight is about to be replaced by a checkpoint's."""

EXPORTED = "model.safetensors"  # the file of weights in the folder of an exported detector
_WRAPPERS = ("state_dict", "model")  # names under which training programs keep the weights in a file
_COUNTER = "num_batches_tracked"  # a training counter of nn.BatchNorm2d, not a weight


def load_weights(
    module: nn.Module,
    weights: str,
    *,
    name: str,
    imagenet: Callable[[], State],
    unused: tuple[str, ...],
    may_start_fresh: tuple[str, ...] = (),
    rename: Callable[[State], State] | None = None,
) -> None:
    """Fill `module` as `weights` says: "imagenet", "none", or a file.

    Args:
        module: the network to fill, in place.
        weights: "imagenet", "none" (random start), the path of a .pth, .pt or .safetensors file, or of a checkpoint or
            exported folder of one of our detectors, whose backbone is taken.
        name: the network's name, for messages.
        imagenet: fetches the ImageNet weights.
        unused: key prefixes a classifier has and a backbone has not, e.g. ("fc.",).
        may_start_fresh: key suffixes that may be absent and then keep their initial value (offsets).
        rename: turns the names of the source into the module's.

    Raises:
        WeightsError: see the class.
    """
    if not isinstance(weights, str) or not weights:
        raise WeightsError(f"weights={weights!r}: must be imagenet, none or the path of a file")
    if weights == FROM_CHECKPOINT:
        return
    if weights == "none":
        logger.warning(
            "%s starts from random values. Its frozen parts stay random unless a checkpoint is loaded "
            "afterwards: to train from scratch, set backbone.frozen_stages=0 backbone.frozen_norm=false.",
            name,
        )
        return
    state = imagenet() if weights == "imagenet" else read_state(weights)
    if rename is not None:
        state = rename(state)
    source = f"the ImageNet weights of {name}" if weights == "imagenet" else weights
    fill_checked(module, state, source=source, name=name, unused=unused, may_start_fresh=may_start_fresh)


def read_state(path: str) -> State:
    """Read the weights of a backbone.

    Args:
        path: a .pth or .pt file or a checkpoint (read with `weights_only`, so that no code runs), a .safetensors file,
            or an exported folder. Of a detector of ours the backbone is returned.

    Raises:
        WeightsError: no such file, damaged, or holding anything but tensors.
    """
    file = Path(path).expanduser()
    if (file / EXPORTED).is_file():
        file = file / EXPORTED
    if not file.is_file():
        raise WeightsError(
            f"weights={path}: must be imagenet, none, or an existing file: weights of a backbone, or a checkpoint or "
            f"export of a detector (looked at {file})"
        )
    try:
        if file.suffix == ".safetensors":
            content: Any = load_safetensors(file)
        else:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{file} holds more than tensors, or is damaged, and was not loaded for safety "
            f"({_first_line(error)}); save a plain state dict with torch.save(model.state_dict(), PATH), or "
            "a .safetensors file"
        ) from error
    except Exception as error:  # a damaged file fails in many ways, all of which mean the same to the user
        raise WeightsError(f"{file} cannot be read as weights: {_first_line(error)}") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, Tensor) for v in content.values()) or not content:
        raise WeightsError(f"{file} does not hold a state dict (a mapping of names to tensors)")
    return _backbone_of({str(key).removeprefix("module."): value for key, value in content.items()})


def _backbone_of(state: State) -> State:
    """The backbone's part of the state of one of our detectors, or of its LightningModule; any other state as it is."""
    for prefix in ("detector.body.backbone.", "body.backbone."):
        part = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if part:
            state = part
            break
    # Backbones made by timm keep it in a sub-module, which is what is filled.
    if all(key.startswith("body.") for key in state):
        return {key.removeprefix("body."): value for key, value in state.items()}
    return state


def fill_checked(
    module: nn.Module,
    state: State,
    *,
    source: str,
    name: str,
    unused: tuple[str, ...],
    may_start_fresh: tuple[str, ...] = (),
) -> None:
    """Copy `state` into `module`; every name and shape must match, but for the stated exceptions."""
    state = {key: value for key, value in state.items() if not key.startswith(unused) and not key.endswith(_COUNTER)}
    expected = {key: value for key, value in module.state_dict().items() if not key.endswith(_COUNTER)}
    problems = misfit(expected, state, may_be_missing=may_start_fresh)
    if problems:
        raise WeightsError(f"{source} does not fit {name}: {problems}")
    module.load_state_dict({**module.state_dict(), **state}, strict=True)


def misfit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], *, may_be_missing: tuple[str, ...] = ()) -> str:
    """What keeps `state` from filling `expected`, with three examples of each kind; empty if nothing does."""
    missing = [key for key in expected if key not in state and not key.endswith(may_be_missing)]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    problems = [
        f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
        for kind, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if keys
    ]
    return f"of {len(expected)} expected tensors, {'; '.join(problems)}" if problems else ""


def download(fetch: Callable[[], Mapping[str, Tensor]], *, name: str, url: str) -> State:
    """Call `fetch`; if it fails, say in one message what was tried and how to do without it."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    file = url.rsplit("/", 1)[-1]
    try:
        return dict(fetch())
    except (OSError, RuntimeError) as error:  # no network, refused, disk full; or a wrong hash
        raise WeightsError(
            f"the ImageNet weights of {name} could not be downloaded from {url} into {cache} "
            f"({_first_line(error)}). Fetch that file on a machine with network access, then put it at "
            f"{cache / file} or pass it: backbone.weights=PATH/{file}. To start from random values: "
            "backbone.weights=none."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__

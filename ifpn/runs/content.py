"""What a checkpoint or an export may hold, and a digest of it: tensors and plain values, bounded in every direction."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ifpn.config.migration import migrate
from ifpn.errors import ConfigError

DEEPEST = 40  # levels of nesting; Lightning's own state has about ten
MOST_VALUES = 300_000  # counted as often as they are reached: lists that share their items cannot grow beyond it
DEEPEST_CONFIG, MOST_SETTINGS = 20, 20_000  # of the configuration in it; ours has six levels and 300 values
LARGEST_INT = 2**64
MOST_REPEATED = 16  # times the bytes of the file that its tensors may show together, views of one storage included

_PLAIN = (str, int, float, bool, type(None), complex, bytes, bytearray, torch.dtype, torch.device, torch.Size)


class ContentError(ValueError):
    """A value that is neither a tensor nor plain, or more of it than any training writes."""


def content_digest(content: Any, most_bytes: float = math.inf) -> str:
    """SHA-256 over types, names, shapes and bytes of all values, so that equal digests mean equal content.

    Args:
        content: nested dicts, lists, tuples and sets of dense tensors and plain values.
        most_bytes: limit for the tensors' bytes together.

    Raises:
        ContentError: see the class.
    """
    walk = _Walk(most_bytes)
    walk.add(content, 0)
    return walk.digest.hexdigest()


class _Walk:
    def __init__(self, most_bytes: float) -> None:
        self.digest = hashlib.sha256()
        self.values = 0
        self.bytes_left = most_bytes

    def add(self, value: Any, depth: int) -> None:
        self.values += 1
        if depth > DEEPEST or self.values > MOST_VALUES:
            raise ContentError(f"it holds more than {MOST_VALUES} values, or nests them more than {DEEPEST} deep")
        if isinstance(value, Tensor):
            self._add_tensor(value)
        elif isinstance(value, dict):
            self._head("dict", len(value))
            for key, item in value.items():
                self.add(key, depth + 1)
                self.add(item, depth + 1)
        elif type(value) in (list, tuple):
            self._head(type(value).__name__, len(value))
            for item in value:
                self.add(item, depth + 1)
        elif isinstance(value, set | frozenset):
            self.add(sorted(value, key=repr), depth + 1)
        else:
            self._add_plain(value)

    def _add_plain(self, value: Any) -> None:
        if type(value) not in _PLAIN:  # numpy's float64 is a float, too, and would not be read again
            raise ContentError(f"it holds a {type(value).__module__}.{type(value).__name__}")
        if isinstance(value, int) and abs(value) > LARGEST_INT:
            raise ContentError(f"it holds a whole number of {value.bit_length()} bits")
        raw = value if isinstance(value, bytes | bytearray) else repr(value).encode("utf-8", "surrogatepass")
        self._head(type(value).__name__, len(raw))
        self.digest.update(raw)

    def _add_tensor(self, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
            raise ContentError(f"it holds a tensor of layout {tensor.layout} on {tensor.device}")
        # An expanded tensor claims more numbers than are stored: copying it could take any amount of memory.
        if size > tensor.untyped_storage().nbytes():
            raise ContentError(f"it holds a tensor of shape {tuple(tensor.shape)} that is not stored in full")
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise ContentError("its tensors share their storage too often")
        self._head(f"{tensor.dtype} {tuple(tensor.shape)}", size)
        if size:
            flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1).view(torch.uint8)
            self.digest.update(memoryview(flat.numpy()))  # type: ignore[arg-type]

    def _head(self, kind: str, length: int) -> None:
        self.digest.update(f"{kind}:{length}:".encode())


def checked_metadata(metadata: Any, *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """Check what a checkpoint or export says about itself, and bring its configuration into today's form.

    Raises:
        ConfigError: an entry is missing or is not what a run writes.
    """
    if not isinstance(metadata, Mapping):
        raise ConfigError("its description is not a mapping.")
    missing = [name for name in required if name not in metadata]
    if missing:
        raise ConfigError(f"its description has no {missing[0]!r}.")
    for name, test in _EXPECTED.items():
        if name in metadata and not test(metadata[name]):
            raise ConfigError(f"its description has an entry {name!r} that no run writes.")
    names, ids = metadata.get("class_names"), metadata.get("category_ids")
    if names is not None and ids is not None and len(names) != len(ids):
        raise ConfigError(f"it describes {len(names)} class names and {len(ids)} category ids.")
    if "config" not in metadata:
        return dict(metadata)
    walk = _Walk(0)
    try:
        walk.add(metadata["config"], DEEPEST - DEEPEST_CONFIG)
    except ContentError as error:
        raise ConfigError(f"its configuration is none: {error}.") from error
    if walk.values > MOST_SETTINGS:
        raise ConfigError(f"its configuration has {walk.values} values.")
    return {**metadata, "config": migrate(metadata["config"])}


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _strings(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(v, str) for v in value)


_EXPECTED: dict[str, Callable[[Any], bool]] = {
    "config": lambda v: isinstance(v, dict) and all(isinstance(k, str) for k in v),
    "class_names": _strings,
    "category_ids": lambda v: isinstance(v, list) and all(map(_whole, v)) and sorted(set(v)) == v,
    "score_threshold": lambda v: v is None or (isinstance(v, int | float) and not isinstance(v, bool) and 0 <= v <= 1),
    "batches_seen": _whole,
    "world_size": lambda v: _whole(v) and v > 0,
    "metrics_rows": _whole,
    "scores": lambda v: v is None or isinstance(v, dict),
    "validation_due": lambda v: isinstance(v, bool),
    "solvers": lambda v: isinstance(v, dict) and all(isinstance(state, dict) for state in v.values()),
}

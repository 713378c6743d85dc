"""G for many forwards with the same weights: weight norm is computed once instead of once per forward."""

from __future__ import annotations

import copy
from collections.abc import Hashable
from itertools import chain

import torch
from torch import nn
from torch.nn.utils import parametrize


class FoldedCopy:
    """A copy of a module in which every parametrisation (weight norm) is replaced by the weight that it gives.

    It computes the same bits. It is made anew whenever a parameter or buffer of the original was changed, moved or
    converted, as far as autograd counts changes: by an optimiser, `load_state_dict`, `copy_`. Writing through `.data`
    is not counted: call `clear`.
    """

    def __init__(self) -> None:
        self._folded: nn.Module | None = None
        self._made_of: Hashable = None

    def clear(self) -> None:
        """Free the copy."""
        self._folded = self._made_of = None

    def of(self, module: nn.Module) -> nn.Module:
        """The copy; `module` itself where its parts have hooks, or nothing counts the changes of its weights."""
        tensors = list(chain(module.parameters(), module.buffers()))
        if any(t.is_inference() for t in tensors) or any(_listened_to(part) for part in module.modules()):
            return module
        state = tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)
        if self._folded is None or state != self._made_of:
            self._folded, self._made_of = _fold(module), state
        return self._folded


def _listened_to(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _fold(module: nn.Module) -> nn.Module:
    with torch.inference_mode(False), torch.no_grad():
        folded = copy.deepcopy(module).requires_grad_(False)
        for part in list(folded.modules()):
            if parametrize.is_parametrized(part):
                _fold_part(part)
    return folded


def _fold_part(part: nn.Module) -> None:
    # Not `remove_parametrizations`: it takes the attribute from the class, which a copy shares with its original.
    weights = {name: getattr(part, name) for name in part.parametrizations}  # type: ignore[union-attr]
    del part.parametrizations
    part.__class__ = parametrize.type_before_parametrizations(part)
    for name, weight in weights.items():
        part.register_parameter(name, nn.Parameter(weight, requires_grad=False))

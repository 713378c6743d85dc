"""G for many forwards with the same weights: weight norm is computed once instead of once per forward."""

from __future__ import annotations

import copy
from collections.abc import Hashable

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
        self._made_of: list[Hashable] = []

    def clear(self) -> None:
        """Free the copy."""
        self._folded, self._made_of = None, []

    def of(self, module: nn.Module) -> nn.Module:
        """The copy; `module` itself where a part trains or has hooks, or nothing counts the changes of its weights."""
        state: list[Hashable] = []
        parts = [module]
        for part in parts:  # made for every image: this walk takes half the time of `modules()`
            parts += part.children()
            if part.training or part._forward_hooks or part._forward_pre_hooks:
                return module
            for tensor in (*part._parameters.values(), *part._buffers.values()):
                if tensor is None:
                    continue
                if tensor.is_inference():
                    return module
                state.append((tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device))
        if self._folded is None or state != self._made_of:
            self._folded, self._made_of = _fold(module), state
        return self._folded


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

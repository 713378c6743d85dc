"""Frames of a video: each starts its solve from the pyramid of the frame before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ifpn.necks.implicit import EquilibriumNeck


class Stream:
    """A detector whose calls are frames of one stream, or of one stream per image of the batch.

    Each call starts the implicit neck from the pyramid of the call before, and anew where the image size has changed
    or the residual says that the scene has. What is saved are evaluations, so the solver needs a tolerance
    (`solver=fast` has one). Where one evaluation from the fitted start is enough (`EquilibriumNeck.one_is_enough`)
    there is nothing to save, and every frame is solved by itself. Explicit necks work as ever. Several streams can
    share a detector:

        with detector.stream() as stream:
            for frame in frames:
                detections = stream(frame)

    Args:
        module: holds the neck; in evaluation mode.
        detect: called for every frame; None is `module` itself.

    Attributes:
        evals: evaluations of G per frame, (N,) int64 each; empty where nothing is solved.
        state: P* of the last frame, (N, C, H_l, W_l) per level, from which the next one starts; None before the first.
    """

    def __init__(self, module: nn.Module, detect: Callable[..., Any] | None = None) -> None:
        self._detect = module if detect is None else detect
        self._neck = next((part for part in module.modules() if isinstance(part, EquilibriumNeck)), None)
        self.state: list[Tensor] | None = None
        self.evals: list[Tensor] = []

    def __enter__(self) -> Stream:
        """Start cold."""
        self.state = None
        return self

    def __exit__(self, *_: object) -> None:
        """Free the state."""
        self.state = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the detector returns for this frame."""
        neck = self._neck
        if neck is None:
            return self._detect(*args, **kwargs)
        folded = neck.fold_weights
        known = None if neck.one_is_enough else self.state
        neck.keep_state, neck.state, neck.fold_weights = True, known, True
        try:
            result = self._detect(*args, **kwargs)
            self.state = neck.state
        finally:
            neck.keep_state, neck.state, neck.fold_weights = False, None, folded
        if neck.stats is not None:
            self.evals.append(neck.evals().cpu())
        return result

"""What a detector computes for one image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@torch.no_grad()
def multiply_adds(detector: nn.Module, image: Tensor) -> int | None:
    """Multiply-adds of convolutions and matrix products for the detections of one image (3, H, W) uint8.

    An equilibrium counts with the evaluations it really makes. Deformable convolutions are not counted: PyTorch does
    not know their cost. None for a detector with compiled parts, whose operations cannot be watched.
    """
    if any(part._compiled_call_impl is not None for part in detector.modules()):
        return None
    was_training = detector.training
    detector.eval()
    with FlopCounterMode(display=False) as counter:
        detector([image.float() / 255])
    detector.train(was_training)
    return int(counter.get_total_flops()) // 2

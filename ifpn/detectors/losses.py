"""What several criteria need: normalisers over the global batch, and a cross entropy that lets NaN through."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average `values` over the processes of a distributed run; return `values` itself in a single one.

    A loss that sums over its rank's images and divides by `mean_over_ranks(count)` has, after
    DistributedDataParallel has averaged the gradients, the gradient of sum / count over the global batch. Every rank
    must make the call, also one whose images hold no box: ranks that disagree on the number of collectives wait for
    ever.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def bce_keep_nan(probability: Tensor, target: float) -> Tensor:
    """Binary cross entropy of each element with the constant `target`; NaN for NaN.

    torch's own ends the program on NaN, on a GPU by a device assertion, before `callbacks.nonfinite` could act on the
    loss.
    """
    known = ~probability.isnan()
    wanted = torch.full_like(probability, target)
    loss = F.binary_cross_entropy(torch.where(known, probability, 0.5), wanted, reduction="none")
    return torch.where(known, loss, probability)

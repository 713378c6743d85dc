"""Loss normalisers that count the whole batch, whichever process holds which image."""

import torch.distributed as dist
from torch import Tensor


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average of `values` over the processes of a distributed run; `values` itself in a single one.

    A loss that sums over its rank's images and divides by ``mean_over_ranks(count)`` has, after the
    averaging of gradients by DistributedDataParallel, the gradient of sum / count over the global batch.
    Every rank must make the
    call, also one whose images hold no box: ranks that disagree on the number of collectives wait for ever.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()

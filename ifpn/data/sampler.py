"""The order of training as a pure function: batch k depends on seed, k, rank and world size, not on what happened.

Nothing has to be saved to go on after an interruption but the number k of the next batch, and a run resumed
with another number of loader workers sees the same images with the same augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ifpn.errors import UserError


class ResumableBatchSampler(Sampler[list[tuple[int, int]]]):
    """Batches of one rank as lists of (k, index): k is the absolute number of the batch, index the image's.

    num_images:  images 0..num_images-1
    batch_size:  images per rank and batch
    seed:        of the order; epoch e = k // len(self) is a new permutation of all images, the same on every
                 rank
    rank, world_size: rank r takes batches r, r + world_size, ... of the epoch's batches, so that ranks share
                      none
    groups:      group number of each image (0 = wide, 1 = not wide). A batch holds images of one group, but
                 for the few made of the groups' remainders: a group smaller than a batch is trained on too
    weights:     how often each image is seen, relative to the others; None: all equally, each once in an epoch
    drop_last:   True drops what fills no whole batch on every rank (fewer than batch_size * world_size
                 images, others in each epoch). False serves every image: the last batch may be smaller, and
                 where the batches cannot be shared out evenly the epoch's first ones are served again

    `len` is always the number of batches of a whole epoch. Iteration begins at batch `first_batch` and ends
    with its epoch; `first_batch` then points to the next epoch. Set it to the number of batches done to go on
    from there.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        groups: Sequence[int] | NDArray[np.integer] | None = None,
        weights: NDArray[np.float64] | None = None,
        drop_last: bool = True,
    ) -> None:
        if num_images < 1 or batch_size < 1 or seed < 0:
            raise ValueError(
                f"num_images={num_images}, batch_size={batch_size}, seed={seed}: allowed are num_images and "
                "batch_size from 1 on, seed from 0 on"
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} of world_size={world_size}: allowed are ranks from 0 to world_size - 1")
        if drop_last and num_images < batch_size * world_size:
            raise UserError(
                f"{num_images} training images are fewer than one batch of {batch_size} on each of "
                f"{world_size} device(s). Make data.batch_size smaller, or keep small batches with "
                "data.drop_last=false"
            )
        self.groups = np.zeros(num_images, np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
        if self.groups.shape != (num_images,):
            raise ValueError(f"groups has shape {self.groups.shape}, allowed is ({num_images},): one number per image")
        self.num_images, self.batch_size, self.seed, self.weights = num_images, batch_size, seed, weights
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        share = batch_size * world_size
        if drop_last:
            self._length = num_images // batch_size // world_size
        else:
            self._length = -(-num_images // share)
        self._first_batch: int | Callable[[], int] = 0

    @property
    def first_batch(self) -> int:
        """Absolute number of the batch at which the next iteration begins.

        May be set to a number, or to a function that is asked when an iteration begins.
        """
        return self._first_batch() if callable(self._first_batch) else self._first_batch

    @first_batch.setter
    def first_batch(self, k: int | Callable[[], int]) -> None:
        if not callable(k) and k < 0:
            raise ValueError(f"first_batch={k}: allowed are batch numbers from 0 on")
        self._first_batch = k

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of `epoch`, unless the position lies within it already (a resumed run)."""
        if not callable(self._first_batch) and epoch != self._first_batch // self._length:
            self._first_batch = epoch * self._length

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever iteration begins."""
        return self._length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """The batches from `first_batch` to the end of its epoch."""
        return self._from(self.first_batch)

    def _from(self, start: int) -> Iterator[list[tuple[int, int]]]:
        epoch = start // self._length
        batches = self.epoch_batches(epoch)
        for k in range(start, (epoch + 1) * self._length):
            yield [(k, int(index)) for index in batches[(k % self._length) * self.world_size + self.rank]]
        if not callable(self._first_batch) and self._first_batch == start:  # nobody has moved it meanwhile
            self._first_batch = (epoch + 1) * self._length

    def batch(self, k: int) -> list[tuple[int, int]]:
        """Batch k of this rank."""
        chosen = self.epoch_batches(k // self._length)[(k % self._length) * self.world_size + self.rank]
        return [(k, int(index)) for index in chosen]

    def epoch_batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of all ranks in an epoch: entry b is batch b // world_size of rank b % world_size."""
        draw = np.random.Generator(np.random.PCG64([self.seed, epoch]))
        needed = self._length * self.world_size
        order = self._drawn(draw) if self.weights is not None else draw.permutation(self.num_images)
        if self.drop_last:  # before grouping: dropping groups' remainders would never serve a group below a batch
            order = order[: needed * self.batch_size]
        group = self.groups[order]
        whole: list[NDArray[np.int64]] = []
        left = np.zeros(len(order), dtype=np.bool_)
        for number in np.unique(self.groups):
            places = np.flatnonzero(group == number)
            cut = len(places) // self.batch_size * self.batch_size
            whole += list(order[places[:cut]].reshape(-1, self.batch_size))
            left[places[cut:]] = True
        rest = order[left]  # in the epoch's order: here groups mix
        whole += [rest[i : i + self.batch_size] for i in range(0, len(rest), self.batch_size)]
        short = [whole.pop()] if len(whole[-1]) < self.batch_size else []
        batches = [whole[i] for i in draw.permutation(len(whole))] + short
        return [batches[i % len(batches)] for i in range(needed)]

    def _drawn(self, draw: np.random.Generator) -> NDArray[np.int64]:
        """As many images as there are, each as often as its weight says, on average and to within one."""
        weights = np.ones(self.num_images) if self.weights is None else self.weights
        reached = np.floor(np.cumsum(weights) * (self.num_images / weights.sum()) + draw.random())
        reached[-1] = self.num_images  # whatever the sum was rounded to
        counts = np.diff(reached, prepend=0).astype(np.int64)
        return draw.permutation(np.repeat(np.arange(self.num_images), counts))


def repeat_factors(
    owner: NDArray[np.int64], label: NDArray[np.integer], num_images: int, threshold: float
) -> NDArray[np.float64]:
    """Return how often each image should be seen so that rare classes are, (I,), from 1 on (LVIS, Gupta et al. 2019).

    A class in a share f of the images asks for sqrt(threshold / f), an image for the most that one of its classes asks.

    Args:
        owner: image of each box (B,).
        label: class of each box (B,).
        num_images: number of images.
        threshold: share of the images below which a class is rare.
    """
    pairs = np.unique(np.stack([owner, label]), axis=1)
    share = np.bincount(pairs[1], minlength=1) / num_images
    asked = np.sqrt(threshold / np.maximum(share, 1 / num_images))
    factors = np.ones(num_images)
    np.maximum.at(factors, pairs[0], asked[pairs[1]])
    return factors


class ShardSampler(Sampler[int]):
    """Images rank, rank + world_size, ... in order: every image on exactly one rank, none twice, no padding.

    Ranks may differ by one image, so that their numbers of validation batches may differ: do nothing collective
    within a validation batch.
    """

    def __init__(self, num_images: int, *, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank} of world_size={world_size}: allowed are ranks from 0 to world_size - 1")
        self._indices = range(rank, num_images, world_size)

    def __len__(self) -> int:
        """Images of this rank."""
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        """The images' numbers, ascending."""
        return iter(self._indices)

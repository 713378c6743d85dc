"""The order of training is a pure function, every image is served, and ranks share nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ifpn.data import ResumableBatchSampler, ShardSampler
from ifpn.data.sampler import repeat_factors


@st.composite
def settings_of_a_sampler(draw: st.DrawFn) -> dict[str, object]:
    batch, world = draw(st.integers(1, 9)), draw(st.integers(1, 4))
    drop = draw(st.booleans())
    images = draw(st.integers(batch * world if drop else 1, 120))
    groups = draw(st.lists(st.integers(0, 2), min_size=images, max_size=images))
    return {
        "num_images": images,
        "batch_size": batch,
        "world_size": world,
        "drop_last": drop,
        "groups": groups,
        "seed": draw(st.integers(0, 2**40)),
    }


def ranks(chosen: dict[str, object]) -> list[ResumableBatchSampler]:
    return [ResumableBatchSampler(**chosen, rank=rank) for rank in range(chosen["world_size"])]


@settings(max_examples=150, deadline=None)
@given(chosen=settings_of_a_sampler(), epoch=st.integers(0, 3))
def test_ranks_partition_the_epoch(chosen: dict, epoch: int) -> None:
    samplers = ranks(chosen)
    size, world, images = chosen["batch_size"], chosen["world_size"], chosen["num_images"]
    for sampler in samplers:
        sampler.first_batch = epoch * len(sampler)
    epochs = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in epochs} == {len(samplers[0])}
    served = Counter(index for batches in epochs for batch in batches for _, index in batch)
    assert set(served) <= set(range(images))
    if chosen["drop_last"]:
        assert max(served.values()) == 1
        assert images - len(served) < size * world
        assert all(len(batch) == size for batches in epochs for batch in batches)
    else:
        assert len(served) == images
        if -(-images // size) % world == 0:
            assert max(served.values()) == 1


@settings(max_examples=100, deadline=None)
@given(chosen=settings_of_a_sampler(), where=st.floats(0, 3.999))
def test_resuming_at_any_batch_gives_the_tail(chosen: dict, where: float) -> None:
    for sampler in ranks(chosen):
        length = len(sampler)
        whole = [batch for _ in range(4) for batch in sampler]  # four epochs one after the other
        assert [batch[0][0] for batch in whole] == list(range(4 * length))  # k counts on
        k = int(where * length)
        fresh = ResumableBatchSampler(**chosen, rank=sampler.rank)
        fresh.first_batch = k
        assert list(fresh) == whole[k : (k // length + 1) * length]
        assert len(fresh) == length
        assert fresh.batch(k) == whole[k]


@settings(max_examples=100, deadline=None)
@given(chosen=settings_of_a_sampler())
def test_batches_are_of_one_group_but_for_the_remainders(chosen: dict) -> None:
    sampler = ResumableBatchSampler(**chosen)
    groups = np.asarray(chosen["groups"])
    mixed = sum(len(set(groups[batch])) > 1 for batch in sampler.epoch_batches(0))
    # each of the groups leaves fewer than a batch; without drop_last some batches may be served twice
    remainder = len(set(chosen["groups"])) * (chosen["batch_size"] - 1)
    allowed = -(-remainder // chosen["batch_size"])
    assert mixed <= allowed * (1 if chosen["drop_last"] else 2)


def test_a_group_smaller_than_a_batch_is_trained_on() -> None:
    sampler = ResumableBatchSampler(22, 8, seed=0, rank=0, world_size=2, groups=[0] * 19 + [1] * 3)
    other = ResumableBatchSampler(22, 8, seed=0, rank=1, world_size=2, groups=[0] * 19 + [1] * 3)
    served = Counter(index for _ in range(40) for s in (sampler, other) for batch in s for _, index in batch)
    # 16 of 22 images are served in an epoch: 29 of 40 times on average, whatever the group
    assert min(served[index] for index in (19, 20, 21)) > 15


def test_epochs_and_seeds_differ() -> None:
    sampler, other = (ResumableBatchSampler(64, 8, seed=seed) for seed in (0, 1))
    first, second = [[index for batch in sampler for _, index in batch] for _ in range(2)]
    assert first != second
    assert sorted(first) == sorted(second) == list(range(64))
    assert first != [index for batch in other for _, index in batch]


def test_position_moves_on_by_itself_by_epoch_and_by_a_function() -> None:
    sampler = ResumableBatchSampler(32, 4, seed=0)
    list(sampler)
    assert sampler.first_batch == 8
    sampler.first_batch = 11
    sampler.set_epoch(1)  # Lightning's call at the start of an epoch leaves a resumed position alone
    assert sampler.first_batch == 11
    sampler.set_epoch(2)
    assert sampler.first_batch == 16
    done = 3
    sampler.first_batch = lambda: done
    assert [batch[0][0] for batch in sampler] == [3, 4, 5, 6, 7]
    done = 8
    sampler.set_epoch(7)
    assert next(iter(sampler))[0][0] == 8


def test_an_abandoned_iteration_moves_nothing() -> None:
    sampler = ResumableBatchSampler(32, 4, seed=0)
    batches = iter(sampler)
    first = next(batches)
    assert sampler.first_batch == 0
    assert next(iter(sampler)) == first


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_images": 3}, "data.batch_size"),
        ({"num_images": 0}, "num_images=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
        ({"rank": 2, "world_size": 2}, "rank=2"),
        ({"groups": [0, 1]}, "groups"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ResumableBatchSampler(**{"num_images": 10, "batch_size": 4, "seed": 0, **wrong})
    with pytest.raises(ValueError, match="first_batch=-1"):
        ResumableBatchSampler(10, 4, seed=0).first_batch = -1


@given(images=st.integers(0, 50), world=st.integers(1, 6))
def test_validation_shards_hold_every_image_once(images: int, world: int) -> None:
    shards = [ShardSampler(images, rank=rank, world_size=world) for rank in range(world)]
    assert sorted(index for shard in shards for index in shard) == list(range(images))
    assert all(len(list(shard)) == len(shard) for shard in shards)
    with pytest.raises(ValueError, match="rank=7"):
        ShardSampler(3, rank=7, world_size=2)


def test_rare_classes_are_seen_more_often() -> None:
    owner = np.array([0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9])
    label = np.array([0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0])  # class 1 in one image of ten
    factors = repeat_factors(owner, label, 10, threshold=0.4)
    assert factors.tolist() == [1, 1, 1, 2, 1, 1, 1, 1, 1, 1]  # sqrt(0.4 / 0.1)
    sampler = ResumableBatchSampler(10, 2, seed=3, weights=factors)
    epochs = [np.concatenate(sampler.epoch_batches(epoch)) for epoch in range(300)]
    assert {len(epoch) for epoch in epochs} == {10}
    counts = np.array([np.bincount(epoch, minlength=10) for epoch in epochs])
    expected = 10 * factors / factors.sum()
    assert (np.abs(counts - expected) < 1).all()  # each epoch to within one
    # a mean of 300 draws that differ by at most one: a standard deviation of at most 0.03, five of them
    assert np.abs(counts.mean(axis=0) - expected).max() < 0.15
    assert [b.tolist() for b in sampler.epoch_batches(7)] == [b.tolist() for b in sampler.epoch_batches(7)]


def test_without_weights_nothing_changes() -> None:
    plain, equal = (ResumableBatchSampler(9, 2, seed=1, weights=w, drop_last=False) for w in (None, np.ones(9)))
    for epoch in range(3):
        assert sorted(np.concatenate(equal.epoch_batches(epoch))) == sorted(np.concatenate(plain.epoch_batches(epoch)))

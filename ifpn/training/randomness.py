"""Randomness as a pure function of (seed, step, rank): nothing to save, and a resumed run draws the same."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *parts: int) -> int:
    """A 63-bit seed from `seed` and any whole numbers, well mixed: neighbouring steps share nothing."""
    text = ",".join(str(int(part)) for part in (seed, *parts)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's generators (all devices) for one training step: dropout masks and the choice of image scale."""
    torch.manual_seed(derive_seed(seed, step, rank))

"""Damage a checkpoint and an export in many ways: each copy is refused in a sentence, or read as what was written.

    python -m benchmarks.fuzz_files                # 20,000 copies, a table on the terminal
    python -m benchmarks.fuzz_files --copies 500

Flips of one bit, truncations, swaps and repetitions of blocks, runs of zeros. Ends with status 1 if a copy was read as
something else, or if reading failed with anything but the sentence for a damaged file.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import FORMAT, SafeCheckpointIO, read_checkpoint
from ifpn.runs.content import content_digest
from ifpn.runs.export import export, read_export

Damage = Callable[[bytearray, random.Random], bytes]
OUTCOMES = ("refused", "same", "different", "traceback")


def _flip(data: bytearray, draw: random.Random) -> bytes:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def _truncate(data: bytearray, draw: random.Random) -> bytes:
    return bytes(data[: draw.randrange(len(data))])


def _swap(data: bytearray, draw: random.Random) -> bytes:
    size = draw.choice((1, 4, 16, 64))
    a, b = (draw.randrange(len(data) - size) for _ in range(2))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]
    return bytes(data)


def _repeat(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    end = start + draw.randrange(1, 64)
    return bytes(data[:end] + data[start:])


def _zero(data: bytearray, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    end = min(start + draw.randrange(1, 512), len(data))
    data[start:end] = bytes(end - start)
    return bytes(data)


# Half of all copies have one flipped bit.
DAMAGES: tuple[Damage, ...] = (_flip, _flip, _flip, _flip, _truncate, _swap, _repeat, _zero)


def small_checkpoint(folder: Path) -> Path:
    """Write what a training writes, with few numbers."""
    weights = {f"detector.{name}": torch.randn(3, 4) for name in ("conv.weight", "norm.weight")}
    metadata = {
        "format": FORMAT,
        "config": {"backbone": {"_target_": "ifpn.backbones.resnet18"}, "seed": 0, "image": {"min_size": [64]}},
        "class_names": ["disc", "ring"],
        "category_ids": [1, 2],
        "batches_seen": 8,
        "world_size": 1,
        "metrics_rows": 8,
        "scores": None,
    }
    state = {"state": {0: {"step": torch.tensor(8.0), "exp_avg": torch.randn(3, 4)}}, "param_groups": [{"lr": 0.1}]}
    content = {"state_dict": weights, "ifpn": metadata, "global_step": 8, "epoch": 1, "optimizer_states": [state]}
    SafeCheckpointIO().save_checkpoint(content, folder / "last.ckpt")
    return folder / "last.ckpt"


def fuzz(file: Path, read: Callable[[], Any], copies: int, draw: random.Random) -> Counter[str]:
    """Damage `file` in place `copies` times and read it; how often each of `OUTCOMES` came out."""
    original = file.read_bytes()
    expected = content_digest(read())
    outcomes: Counter[str] = Counter()
    for _ in range(copies):
        damage = draw.choice(DAMAGES)
        file.write_bytes(damage(bytearray(original), draw))
        try:
            outcomes["same" if content_digest(read()) == expected else "different"] += 1
        except ConfigError:
            outcomes["refused"] += 1
        except Exception as error:  # what is looked for
            outcomes["traceback"] += 1
            print(f"{file.name}: {damage.__name__}: {type(error).__name__}: {error}")
    file.write_bytes(original)
    return outcomes


def fuzz_all(folder: Path, copies: int, seed: int) -> dict[str, Counter[str]]:
    """Half of the copies are of the checkpoint, a quarter of each file of the export."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    checkpoint = small_checkpoint(folder)
    export(read_checkpoint(checkpoint), folder / "export")
    found = {"last.ckpt": fuzz(checkpoint, lambda: read_checkpoint(checkpoint), copies - copies // 2, draw)}
    for name in ("model.safetensors", "config.json"):
        found[name] = fuzz(folder / "export" / name, lambda: read_export(folder / "export"), copies // 4, draw)
    return found


def main() -> None:
    """Read the command line, damage files, and print what reading them does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--copies", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz_files_") as folder:
        found = fuzz_all(Path(folder), arguments.copies, arguments.seed)
    print(f"| file | copies | {' | '.join(OUTCOMES)} |\n{'|---' * 6}|")
    for name, outcomes in found.items():
        print(f"| `{name}` | {outcomes.total()} | {' | '.join(str(outcomes[o]) for o in OUTCOMES)} |")
    raise SystemExit(1 if any(o["different"] or o["traceback"] for o in found.values()) else 0)


if __name__ == "__main__":
    main()

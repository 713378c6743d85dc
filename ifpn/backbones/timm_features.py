"""Any network of timm that has feature levels, by its name there."""

import difflib
from collections import OrderedDict
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ifpn.backbones.checkpointing import run
from ifpn.backbones.frozen import FrozenStages, freeze_norms, set_requires_grad
from ifpn.backbones.weights import State, load_weights
from ifpn.errors import UserError, WeightsError

LEVEL_OF_STRIDE = {4: "c2", 8: "c3", 16: "c4", 32: "c5"}
_PROBE = (64, 96)  # rows and columns of the image that shows what the network puts out


class TimmBackbone(nn.Module):
    """A network of timm as a backbone: its last feature map at each of the strides 4, 8, 16 and 32.

    Args:
        name: as in `timm.list_models()`, e.g. "convnext_tiny".
        weights: "none", or the path of a .pth/.pt/.safetensors file (timm's key names, classifier or not), or of a
            detector of ours (.ckpt, export). Nothing is downloaded.
        frozen_stages: 0 trains everything; 2 to 5: all that c2, or c2 up to c5, is made of never changes.
        frozen_norm: batch norm statistics and affine parts constant everywhere; other norms are left alone.
        checkpointing: compute the network's activations again in the backward pass instead of keeping them.

    Raises:
        UserError: an unknown network, one without these strides or of a fixed image size, an option outside its
            allowed set, or weights that do not fit.
    """

    compile_dynamic = False  # networks whose padding depends on the size cannot be traced for all sizes

    def __init__(
        self, name: str, weights: str, frozen_stages: FrozenStages, frozen_norm: bool, checkpointing: bool = False
    ) -> None:
        super().__init__()
        if frozen_stages not in (0, 2, 3, 4, 5) or isinstance(frozen_stages, bool):
            raise UserError(f"frozen_stages={frozen_stages}: must be 0, or 2 (up to c2) to 5 (up to c5)")
        body = _create(name)
        self.body: nn.Module = body
        self.checkpointing = False  # while it is looked at
        strides: list[int] = body.feature_info.reduction()
        channels: list[int] = body.feature_info.channels()
        missing = [stride for stride in LEVEL_OF_STRIDE if stride not in strides]
        if missing:
            raise UserError(f"name={name}: must have maps at strides 4, 8, 16 and 32, and has strides {strides}")
        self.positions = [len(strides) - 1 - strides[::-1].index(stride) for stride in LEVEL_OF_STRIDE]
        self.levels: dict[str, tuple[int, int]] = {
            level: (channels[position], stride)
            for position, (stride, level) in zip(self.positions, LEVEL_OF_STRIDE.items(), strict=True)
        }
        self.image_mean = tuple(body.pretrained_cfg["mean"])
        self.image_std = tuple(body.pretrained_cfg["std"])
        load_weights(
            self.body,
            weights,
            name=name,
            imagenet=lambda: _not_fetched(name),
            unused=(),
            rename=lambda state: timm_feature_names(state, self.body),
        )
        maps = self._probe(name)
        if frozen_stages:
            self._freeze(maps[frozen_stages - 2])
        if frozen_norm:
            freeze_norms(self.body)
        self.checkpointing = checkpointing

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """(N, 3, H, W) -> c2..c5 with sizes ceil(H / stride) x ceil(W / stride) for multiples of 32."""
        maps = run(self.body, images, checkpointing=self.checkpointing)
        chosen = (maps[position] for position in self.positions)
        return OrderedDict(
            (level, x if x.shape[1] == channels else x.permute(0, 3, 1, 2))  # some networks keep channels last
            for x, (level, (channels, _)) in zip(chosen, self.levels.items(), strict=True)
        )

    def _probe(self, name: str) -> list[Tensor]:
        """The levels of an empty image, with their graph. Raises UserError if they are not what `levels` says."""
        training = self.body.training
        try:
            maps = self.eval()(torch.zeros(1, 3, *_PROBE))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"name={name}: must take images of any size, and refuses {_PROBE}: {error}") from error
        finally:
            self.train(training)
        found = [tuple(x.shape[1:]) for x in maps.values()]
        wanted = [(c, *(-(-side // stride) for side in _PROBE)) for c, stride in self.levels.values()]
        if found != wanted:
            raise UserError(f"name={name}: must give maps {wanted} for an image of {_PROBE}, and gives {found}")
        return list(maps.values())

    def _freeze(self, level: Tensor) -> None:
        """Make everything that `level` was computed from constant."""
        parameters = [p for p in self.body.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(level.sum(), parameters, allow_unused=True)
        set_requires_grad((p for p, g in zip(parameters, gradients, strict=True) if g is not None), False)
        freeze_norms(self.body, lambda norm: norm.affine and not norm.weight.requires_grad)


def _create(name: str) -> Any:
    # A name with a prefix such as hf-hub: would be looked up on the network.
    if not isinstance(name, str) or not timm.is_model(name.partition(".")[0]):
        close = difflib.get_close_matches(str(name), timm.list_models(), n=3)
        hint = f" Close to it: {', '.join(close)}." if close else " timm.list_models() names them."
        raise UserError(f"name={name}: must be a network of timm.{hint}")
    try:
        return timm.create_model(name, pretrained=False, features_only=True)
    except (RuntimeError, AssertionError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise UserError(f"name={name}: must be a network with feature levels ({error})") from error


def _not_fetched(name: str) -> State:
    raise WeightsError(
        f"weights=imagenet with name={name}: must be none or the path of a file. timm's weights lie on a model "
        "hub, from which nothing is fetched here: download them and pass backbone.weights=PATH"
    )


def timm_feature_names(state: State, body: nn.Module) -> State:
    """The tensors of `state` that `body` has, under its names.

    timm's feature networks flatten names ("stages.0.blocks" becomes "stages_0.blocks") and may put the network into a
    sub-module; what a classifier has beyond the last level is left out.
    """

    def plain(key: str) -> str:
        return key.removeprefix("model.").replace(".", "_")

    given = {plain(key): value for key, value in state.items()}
    return {key: given[plain(key)] for key in body.state_dict() if plain(key) in given}

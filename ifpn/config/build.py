"""The one place where a configuration becomes objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ifpn.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn


def build_detector(cfg: DictConfig, num_classes: int) -> nn.Module:
    """backbone -> neck -> detector, from the groups of a configuration.

    The sizes that rooms need of each other (channels of the backbone, number of classes of the data) are passed here,
    so that no part of the configuration repeats another.
    """
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    from ifpn.detectors import Body

    # Parts are instantiated by themselves below, where `${solver}` would no longer find its sibling.
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    detector, in_levels, extra_levels = _without(cfg.detector, "in_levels", "extra_levels")
    backbone = instantiate(cfg.backbone)
    body = Body.build(
        backbone,
        instantiate(cfg.neck),
        in_levels=list(in_levels),
        extra_levels=extra_levels,
    )
    transform = GeneralizedRCNNTransform(
        min_size=tuple(cfg.image.min_size),
        max_size=cfg.image.max_size,
        image_mean=list(backbone.image_mean),
        image_std=list(backbone.image_std),
    )
    built: nn.Module = instantiate(detector)(body=body, num_classes=num_classes, transform=transform)
    if cfg.get("compile"):
        compile_parts(built)
    return built


def compile_parts(detector: nn.Module) -> None:
    """`torch.compile` for the backbone and the head, whose work has the same shape in each step but for image sizes.

    In place: the weights keep their names, so a checkpoint does not tell whether its run was compiled.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    from ifpn.backbones import EfficientNetLite

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "compile=true needs a C++ compiler: install g++ or clang++ (or name one in CXX), or leave compile out."
        ) from error
    backbone = detector.get_submodule("body.backbone")
    for part in (backbone, *(child for name, child in detector.named_children() if name == "head")):
        # Sizes of images vary: symbolic from the start, or each new size would be compiled anew. But the padding of an
        # EfficientNet-Lite depends on the size, layer upon layer: tracing that did not end in half an hour.
        part.compile(dynamic=not isinstance(part, EfficientNetLite))


def without_weights(cfg: DictConfig) -> DictConfig:
    """`cfg` for a detector that is only looked at, or filled from a checkpoint: no ImageNet weights, no compiling."""
    from ifpn.backbones.weights import FROM_CHECKPOINT

    return OmegaConf.merge(cfg, {"backbone": {"weights": FROM_CHECKPOINT}, "compile": False})  # type: ignore[return-value]


def build_list(group: DictConfig | None) -> list[Any]:
    """The objects of a group of named entries (callbacks, loggers), empty entries left out."""
    return [instantiate(node) for node in (group or {}).values() if node]


def _without(node: DictConfig, *keys: str) -> tuple[Any, ...]:
    """A copy of `node` without `keys`, followed by their values (None where absent)."""
    copy = OmegaConf.create(OmegaConf.to_container(node))
    assert isinstance(copy, DictConfig)
    return copy, *(copy.pop(key, None) for key in keys)

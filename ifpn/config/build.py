"""The one place where a configuration becomes objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from ifpn.errors import ConfigError, UserError

if TYPE_CHECKING:
    from torch import nn


def build_detector(cfg: DictConfig, num_classes: int) -> nn.Module:
    """Build backbone, neck and detector from the groups of a configuration.

    The sizes that rooms need of each other (channels of the backbone, number of classes of the data) are passed here,
    so that no part of the configuration repeats another.
    """
    from ifpn.detectors.transform import ImageTransform

    # Parts are instantiated by themselves below, where `${solver}` would no longer find its sibling.
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[assignment]
    backbone = instantiate(cfg.backbone)
    body = instantiate(cfg.detector.body)(backbone, instantiate(cfg.neck))
    transform = ImageTransform(
        min_size=tuple(cfg.image.min_size),
        max_size=cfg.image.max_size,
        image_mean=list(backbone.image_mean),
        image_std=list(backbone.image_std),
    )
    built: nn.Module = instantiate(cfg.detector)(body=body, num_classes=num_classes, transform=transform)
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

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            "compile=true needs a C++ compiler: install g++ or clang++ (or name one in CXX), or leave compile out."
        ) from error
    backbone = detector.get_submodule("body.backbone")
    for part in (backbone, *(child for name, child in detector.named_children() if name == "head")):
        # Sizes of images vary: symbolic from the start, or each new size would be compiled anew.
        part.compile(dynamic=getattr(part, "compile_dynamic", True))


def without_weights(cfg: DictConfig) -> DictConfig:
    """`cfg` for a detector that is only looked at, or filled from a checkpoint: no ImageNet weights, no compiling."""
    from ifpn.backbones.weights import FROM_CHECKPOINT

    return OmegaConf.merge(cfg, {"backbone": {"weights": FROM_CHECKPOINT}, "compile": False})  # type: ignore[return-value]


def build_part(node: DictConfig, path: str, **given: Any) -> Any:
    """Instantiate the node at `path`.

    Raises:
        ConfigError: its constructor refuses a setting; the message begins with the setting's path.
    """
    with naming_settings({path: node}):
        return instantiate(node, **given)


def build_list(group: DictConfig | None, path: str) -> list[Any]:
    """The objects of a group of named entries (callbacks, loggers), empty entries left out."""
    return [build_part(node, f"{path}.{name!s}") for name, node in (group or {}).items() if node]


@contextmanager
def naming_settings(nodes: Mapping[str, Any]) -> Iterator[None]:
    """Put the path of the setting before what a constructor says of its argument; `nodes` are searched for it."""
    try:
        yield
    except (UserError, InstantiationException) as error:
        cause = error if isinstance(error, UserError) else error.__cause__  # Hydra wraps it
        if not isinstance(cause, UserError):
            raise
        raise ConfigError(_with_path(str(cause), nodes)) from error


def _with_path(message: str, nodes: Mapping[str, Any]) -> str:
    name, left = message.partition("=")[0], list(nodes.items())
    for path, node in left:  # grows while it is read: the shallowest comes first
        if name in node and "_target_" not in (node[name] if OmegaConf.is_dict(node[name]) else ()):
            return f"{path}.{message}"
        left += [(f"{path}.{key}", value) for key, value in node.items() if OmegaConf.is_dict(value)]
    return message

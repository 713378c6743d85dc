"""Train torchvision's own detector with its own FPN under exactly our conditions, for a fair comparison.

    python -m benchmarks.compare_torchvision detector=fcos data=coco data.root=FOLDER neck.out_channels=128

Takes the arguments of train.py. Data, augmentation, image size, optimiser, schedule, seed, evaluation and backbone are
those of the composed configuration; detector=fcos|retina|faster_rcnn picks torchvision's FCOS, RetinaNet or FasterRCNN
with torchvision's FeaturePyramidNetwork of `neck.out_channels` channels. Solver and csc are not used.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from ifpn.cli.command import command
from ifpn.errors import ConfigError


class BackboneWithFPN(nn.Module):
    """Our backbone, torchvision's FPN on the levels that torchvision's own builder would use."""

    def __init__(self, backbone: Any, levels: list[str], channels: int, two_stage: bool) -> None:
        super().__init__()
        self.backbone, self.levels, self.out_channels = backbone, levels, channels
        extra = LastLevelMaxPool() if two_stage else LastLevelP6P7(channels, channels)
        self.fpn = FeaturePyramidNetwork([backbone.levels[name][0] for name in levels], channels, extra)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Levels by name, finest first."""
        features = self.backbone(images)
        pyramid = self.fpn(OrderedDict((str(i), features[name]) for i, name in enumerate(self.levels)))
        return OrderedDict((str(i), level) for i, level in enumerate(pyramid.values()))


class Relabelled(nn.Module):
    """torchvision's detectors with labels 0..K-1 outside: `shift` is 1 where label 0 means background inside."""

    def __init__(self, detector: nn.Module, shift: int) -> None:
        super().__init__()
        self.detector, self.shift = detector, shift

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None):  # type: ignore[no-untyped-def]
        """Losses in training, detections with labels 0..K-1 otherwise."""
        if self.training:
            assert targets is not None
            return self.detector(images, [{"boxes": t["boxes"], "labels": t["labels"] + self.shift} for t in targets])
        return [{**found, "labels": found["labels"] - self.shift} for found in self.detector(images)]


def build_peer(cfg: DictConfig, num_classes: int) -> nn.Module:
    """Torchvision's detector for the configuration, with labels as ours."""
    target = cfg.detector.get("criterion", cfg.detector)._target_
    name = target.rsplit(".", 1)[-1].removesuffix("Criterion")
    if name not in ("FCOS", "RetinaNet", "FasterRCNN"):
        raise ConfigError(f"torchvision has no {name}: choose detector=fcos, retina or faster_rcnn.")
    backbone, two_stage = instantiate(cfg.backbone), name == "FasterRCNN"
    levels = ["c2", "c3", "c4", "c5"] if two_stage else ["c3", "c4", "c5"]
    body = BackboneWithFPN(backbone, levels, cfg.neck.out_channels, two_stage)
    shared = {
        "min_size": tuple(cfg.image.min_size),
        "max_size": cfg.image.max_size,
        "image_mean": list(backbone.image_mean),
        "image_std": list(backbone.image_std),
    }
    if name == "FCOS":
        # torchvision's default of 0.2 would cut the precision-recall curve short; ours is 0.05 too.
        return Relabelled(FCOS(body, num_classes, score_thresh=0.05, **shared), shift=0)
    if name == "RetinaNet":
        sizes = tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512))
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
        return Relabelled(RetinaNet(body, num_classes, anchor_generator=anchors, **shared), shift=0)
    return Relabelled(FasterRCNN(body, num_classes + 1, **shared), shift=1)


@command(config_name="train")
def main(cfg: DictConfig) -> None:
    """Train it with the composed configuration."""
    from ifpn.cli.train import train

    train(cfg, build_peer)


if __name__ == "__main__":
    main()

"""A detector, trained or not, with a batch: what `bench_step` times."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from ifpn.config.build import build_detector
from ifpn.config.paths import CONF
from ifpn.config.stored import check_stored_data
from ifpn.data import DetectionData
from ifpn.detectors.views import resized_to
from ifpn.errors import ConfigError
from ifpn.runs.restore import read_trained, restore_detector
from ifpn.solvers import Equilibrium, Unroll
from ifpn.training.solver_state import equilibrium_neck

CLASSES, BOXES = 80, 8


class Case:
    """A detector with its optimiser and a batch.

    Args:
        detector: ours.
        optimizer: of a schedule: called with the parameters.
        images: (3, H, W) float in 0..1.
        targets: of the images.
        device: to compute on.
        precision: "fp32", or "bf16" by autocast.
        size: shorter side that images are resized to; None: as the detector was built.
    """

    def __init__(
        self,
        detector: nn.Module,
        optimizer: Any,
        images: Sequence[Tensor],
        targets: Sequence[Mapping[str, Any]],
        device: str,
        precision: str,
        size: int | None = None,
    ) -> None:
        self.device, self.size = device, size
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        self.detector: Any = detector.to(device)
        self.optimiser = optimizer([p for p in detector.parameters() if p.requires_grad])
        self.images = [image.to(device) for image in images]
        self.targets = [{k: t[k].to(device) for k in ("boxes", "labels")} for t in targets]
        self._weights = {name: value.clone() for name, value in detector.state_dict().items()}

    def fit_start(self) -> None:
        """Fit evaluation's first state to the batch, where the solver asks for a fitted one."""
        neck = equilibrium_neck(self.detector)
        if neck is None or getattr(neck.solver, "fit_start", 0) == 0:
            return
        self.detector.eval()
        with torch.no_grad(), self.autocast, neck.fitting_start():
            self.detector(self.images)
        self._weights = {name: value.clone() for name, value in self.detector.state_dict().items()}

    def train(self) -> None:
        """One step."""
        self.gradients()
        self.optimiser.step()

    def gradients(self) -> None:
        """Forward and backward of one step."""
        self.detector.train()
        with self.autocast, resized_to(self.detector, self.size):
            losses: dict[str, Tensor] = self.detector(self.images, self.targets)
        self.optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()

    def restore(self) -> None:
        """Take back the steps: what is timed next is what was trained."""
        self.detector.load_state_dict(self._weights)

    def infer(self) -> None:
        """Detections of the batch, with weight norm folded into the weights as by `ifpn.load`."""
        self.detector.eval()
        if (neck := equilibrium_neck(self.detector)) is not None:
            neck.fold_weights = True
        with torch.inference_mode(), self.autocast, resized_to(self.detector, self.size):
            self.detector(self.images)

    def input_size(self) -> str:
        """Height x width of what the network sees of the first image."""
        with resized_to(self.detector, self.size):
            height, width = self.detector.transform(self.images[:1])[0].image_sizes[0]
        return f"{height} x {width}"

    def _neck(self) -> Any:
        return next((m for m in self.detector.modules() if getattr(m, "stats", None) is not None), None)

    def spent(self) -> str:
        """Evaluations and products of the last training step."""
        neck = self._neck()
        if neck is None:
            return "-"
        stats = neck.stats
        products = "-" if stats.backward is None else stats.backward.evals
        graded = "" if isinstance(neck.solver, Unroll) else "+1"
        return f"{stats.forward.evals}{graded}, {products}"

    def test_evals(self) -> str:
        """Mean evaluations per image of the last inference."""
        neck = self._neck()
        return "-" if neck is None else f"{float(neck.evals().float().mean()):.1f}"

    def radius(self) -> str:
        """Median spectral radius of the batch."""
        body, neck = self.detector.body, self._neck()
        if neck is None:
            return "-"
        self.detector.eval()
        with torch.no_grad(), resized_to(self.detector, self.size):
            maps = body.backbone(self.detector.transform(self.images)[0].tensors)
        return f"{float(neck.spectral_radius({name: maps[name] for name in body.in_levels}).median()):.2f}"


def composed(overrides: Sequence[str]) -> DictConfig:
    """The training configuration of the overrides, resolved."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("train", overrides=["run_dir=.", *overrides])
    OmegaConf.resolve(cfg)
    return cfg


def random_case(overrides: Sequence[str], options: argparse.Namespace) -> Case:
    """Random weights, images and boxes of the size that the options give."""
    cfg = composed(overrides)
    torch.manual_seed(0)
    detector = build_detector(cfg, CLASSES)
    size = torch.tensor([options.width, options.height, options.width, options.height])
    corner = torch.rand(BOXES, 2) * 0.6
    boxes = torch.cat([corner, corner + 0.1 + 0.3 * torch.rand(BOXES, 2)], dim=1) * size
    images = [torch.rand(3, options.height, options.width) for _ in range(options.batch)]
    targets = [{"boxes": boxes, "labels": torch.randint(1, CLASSES, (BOXES,))} for _ in images]
    case = Case(detector, instantiate(cfg.schedule.optimizer), images, targets, options.device, options.precision)
    case.fit_start()
    return case


def trained_case(run: str, overrides: Sequence[str], options: argparse.Namespace) -> Case:
    """A run's best checkpoint on its validation images; `overrides` change the solver and nothing else.

    Raises:
        ConfigError: no such checkpoint, or an override of something else.
    """
    if wrong := next((o for o in overrides if not o.startswith("solver")), None):
        raise ConfigError(f"{wrong}: must set the solver. What was trained has all other settings from its training.")
    path = Path(run) / "best.ckpt" if Path(run).is_dir() else Path(run)
    checkpoint = read_trained(path)
    detector = restore_detector(checkpoint, path)
    config = checkpoint["ifpn"]["config"]
    if overrides:
        preset = [o for o in overrides if o.startswith("solver=")]
        node = composed(preset).solver if preset else config["solver"]
        changes = OmegaConf.from_dotlist([o for o in overrides if o not in preset])
        body: Any = detector.body
        body.neck.solver = instantiate(OmegaConf.merge({"solver": node}, changes).solver)
    neck: Any = equilibrium_neck(detector)
    if neck is not None and isinstance(neck.solver, Equilibrium):  # with the budget that it trained with at the end
        neck.solver.load_state_dict(checkpoint["ifpn"].get("solver") or {})
    data: DetectionData = instantiate(check_stored_data(config["data"]), batch_size=options.batch)
    items = [data.val_dataset[i] for i in range(options.batch)]
    images = [image.float() / 255 for image, _ in items]
    optimizer = instantiate(config["schedule"]["optimizer"])
    where = options.device, options.precision, options.size
    return Case(detector, optimizer, images, [target for _, target in items], *where)

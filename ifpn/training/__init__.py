"""Training: the recipe (optimiser, learning-rate curve, batch-size rule), the LightningModule and its callbacks."""

from ifpn.training.module import DetectionModule
from ifpn.training.recipe import Cosine, MultiStep, Plan, Recipe

__all__ = ["Cosine", "DetectionModule", "MultiStep", "Plan", "Recipe"]

"""A trained checkpoint at work: boxes for images, scores for a data set."""

from ifpn.inference.predictor import Predictor, load

__all__ = ["Predictor", "load"]

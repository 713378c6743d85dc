"""Detector configurations of version 0.1.0, one flat list of numbers each, as the nested ones of today."""

from __future__ import annotations

from typing import Any

# Old class: what today's configuration names, less the settings that were there already.
_PARTS: dict[str, dict[str, dict[str, Any]]] = {
    "ATSS": {
        "head": {"_target_": "PointHead", "box_bias": 0.0},
        "anchors": {"ratios": [1]},
        "criterion": {"_target_": "ATSSCriterion", "count_empty": False},
        "postprocess": {"score": "sqrt_quality"},
    },
    "FCOS": {
        "head": {"_target_": "PointHead", "box_bias": 0.0},
        "anchors": {"scales": [1], "ratios": [1]},
        "criterion": {"_target_": "FCOSCriterion"},
        "postprocess": {"score": "sqrt_quality"},
    },
    "AutoAssign": {
        "head": {"_target_": "PointHead"},
        "anchors": {"scales": [1], "ratios": [1]},
        "criterion": {"_target_": "AutoAssignCriterion"},
        "postprocess": {"score": "quality"},
    },
    "RetinaNet": {
        "head": {"_target_": "RetinaHead"},
        "anchors": {},
        "box_coder": {"_target_": "DeltaCoder", "weights": [1, 1, 1, 1]},
        "criterion": {"_target_": "RetinaNetCriterion"},
        "postprocess": {"score": "class"},
    },
}
_KEYS = {
    "body": "in_levels extra_levels",
    "head": "num_convs deformable box_bias",
    "criterion": "alpha gamma box_weight num_candidates centre_radius size_limits foreground_iou background_iou "
    "momentum initial_positives positive_weight negative_weight prior_weight",
    "postprocess": "score_threshold top_k nms_threshold max_detections",
}
# Keys of the dense detectors, below `detector.`: old -> new.
DENSE: dict[str, str] = {
    **{key: f"{part}.{key}" for part, keys in _KEYS.items() for key in keys.split()},
    "prior": "head.initial_probability",
    "anchor_scale": "anchors.scales",
    "anchor_scales": "anchors.scales",
    "anchor_ratios": "anchors.ratios",
}
# Typed keys of any detector: old path -> what to write today.
TYPED: dict[str, str] = {
    **{f"detector.{old}": f"detector.{new}" for old, new in DENSE.items()},
    "detector.box_coding": "detector/box_coder (=ltrb or =delta)",
    "detector.delta_weights": "detector.box_coder.weights",
    "detector.box_weights": "detector.box_coder_weights",
}


def nest_detector(config: dict[str, Any]) -> None:
    """Replace a flat detector of a stored configuration by the nested one, in place; leave any other as it is."""
    old = config.get("detector")
    if not isinstance(old, dict) or "body" in old:
        return
    room, _, name = str(old.get("_target_", "")).rpartition(".")
    if not room.startswith("ifpn.detectors"):
        return
    old = dict(old)
    body = _part("attach_neck", **{key: old.pop(key) for key in _KEYS["body"].split() if key in old})
    if name == "FasterRCNN":
        if "box_weights" in old:
            old["box_coder_weights"] = old.pop("box_weights")
        config["detector"] = {**old, "body": body}
    elif name in _PARTS:
        config["detector"] = {**_part("DenseDetector"), "body": body, **_dense(name, old)}


def _dense(name: str, old: dict[str, Any]) -> dict[str, Any]:
    parts = {part: dict(settings) for part, settings in _PARTS[name].items()}
    for part in ("head", "anchors", "criterion"):
        parts[part] = {**_part(parts[part].pop("_target_", "AnchorGrid")), **parts[part]}
    if old.get("box_coding") == "delta":
        parts["box_coder"] = {"_target_": "DeltaCoder", "weights": old["delta_weights"]}
        parts["criterion"]["count_empty"] = True
    parts.setdefault("box_coder", {"_target_": "LTRBCoder"})
    for part, cls in (("box_coder", parts["box_coder"]["_target_"]), ("postprocess", "Postprocess")):
        parts[part]["_target_"] = f"ifpn.detectors.{cls}"
    for key, value in old.items():
        part, _, setting = DENSE.get(key, "").partition(".")
        if part:
            parts[part][setting] = [value] if key == "anchor_scale" else value
    return parts


def _part(name: str, **settings: Any) -> dict[str, Any]:
    return {"_target_": f"ifpn.detectors.{name}", "_partial_": True, **settings}

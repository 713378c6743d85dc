"""A model card, written from what a run left on disk: nothing in it is typed by hand, and nothing is guessed."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ifpn import __version__
from ifpn.runs.folder import RESULT
from ifpn.runs.result import RunResult
from ifpn.runs.sweep import read_sweep

UNKNOWN = "not stated; those of the training data and of the backbone's weights decide"


def without_paths(value: Any) -> Any:
    """A configuration without the folders of the machine that it comes from: `/home/me/cells` becomes `cells`."""
    if isinstance(value, Mapping):
        return {key: without_paths(below) for key, below in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(below) for below in value]
    if isinstance(value, str) and (value.startswith(("/", "~", "\\")) or re.match(r"[A-Za-z]:[\\/]", value)):
        return re.split(r"[\\/]", value.rstrip("/\\"))[-1] or "."
    return value


def model_card(metadata: Mapping[str, Any], run: Path | None, address: str, licence: str | None) -> str:
    """The text of README.md.

    Args:
        metadata: of the export: configuration and classes.
        run: the folder of the run, with its result.json; None: unknown, and nothing is said of accuracy.
        address: where the card will stand, for the lines to copy.
        licence: the hub's name of it, e.g. `mit`; None: the card says that it is not stated.

    Raises:
        ConfigError: result.json cannot be read.
    """
    config = without_paths(metadata["config"])
    result = RunResult.read(run / RESULT) if run is not None and (run / RESULT).is_file() else None
    if result and run:
        accuracy = _accuracy(run, result)
    else:
        accuracy = "No result.json came with these weights: nothing is known of their accuracy."
    parts = (
        _front_matter(config, result, licence),
        _title(config, metadata, result, address),
        accuracy,
        _origin(config, metadata, run, result),
        f"Licence of the weights: {licence or UNKNOWN}.",
    )
    return "\n\n".join(parts) + "\n"


def _front_matter(config: Mapping[str, Any], result: RunResult | None, licence: str | None) -> str:
    content: dict[str, Any] = {
        "library_name": "ifpn",
        "pipeline_tag": "object-detection",
        "license": licence or "other",
        "tags": ["ifpn", "object-detection", "implicit-feature-pyramid"],
    }
    if result and result.summary and result.summary["AP"] >= 0:
        name = _data_name(config)
        content["model-index"] = [
            {
                "name": f"{_part(config, result, 'detector')} {_part(config, result, 'neck')}",
                "results": [
                    {
                        "task": {"type": "object-detection"},
                        "dataset": {"type": name, "name": name, "split": "validation"},
                        "metrics": [
                            {"type": metric, "name": f"COCO {metric}", "value": round(result.summary[metric], 4)}
                            for metric in ("AP", "AP50", "AP75")
                        ],
                    }
                ],
            }
        ]
    return f"---\n{yaml.safe_dump(content, sort_keys=False)}---"


def _title(config: Mapping[str, Any], metadata: Mapping[str, Any], result: RunResult | None, address: str) -> str:
    parts = {name: _part(config, result, name) for name in ("detector", "neck", "csc", "solver", "backbone")}
    used = [name for name in ("csc", "solver") if config.get("neck", {}).get(name)]
    described = ", ".join(f"{name} {parts[name]}" for name in ("neck", *used, "backbone"))
    classes = metadata["class_names"]
    lines = [
        f"# {parts['detector']}, {described}",
        "An object detector of [ifpn](https://arxiv.org/abs/2012.13563), implicit feature pyramids.",
        f'```python\nimport ifpn\n\ndetector = ifpn.load("{address}")\nfound = detector("photo.jpg")\n```',
        f"{len(classes)} class{'es' if len(classes) != 1 else ''}: {', '.join(map(str, classes))}.",
    ]
    solver = config.get("solver") or {}
    if "test_evals" in solver and "solver" in used:
        lines.append(
            f"At most {solver['test_evals']} evaluations of G per image, {solver['train_evals']} in training"
            + _residual(result)
        )
    return "\n\n".join(lines)


def _residual(result: RunResult | None) -> str:
    residual = (result.solver if result else {}).get("forward_residual")
    return "." if residual is None else f"; relative residual at the end of training {residual:.2g}."


def _accuracy(run: Path, result: RunResult) -> str:
    if not result.summary:
        return "The run was not validated: nothing is known of the accuracy."
    summary, lines = result.summary, []
    if not result.complete:
        lines.append(f"The run was stopped after {result.steps} steps, before its end.")
    heads = [name for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100") if name in summary]
    cells = [_score(summary[name]) for name in heads]
    lines.append("## Accuracy\n\nCOCO's numbers on the validation set, at the end of training:")
    lines.append(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}\n| {' | '.join(cells)} |")
    if result.best_AP is not None and result.best_AP >= 0:
        lines.append(f"The weights here are those of the best validation, AP {result.best_AP:.3f}.")
    seeds = _seeds(run)
    if len(seeds) > 1:
        mean, deviation = statistics.fmean(seeds) / 100, statistics.stdev(seeds) / 100
        lines.append(
            f"The same training with {len(seeds)} seeds: AP {mean:.3f} ± {deviation:.3f} (mean and standard deviation, "
            f"at the end of training); this one has seed {result.seed}."
        )
    else:
        lines.append(f"One training, seed {result.seed}: no spread is known.")
    return "\n\n".join(lines)


def _seeds(run: Path) -> Sequence[float]:
    """AP in percent of the runs beside this one that differ from it in the seed alone, itself among them."""
    for row in read_sweep(run.parent)[0]:
        if any(one.folder == run for one in row.runs):
            return row.values("AP")
    return []


def _origin(config: Mapping[str, Any], metadata: Mapping[str, Any], run: Path | None, result: RunResult | None) -> str:
    lines = [f"## Origin\n\nData: {_data_name(config)}; {len(metadata['class_names'])} classes."]
    command = _command(run)
    if command:
        lines.append(f"```\n{command}\n```")
    if result:
        facts = [f"{result.steps} steps of {result.batch} images", f"on {result.machine}"]
        facts += [f"commit {result.commit[:12]}"] if result.commit else []
        facts += [f"{name} {result.versions[name]}" for name in ("ifpn", "torch") if name in result.versions]
        lines.append(", ".join(facts) + ".")
    else:
        lines.append(f"Exported by ifpn {__version__}.")
    return "\n\n".join(lines)


def _command(run: Path | None) -> str:
    """The command of the training, as Hydra noted it beside the run, without folders of that machine."""
    try:
        noted = yaml.safe_load(((run or Path()) / "hydra" / "overrides.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return ""
    words = [word for word in noted or [] if isinstance(word, str) and not word.startswith(("run_dir=", "ckpt="))]
    pairs = [word.partition("=") for word in words]
    return " ".join(["ifpn train", *(f"{key}{equals}{without_paths(value)}" for key, equals, value in pairs)])


def _data_name(config: Mapping[str, Any]) -> str:
    data = config.get("data") or {}
    return str(data.get("root") or "unknown").rstrip("/").rpartition("/")[2]


def _part(config: Mapping[str, Any], result: RunResult | None, group: str) -> str:
    chosen = (result.choices if result else {}).get(group)
    target = str((config.get(group) or {}).get("_target_", "unknown"))
    return str(chosen or target.rpartition(".")[2])


def _score(value: float) -> str:
    return "-" if value == -1 else f"{value:.3f}"

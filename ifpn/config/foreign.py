"""What settings of other libraries' classes may be: their signatures do not say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from ifpn.bounds import Ge, Gt, Le, Length, Lt, Probability


class Part:
    """Stands for an object that a node with a `_target_` makes."""


Count = Annotated[int, Ge(1), Le(100_000)]
Beta = Annotated[float, Ge(0), Lt(1)]
OPTIMIZER: Mapping[str, Any] = {
    "lr": Annotated[float, Gt(0), Le(100)],
    "weight_decay": Annotated[float, Ge(0), Le(1)],
    "momentum": Beta,
    "betas": Annotated[Sequence[Beta], Length(2, 2)],
    "eps": Annotated[float, Ge(0), Le(1)],
}
Switch = bool | None
# A share of the batches of an epoch, or how many.
Some = Annotated[float, Gt(0), Le(1)] | Count
SIGNATURES: Mapping[str, Mapping[str, Any]] = {
    "torch.optim.": OPTIMIZER,
    "pytorch_lightning.Trainer": {
        "accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"],
        "devices": Literal["auto", -1] | Count | Annotated[Sequence[Annotated[int, Ge(0), Le(100_000)]], Length(1)],
        "num_nodes": Count,
        "strategy": Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"] | Part,
        "precision": Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true", 32, 16, 64],
        "accumulate_grad_batches": Count,
        "log_every_n_steps": Annotated[int, Ge(1), Le(1_000_000_000)],
        "num_sanity_val_steps": Annotated[int, Ge(-1), Le(100_000)],
        "deterministic": Switch | Literal["warn"],
        "benchmark": Switch,
        "limit_train_batches": Some,
        "limit_val_batches": Some | Literal[0],
        "fast_dev_run": bool | Count,
        "profiler": Literal["simple", "advanced", "pytorch"] | Part | None,
        "sync_batchnorm": bool,
        "detect_anomaly": bool,
        "enable_model_summary": bool,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
    },
    "pytorch_lightning.callbacks.LearningRateMonitor": {"logging_interval": Literal["step", "epoch"] | None},
    "pytorch_lightning.loggers.TensorBoardLogger": {
        "save_dir": str,
        "name": str | None,
        "version": str | Annotated[int, Ge(0)] | None,
    },
    "pytorch_lightning.profilers.": {"dirpath": str | None, "filename": str | None},
    "ifpn.training.loggers.WandbRun": {  # its settings are Lightning's
        "save_dir": str,
        "project": str,
        "name": str | None,
        "group": str | None,
        "job_type": str | None,
        "tags": Sequence[str],
        "offline": bool,
        "log_model": bool | Literal["all"],
    },
}
# Of the groups of named entries.
ENTRIES: Mapping[str, Any] = {"callbacks": Part | None, "logger": Part | None}
# Settings outside every `_target_`.
SETTINGS: Mapping[str, Any] = {
    "seed": Annotated[int, Ge(0), Le(2**31 - 1)],
    "stabilise": bool,
    "compile": bool,
    "run_dir": str,
    "ckpt": str | None,
    "image.min_size": Annotated[Sequence[Annotated[int, Ge(32), Le(8192)]], Length(1)],
    "image.max_size": Annotated[int, Ge(32), Le(16384)],
    "batch_size": Annotated[int, Ge(1), Le(4096)],
    "test_evals": Annotated[int | None, Ge(1), Le(1000)],
    "predictions": str | None,
    "submission": str | None,
    "flip": bool,
    "source": str,
    "device": str,
    "on_bad_image": Literal["skip", "refuse"],
    "score_threshold": Annotated[float | None, Ge(0), Le(1)],
    "confusion.iou_threshold": Annotated[float, Gt(0), Le(1)],
    "confusion.score_threshold": Probability,
}


def foreign_signature(target: str) -> Mapping[str, Any]:
    """The settings of a class that is not ours, as far as we know them."""
    found = (s for name, s in SIGNATURES.items() if (target.startswith(name) if name.endswith(".") else target == name))
    return next(found, {})

"""The monitor reports and warns, and measuring the spectral radius changes nothing in a training."""

from __future__ import annotations

import csv
import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ifpn.config.paths import CONF
from ifpn.errors import UserError
from ifpn.necks import ImplicitFPN
from ifpn.solvers import Anderson, Equilibrium, Solution, Stats, Unroll
from ifpn.training.callbacks import SolverMonitor
from ifpn.training.callbacks.solver_monitor import solver_metrics
from ifpn.training.loggers import MetricsLog
from tests.necks.cases import Turn

pytestmark = pytest.mark.process


def monitor(**changes: Any) -> SolverMonitor:
    """The monitor of conf/callbacks/default.yaml."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        built: SolverMonitor = instantiate(compose("train").callbacks.solver_monitor, **changes)
    return built


class Net(pl.LightningModule):
    """An implicit neck on two levels of random features, and a quadratic loss."""

    def __init__(self, **neck: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.neck = ImplicitFPN([4, 4], 8, extra_levels="none", **neck)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        levels = self.neck(OrderedDict(c3=batch, c4=batch[..., ::2, ::2]))
        return torch.stack([(level - 1).square().mean() for level in levels.values()]).sum()

    def train_dataloader(self) -> Any:
        generator = torch.Generator().manual_seed(1)
        return DataLoader([torch.randn(4, 8, 8, generator=generator) for _ in range(16)], batch_size=2)  # type: ignore[arg-type]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def fit(net: Net, callback: SolverMonitor, folder: Path, log_every: int = 1) -> list[dict[str, str]]:
    """Eight steps; the rows of metrics.csv."""
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[callback],
        logger=MetricsLog(str(folder)),
        log_every_n_steps=log_every,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(5)
    trainer.fit(net)
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*isinstance.treespec, LeafSpec.*")


@quiet
def test_measuring_changes_nothing_in_the_training(tmp_path: Path) -> None:
    """Dropout on, so that one random number drawn more would change everything after it."""
    plain, watched = Net(dropout=0.3), Net(dropout=0.3)
    rows = fit(plain, monitor(), tmp_path / "plain", log_every=5)
    assert "solver/spectral_radius" not in rows[0]
    callback = monitor(spectral_every=3)
    rows = fit(watched, callback, tmp_path / "watched", log_every=5)
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    # Rows are numbered from 0: the third and the sixth step, though only the fifth is a logged one.
    measured = {int(row["step"]): float(row["solver/spectral_radius"]) for row in rows if row["solver/spectral_radius"]}
    assert list(measured) == [2, 5]
    assert all(0 < radius < 10 for radius in measured.values())
    assert callback.summary["spectral_radius"] == pytest.approx(measured[5])
    for row in rows:
        radius, depth = row["solver/spectral_radius"], row.get("solver/effective_depth")
        if radius and float(radius) < 1:
            assert float(depth or "nan") == pytest.approx(1 / (1 - float(radius)), rel=1e-4)
        else:
            assert not depth  # nothing converges, or nothing was measured


@quiet
def test_what_is_logged(tmp_path: Path) -> None:
    rows = fit(Net(solver=Equilibrium(Anderson(), 20)), monitor(), tmp_path)
    row = next(row for row in rows if row["step"] == "7")
    for name in ("residual", "residual_max", "evals", "unconverged", "nonfinite"):
        assert row[f"solver/forward_{name}"]
        assert row[f"solver/backward_{name}"]
    assert float(row["solver/forward_evals"]) == 20
    assert float(row["solver/forward_unconverged"]) == 0


def test_the_share_of_samples_that_did_not_converge() -> None:
    residual = torch.tensor([0.01, 0.06, torch.inf, 0.04], dtype=torch.float64)
    solution = Solution(torch.zeros(4, 1), residual, residual[None], 1, torch.zeros(4), torch.tensor([1, 1, 2, 1]))
    numbers = solver_metrics("forward", solution)
    assert numbers["forward_unconverged"] == 0.5
    assert numbers["forward_nonfinite"] == 0.25


def turning(radius: float, solver: Any) -> Net:
    return Net(csc=lambda c, n: Turn(radius), residual_block=False, weight_norm=False, solver=solver)


@quiet
@pytest.mark.parametrize("how", ["residual", "radius"])
def test_a_lost_contraction_is_told_once_and_in_words(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Damped iteration on a rotation by 1.6: it never comes near the fixed point.
    net = turning(1.6, Equilibrium(Anderson(m=1), 7))
    callback = monitor(spectral_every=2 if how == "radius" else None, patience=100 if how == "radius" else 3)
    with caplog.at_level(logging.WARNING, "ifpn"):
        fit(net, callback, tmp_path)
    (message,) = [record.getMessage() for record in caplog.records]
    assert ("step 2: " if how == "radius" else "step 3: ") in message
    assert ("spectral radius" if how == "radius" else "residual of the median image was above 0.1") in message
    for remedy in ("neck.output_norm=true", "neck.jacobian_penalty", "solver.train_evals", "docs/solver.md"):
        assert remedy in message
    resumed = monitor()
    resumed.load_state_dict(callback.state_dict())
    assert resumed.warned


@quiet
def test_no_warning_without_a_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A contraction; and an unrolled network, which solves no equation."""
    with caplog.at_level(logging.WARNING, "ifpn"):
        fit(turning(0.5, Equilibrium(Anderson(), 15)), monitor(spectral_every=2), tmp_path / "a")
        fit(turning(1.6, Unroll(2)), monitor(spectral_every=2), tmp_path / "b")
    assert not caplog.records


@quiet
@pytest.mark.parametrize(
    ("readings", "warned"), [([1.4, 1.2, 0.3], True), ([1.4, 1.2], False), ([1.4, 0.9, 0.8], False)]
)
def test_the_readings_that_choose_a_budget_warn_too(
    readings: list[float], warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Anderson's method finds this fixed point, so no residual tells that plain iteration would not."""
    solver = Equilibrium(Anderson(), 15)
    solver.progress.readings = readings
    with caplog.at_level(logging.WARNING, "ifpn"):
        fit(turning(0.5, solver), monitor(), tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == warned
    assert all(
        "G does not contract: its spectral radius, the median of the last readings, is 1.20" in m for m in messages
    )


def test_a_reading_below_the_limit_starts_the_count_again() -> None:
    class Trainer:
        global_step, is_global_zero = 1, True

    callback = monitor(patience=2)
    for residual, warned in ((0.5, False), (0.01, False), (0.5, False), (float("inf"), True)):
        callback.summary["forward_residual"] = residual
        callback._check_residual(Trainer())  # type: ignore[arg-type]
        assert callback.warned is warned


def test_mistakes_are_named() -> None:
    with pytest.raises(UserError, match="spectral_every=0"):
        SolverMonitor(0, 25, 0.1, 3)
    with pytest.raises(UserError, match=r"patience=1\.5"):
        SolverMonitor(None, 25, 0.1, 1.5)  # type: ignore[arg-type]


def test_a_detector_without_a_solver_is_left_alone(tmp_path: Path) -> None:
    class Plain(nn.Module):
        stats: Stats | None = None

    callback = monitor(spectral_every=1)

    class Trainer:
        global_step, log_every_n_steps = 0, 1

    callback.on_train_batch_start(Trainer(), Plain(), None, 0)  # type: ignore[arg-type]
    callback.on_train_batch_end(Trainer(), Plain(), None, None, 0)  # type: ignore[arg-type]
    assert not callback.summary

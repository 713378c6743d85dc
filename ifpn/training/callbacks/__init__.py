"""What runs beside a training: progress on the terminal, the solver's state, checkpoints, the run folder's story."""

from ifpn.runs.export import Export
from ifpn.training.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, PeriodicCheckpoint
from ifpn.training.callbacks.early_stopping import EarlyStopping
from ifpn.training.callbacks.ema import WeightAverage
from ifpn.training.callbacks.fit_start import FitStart
from ifpn.training.callbacks.nonfinite import NonFinite
from ifpn.training.callbacks.pictures import Pictures
from ifpn.training.callbacks.profile import Profile
from ifpn.training.callbacks.progress import Progress
from ifpn.training.callbacks.run_report import RunReport
from ifpn.training.callbacks.solver_monitor import SolverMonitor

__all__ = [
    "BestCheckpoint",
    "EarlyStopping",
    "Export",
    "FitStart",
    "LastCheckpoint",
    "NonFinite",
    "PeriodicCheckpoint",
    "Pictures",
    "Profile",
    "Progress",
    "RunReport",
    "SolverMonitor",
    "WeightAverage",
]

"""Hydra's door to `ifpn.cli.sweep`: Hydra accepts launchers from packages below `hydra_plugins` only."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from ifpn.cli.jobs import Job, swept_keys
from ifpn.cli.sweep import run_sweep
from ifpn.errors import ConfigError
from ifpn.runs.identity import job_folder, swept_first


class JobLauncher(Launcher):
    """`hydra/launcher=jobs`. jobs: how many run at a time."""

    def __init__(self, jobs: int) -> None:
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
            raise ConfigError(f"hydra.launcher.jobs={jobs} is not allowed: it must be a whole number, 1 or more.")
        self.jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra hands over before the launch."""
        self.config = config
        self.hydra_context = hydra_context
        self.task_function = task_function

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the jobs of a sweep; raises `SweepError` if some failed."""
        setup_globals()
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        swept = swept_keys(job_overrides)
        jobs = [self._job(initial_job_idx + i, list(o), folder, swept) for i, o in enumerate(job_overrides)]
        names = [job.folder.name for job in jobs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ConfigError(f"two jobs of this sweep have the same overrides: {twice[0]}. Name each value once.")
        run_sweep(
            jobs,
            folder,
            at_a_time=self.jobs,
            hydra_overrides=list(self.config.hydra.overrides.hydra),
        )
        return [JobReturn(overrides=job.overrides, status=JobStatus.COMPLETED) for job in jobs]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        return self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))

    def _job(self, number: int, overrides: list[str], sweep: Path, swept: Collection[str]) -> Job:
        cfg = self._compose(overrides)
        before = HydraConfig.instance().cfg
        # Interpolations may ask for Hydra's own settings of this job.
        HydraConfig.instance().set_config(cfg)
        try:
            folder = job_folder(sweep, str(cfg.hydra.sweep.subdir), swept)
            with open_dict(cfg):
                del cfg["hydra"]
            container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
        finally:
            HydraConfig.instance().cfg = before
        assert isinstance(container, dict)
        return Job(number, tuple(swept_first(overrides, swept)), folder, {str(k): v for k, v in container.items()})

"""The command line: Hydra composes, and what a user got wrong comes back as one sentence, not a traceback."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ifpn.cli import hydra_guard
from ifpn.cli.cores import wait_asleep
from ifpn.cli.messages import format_error
from ifpn.cli.quoting import expand_seeds, quote_paths
from ifpn.config.expansion import check_interpolations
from ifpn.config.paths import CONF
from ifpn.errors import ConfigError, UserError
from ifpn.runs.folder import LOCK

# For developers: tracebacks instead of sentences.
TRACEBACK_SWITCH = "IFPN_TRACEBACK"
# Reported as a message with exit status 2. Everything else is a bug and keeps its traceback.
USER_ERRORS = (HydraException, OmegaConfBaseException, UserError, OSError)


def command(config_name: str) -> Callable[[Callable[[DictConfig], None]], Callable[[], None]]:
    """Decorate `main(cfg)`: compose `conf/<config_name>.yaml` with the command line, check it, run.

    The configuration that `main` gets is resolved (no interpolation left) and checked; `run_dir` is absolute.
    Exit status 2 for an error of the user, which is printed as one paragraph on stderr.
    """

    def decorate(main: Callable[[DictConfig], None]) -> Callable[[], None]:
        @hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)
        def composed(cfg: DictConfig) -> None:
            try:
                main(checked(cfg, list(HydraConfig.get().overrides.task)))
            except USER_ERRORS as error:
                if HydraConfig.get().mode != RunMode.RUN:  # the sweep wants to know
                    raise
                # Not through Hydra, which would write a line of its own before ours.
                failed.append(error)
                remove_unused_folder()

        failed: list[Exception] = []

        def run() -> None:
            wait_asleep()
            # Hydra then lets its exceptions through, so that they can be told in our words.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            hydra_guard.install()
            with reporting_user_errors():
                hydra_guard.check_arguments(sys.argv[1:])
                sys.argv[1:] = quote_paths(expand_seeds(expand_jobs_flag(sys.argv[1:])))
                composed()
                if failed:
                    raise failed[0]

        return run

    return decorate


@contextmanager
def reporting_user_errors() -> Iterator[None]:
    """Print what a user can mend as one paragraph on stderr and exit with status 2; let everything else through."""
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted before there was anything to keep", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except USER_ERRORS as error:
        if os.environ.get(TRACEBACK_SWITCH) == "1":
            raise
        print(f"error: {format_error(error, sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)


def list_groups(config_name: str) -> str:
    """Name the groups that `conf/<config_name>.yaml` accepts, with their options, one group a line.

    Hydra's own `$APP_CONFIG_GROUPS` names those of every command.
    """
    found: dict[str, list[str]] = {}
    for entry in OmegaConf.load(CONF / f"{config_name}.yaml").defaults:
        group = next(iter(entry)) if OmegaConf.is_dict(entry) else ""
        for path in (CONF / group).rglob("*.yaml") if group and "hydra" not in group else ():
            found.setdefault(str(path.parent.relative_to(CONF)), []).append(path.stem)
    return "\n".join(f"{group}: {', '.join(sorted(found[group]))}" for group in sorted(found))


# ${groups:train} in a help text
OmegaConf.register_new_resolver("groups", list_groups, replace=True)


def remove_unused_folder() -> None:
    """Remove what Hydra left for a run which was refused before it wrote anything; a folder the user named stays."""
    overrides = HydraConfig.get().overrides
    named = any(given.startswith(("run_dir=", "hydra.run.dir=")) for given in [*overrides.task, *overrides.hydra])
    folder = Path(HydraConfig.get().runtime.output_dir)
    if folder.resolve() == Path.cwd().resolve():  # of a command that makes no folder
        return
    if {path.name for path in folder.iterdir()} <= {"hydra", LOCK}:  # Hydra's own notes, an empty lock
        # The reason of the refusal must be what is told.
        shutil.rmtree(folder / "hydra" if named else folder, ignore_errors=True)
        if named:
            (folder / LOCK).unlink(missing_ok=True)
        elif folder.parent.name == "runs":
            with suppress(OSError):  # it holds other runs
                folder.parent.rmdir()


def checked(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Resolve the configuration and refuse what cannot work, before anything is built."""
    from ifpn.config.allowlist import check_targets
    from ifpn.config.checks import check_config
    from ifpn.config.extras import check_extras

    # In a sweep every job has its own folder, which only Hydra knows. Where Hydra is to make none, the command does.
    if "run_dir" in cfg and OmegaConf.to_container(HydraConfig.get().run, resolve=False) != {"dir": "."}:
        cfg.run_dir = HydraConfig.get().runtime.output_dir
    check_interpolations(OmegaConf.to_container(cfg, resolve=False))
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    resolved = OmegaConf.create(container)
    assert isinstance(resolved, DictConfig)
    check_extras(choices())
    check_targets(container)
    check_config(resolved, overrides, choices())
    return resolved


def expand_jobs_flag(arguments: list[str]) -> list[str]:
    """`-j 2` (or `-j2`) becomes `hydra.launcher.jobs=2`, and `-m` goes to the front, where Hydra wants it.

    Raises:
        ConfigError: `-j` without a whole number, or without `-m`.
    """
    flags, rest, jobs = [], [], []
    left = iter(arguments)
    for argument in left:
        if argument in ("-m", "--multirun"):
            flags.append(argument)
        elif argument == "-j" or (argument.startswith("-j") and argument[2:].isdigit()):
            number = argument[2:] or next(left, "")
            if not number.isdigit() or int(number) < 1:
                raise ConfigError(f"-j {number or '(nothing)'} is not allowed: give a whole number, 1 or more: -j 2.")
            jobs.append(f"hydra.launcher.jobs={number}")
        else:
            rest.append(argument)
    if jobs and not flags:
        raise ConfigError("-j, how many jobs of a sweep run at a time, has no meaning without -m: train.py -m -j 2 …")
    return [*flags, *rest, *jobs]


def choices() -> dict[str, str | None]:
    """Which option of each group was chosen: {"neck": "implicit", ...}; nothing outside a command."""
    return dict(HydraConfig.get().runtime.choices) if HydraConfig.initialized() else {}


def typed(group: str) -> bool:
    """Whether the option of a group was chosen on the command line."""
    return HydraConfig.initialized() and any(o.startswith(f"{group}=") for o in HydraConfig.get().overrides.task)

"""What Hydra would build, import or write before it hands the configuration to us, checked first.

Hydra instantiates its launcher, sweeper and callbacks, configures logging from a dictionary that may name any class,
imports packages of its search path and sets environment variables: all by configuration files that may come from
outside. The classes here stand in for Hydra's own, in every command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import DictConfig, OmegaConf

from ifpn.errors import ConfigError
from ifpn.reading import LONGEST_NUMBER, read_yaml
from ifpn.runs.files import refuse_links

PLUGINS = ("hydra_plugins.", "hydra._internal.core_plugins.")
LOG_CLASSES = (
    "logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter",
    "colorlog.ColoredFormatter",
)  # fmt: skip
MOST_BRACKETS = 200  # in one argument
LOG_FILES = "${hydra.runtime.output_dir}/"
# What a run may set in its environment: none of these finds programs or libraries.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "NCCL_",
    "OMP_",
    "MKL_",
    "KMP_",
    "GOMP_",
    "WANDB_",
    "PYTORCH_",
)


def check_arguments(arguments: Sequence[str]) -> None:
    """Check the command line before Hydra's grammar reads it.

    Raises:
        ConfigError: an argument that the grammar would choke on, or a flag that runs code from a file.
    """
    for argument in arguments:
        if argument.startswith("--experimental-rerun"):
            raise ConfigError("--experimental-rerun is not allowed: it runs what a pickle file says.")
        key = argument.partition("=")[0]
        if re.search(rf"\d{{{LONGEST_NUMBER}}}", argument):
            raise ConfigError(f"{key:.60}: has a number of more than {LONGEST_NUMBER} digits.")
        if sum(map(argument.count, "[{(")) > MOST_BRACKETS:
            raise ConfigError(f"{key:.60}: has more than {MOST_BRACKETS} lists and dictionaries.")


def install() -> None:
    """Put the checking classes in the place of Hydra's."""
    for name, checking in (("Callbacks", CheckedCallbacks), ("ConfigLoaderImpl", CheckedLoader)):
        setattr(hydra._internal.hydra, name, checking)
    Plugins.instance()  # fills the registry, with classes of its own making
    source = SourcesRegistry.instance().resolve("file")
    if source.load_config is not _checking:
        _unchecked.append(source.load_config)
        setattr(source, "load_config", _checking)  # noqa: B010  # mypy allows no assignment to a method


_unchecked: list[Any] = []


def _checking(source: ConfigSource, config_path: str) -> ConfigResult:
    path = Path(source.path) / source._normalize_file_name(config_path)
    if path.is_file():
        read_yaml(path)
    result: ConfigResult = _unchecked[0](source, config_path)
    return result


class CheckedLoader(ConfigLoaderImpl):
    """Composes as Hydra's, from files and Hydra's own packages only; what comes out is checked."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        super().__init__(_check_search_path(config_search_path))

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """As Hydra's.

        Raises:
            ConfigError: `hydra` names what is not allowed.
        """
        cfg = super().load_configuration(*args, **kwargs)
        check_hydra(OmegaConf.to_container(cfg.hydra, resolve=False))
        return cfg

    def _process_config_searchpath(self, config_name: Any, parsed_overrides: Any, repo: Any) -> None:
        initialize = repo.initialize_sources
        repo.initialize_sources = lambda path: initialize(_check_search_path(path))
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def _check_search_path(search_path: ConfigSearchPath) -> ConfigSearchPath:
    for entry in search_path.get_path():
        scheme, found, package = entry.path.partition("://")
        if found and scheme != "file" and not (scheme in ("pkg", "structured") and package in ("", "hydra.conf")):
            raise ConfigError(f"hydra.searchpath={entry.path}: must be a folder. A package would be imported.")
    return search_path


def check_hydra(node: Any) -> None:
    """Check Hydra's own node, plain and unresolved.

    Raises:
        ConfigError: it would call, import or write what a configuration may not.
    """
    from ifpn.config.allowlist import check_targets

    for part in ("launcher", "sweeper"):
        value = node.get(part)
        target = value.get("_target_") if isinstance(value, Mapping) else value
        if value is not None and not str(target).startswith(PLUGINS):
            raise ConfigError(f"hydra.{part}._target_={target!r} is not allowed: it must be a plugin of Hydra.")
        if isinstance(value, Mapping):
            check_targets({f"hydra.{part}": {k: v for k, v in value.items() if k != "_target_"}})
    check_targets({"hydra.callbacks": node.get("callbacks")})
    for part in ("hydra_logging", "job_logging"):
        for path, key, value in _leaves(node.get(part), f"hydra.{part}"):
            _check_logging(path, key, value)
    job = node.get("job") or {}
    for name in [*(job.get("env_set") or {}), *(job.get("env_copy") or [])]:
        if not str(name).startswith(VARIABLES):
            raise ConfigError(f"hydra.job.env_set.{name} is not allowed: must start with {', '.join(VARIABLES)}.")
    subdir = node.get("output_subdir")
    if subdir is not None and not re.fullmatch(r"\.?\w+", str(subdir)):
        raise ConfigError(f"hydra.output_subdir={subdir}: must be the name of a folder in run_dir, or null.")


def _check_logging(path: str, key: str, value: Any) -> None:
    """A dictionary for `logging.config` may name classes, call factories and open files."""
    text = str(value)
    allowed = {
        "class": text in LOG_CLASSES,
        "()": text in LOG_CLASSES,
        "stream": text in ("ext://sys.stdout", "ext://sys.stderr"),
        "filename": text.startswith(LOG_FILES) and ".." not in text,
    }
    if not allowed.get(key, "://" not in text):
        raise ConfigError(
            f"{path}={text!r:.200} is not allowed: logging may use {', '.join(LOG_CLASSES)}, and write to "
            f"ext://sys.stdout, ext://sys.stderr and files in {LOG_FILES}."
        )


def _leaves(node: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if isinstance(value, Mapping | list):
            yield from _leaves(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", str(key), value


class CheckedCallbacks(Callbacks):
    """Hydra's own callbacks; before a run, its folder for Hydra's notes."""

    def __init__(self, config: DictConfig | None = None) -> None:
        if config is not None:
            check_hydra(OmegaConf.to_container(config.hydra, resolve=False))
        super().__init__(config)

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse planted links through which Hydra would write its notes."""
        subdir = config.hydra.output_subdir
        if subdir is not None:
            folder = Path(str(OmegaConf.select(config, "hydra.run.dir")))
            refuse_links(folder, [subdir, *(f"{subdir}/{name}.yaml" for name in ("config", "hydra", "overrides"))])
        super().on_run_start(config, **kwargs)

"""One job of a sweep: its folder tells whether it is finished, interrupted, failed or new."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError
from ifpn.reading import read_json, read_yaml
from ifpn.runs.files import write_text
from ifpn.runs.folder import CONFIG, FAILED, RESULT, completion
from ifpn.runs.identity import config_hash
from ifpn.runs.lock import folder_lock


@dataclass(frozen=True)
class Job:
    """overrides: as typed, in Hydra's grammar. folder: its run_dir. config: composed and resolved, without `hydra`."""

    number: int
    overrides: tuple[str, ...]
    folder: Path
    config: Mapping[str, Any]

    def finished(self) -> bool:
        """The folder holds the complete result of this very configuration.

        Raises:
            ConfigError: it holds a run of another configuration.
        """
        done, mine = completion(self.folder), config_hash(self.config)
        try:
            before = read_yaml(self.folder / CONFIG)
        except ConfigError:
            before = None
        if not isinstance(before, dict):  # not there, or cut off by a kill or a full disk
            return done is not None and done["config_hash"] == mine
        if config_hash(before) != mine:
            raise ConfigError(
                f"{self.folder} holds a run of another configuration with the same overrides (the files in conf/ "
                "have changed since): give another hydra.sweep.dir, or remove the folder."
            )
        return done is not None  # whatever its hash: another version may compute another one

    def interrupted(self) -> bool:
        """A run was started here and did not finish."""
        return (self.folder / CONFIG).is_file() or any(self.folder.glob("*.ckpt"))

    def check_free(self) -> None:
        """Check that nobody writes to the folder, such as a job that has outlived its sweep.

        Raises:
            FolderBusyError: somebody does.
        """
        with folder_lock(self.folder, "run_dir"):
            pass

    def mark_failed(self, reason: str) -> None:
        """Leave the reason of a failure in the folder."""
        write_text(self.folder / FAILED, reason.rstrip() + "\n")

    def unmark(self) -> None:
        """Forget an earlier failure."""
        (self.folder / FAILED).unlink(missing_ok=True)

    def summary(self) -> dict[str, Any]:
        """The 12 numbers of its last validation, empty if there are none."""
        return dict(self._result().get("summary") or {})

    def _result(self) -> dict[str, Any]:
        try:
            result = read_json(self.folder / RESULT)
        except ConfigError:
            return {}
        return result if isinstance(result, dict) else {}


def swept_keys(jobs: Sequence[Sequence[str]]) -> set[str]:
    """The settings in which the overrides of the jobs differ."""
    given = [dict(override.partition("=")[::2] for override in overrides) for overrides in jobs]
    return {key for key in set().union(*given) if len({str(overrides.get(key)) for overrides in given}) > 1}

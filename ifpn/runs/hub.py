"""The door to the Hugging Face hub: `hf://user/name@revision` as a folder with an export; safetensors and JSON only."""

from __future__ import annotations

import importlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ifpn.errors import ConfigError
from ifpn.runs.checkpoint import first_line
from ifpn.runs.export import CONFIG, WEIGHTS

SCHEME = "hf://"
HOME = "https://huggingface.co"
_NAME = r"[A-Za-z0-9][\w.-]{0,95}"
_ADDRESS = re.compile(rf"hf://(?P<repo>{_NAME}/{_NAME})(@(?P<revision>[\w./-]{{1,200}}))?")


@dataclass(frozen=True)
class Address:
    """A repository on the hub, at a revision: a commit, tag or branch; None: its newest state."""

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str, setting: str) -> Address:
        """Read `hf://user/name` or `hf://user/name@revision`.

        Raises:
            ConfigError: it is no such address; `setting` names where it was given.
        """
        match = _ADDRESS.fullmatch(text)
        if match is None or ".." in text or "--" in text:
            raise ConfigError(f"{setting}={text}: must be hf://user/name, or hf://user/name@revision.")
        return cls(match["repo"], match["revision"])

    @property
    def name(self) -> str:
        """What follows the user's name."""
        return self.repo.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{SCHEME}{self.repo}" + (f"@{self.revision}" if self.revision else "")


def on_hub(path: object) -> bool:
    """Whether a setting names a repository on the hub."""
    return isinstance(path, str) and path.startswith(SCHEME)


def fetch(text: str, setting: str = "ckpt") -> tuple[Path, Address]:
    """The folder of the hub's cache that holds the export at an address, fetched if need be.

    Args:
        text: the address. `HF_ENDPOINT` names another hub, `HF_HOME` another place for the cache.
        setting: where it was given, for messages.

    Returns:
        The folder, and the address pinned to the commit of its files.

    Raises:
        ConfigError: no such repository, nothing that ifpn exported in it, or no way to reach it.
    """
    address = Address.parse(text, setting)
    hub = library()
    revision = address.revision
    for name in (CONFIG, WEIGHTS):  # no other file is ever asked for: neither of these can hold code
        try:
            found = Path(
                hub.hf_hub_download(address.repo, name, revision=revision, endpoint=endpoint(), library_name="ifpn")
            )
        except Exception as error:  # of the library's HTTP client too
            raise ConfigError(_unreachable(address, setting, name, error, hub)) from error
        # …/snapshots/COMMIT/config.json: the weights come from the same commit.
        revision = found.parent.name
    return found.parent, Address(address.repo, revision)


def _unreachable(address: Address, setting: str, name: str, error: Exception, hub: Any) -> str:
    page = f"{endpoint()}/{address.repo}/resolve/{address.revision or 'main'}"
    errors = hub.errors
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{setting}={address}: {address.repo} has no revision {address.revision}."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{setting}={address}: the hub has no such repository, or shows it to its owners only (HF_TOKEN)."
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"{setting}={address}: the repository has no {name}, so nothing in it was exported by ifpn; weights in "
            f"other formats, which could run code, are not read. `ifpn push FOLDER {SCHEME}{address.repo}` makes one."
        )
    return (
        f"{setting}={address}: the hub cannot be reached ({first_line(error)}). By hand, where there is a network: "
        f"download {page}/{CONFIG} and {page}/{WEIGHTS} into one folder, and give it here: {setting}=FOLDER."
    )


def publish(folder: Path, address: Address, *, message: str, private: bool) -> Address:
    """Upload the files of a folder as one commit; the repository is made if there is none.

    Returns:
        The address, pinned to the new commit.

    Raises:
        ConfigError: not logged in, not allowed, or no way to reach the hub.
    """
    hub = library()
    try:
        api = hub.HfApi(endpoint=endpoint(), library_name="ifpn")
        api.create_repo(address.repo, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=address.repo, folder_path=folder, commit_message=message, revision=address.revision
        )
    except Exception as error:  # of the library's HTTP client too
        raise ConfigError(
            f"{address} could not be written ({first_line(error)}). Log in with `hf auth login`, or set HF_TOKEN to a "
            "token that may write. `ifpn push … --dry-run` writes the files, to be uploaded by hand."
        ) from error
    return Address(address.repo, done.oid)


def endpoint() -> str:
    """The hub in use: `HF_ENDPOINT`, or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", HOME).rstrip("/")


def library() -> Any:
    """The package huggingface_hub.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise ConfigError("hf:// needs the package huggingface_hub: pip install 'ifpn[hub]'.") from error

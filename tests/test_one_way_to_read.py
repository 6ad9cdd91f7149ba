"""Files are opened for reading in one place, `m2d.reading`: only regular files, and of a bounded size.

Reads the sources of `m2d/` and `backends/` as syntax trees.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


READERS = {
    *("open", "read_text", "read_bytes", "fdopen", "open_code", "openat"),
    *("safe_open", "load_file", "from_file", "fromfile", "memmap", "loadtxt", "genfromtxt"),
    *("copyfile", "copy", "copy2", "copyfileobj", "copytree", "truetype", "FileIO"),
}
READS_FILES = {
    "av.open",
    "Image.open",
    "io.open",
    "np.load",
    "numpy.load",
    "onnx.load",
    "os.open",
    "tarfile.open",
    "zipfile.ZipFile",
}
MAY_OPEN = {
    ("m2d.reading", "os.open"): "the one place that opens files for reading",
    ("m2d.reading", "os.fdopen"): "the same",
    ("m2d.tensor_files", "safe_open"): "after the header was validated",
    ("m2d.tensor_files", "load_file"): "after the header was validated",
    ("m2d.disk", "os.open"): "for writing and syncing",
    ("m2d.files", "shutil.copyfileobj"): "between open files",
    ("m2d.lock", "os.open"): "for writing; opens a pipe without waiting, and locks nothing else",
    ("m2d.cli.streams", "os.open"): "the null device",
    ("m2d.video.open_film", "av.open"): "after the file was checked",
    ("m2d.video.encode", "av.open"): "a nameless file of this process",
    ("m2d.training.log", "self._path.open"): "for appending, to a file just written",
    ("m2d.video.faces", "ImageFont.truetype"): "after the file was checked",
    ("m2d.video.webp", "Image.open"): "a file that m2d.reading opened",
    ("m2d.evaluation.natural_embedder", "resources.files.joinpath.read_text"): "a part of the package",
    ("m2d.video.board.page", "place.joinpath.read_text"): "a part of the package",
    ("m2d.curation.stills", "zipfile.ZipFile"): "a file that m2d.reading opened",
}
"""Calls by module and name, and why each may open a file by itself; all others use `m2d.reading`."""


def sources() -> dict[str, Path]:
    found = {}
    for root in (ROOT, ROOT / "backends"):
        for path in (root / ("m2d" if root == ROOT else "m2d_backends")).rglob("*.py"):
            found[".".join(path.relative_to(root).with_suffix("").parts)] = path
    return found


def called(node: ast.AST) -> str:
    """The name of what a call calls: `path.open` for both `path.open()` and `path(x).open()`."""
    if isinstance(node, ast.Call):
        return called(node.func)
    if isinstance(node, ast.Attribute):
        return f"{called(node.value)}.{node.attr}".removeprefix(".")
    return node.id if isinstance(node, ast.Name) else ""


def _is_in_memory(call: ast.Call) -> bool:
    """Whether a call reads bytes that are in memory already, or opens for writing."""
    first = call.args[0] if call.args else None
    is_writing = any(isinstance(each, ast.Constant) and each.value == "w" for each in call.args[1:])
    return (
        is_writing or called(first or call) == "io.BytesIO" or any(k.arg == "fileobj" for k in call.keywords)
    )


def file_readers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of each call that opens a file for reading."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = called(node.func)
        if _is_in_memory(node):
            continue
        if name in READS_FILES or name.rpartition(".")[2] in READERS:
            # Our own functions of these names are the way to read.
            is_ours = isinstance(node.func, ast.Name) and name in {"read_bytes", "read_text"}
            if not is_ours and not name.startswith(("copy.", "self.reading")):
                yield node.lineno, name


def test_files_are_opened_for_reading_in_one_place() -> None:
    found = {
        (module, name): f"{path.relative_to(ROOT)}:{line}: {name}"
        for module, path in sources().items()
        for line, name in file_readers(ast.parse(path.read_text("utf-8")))
    }
    strays = [place for key, place in found.items() if key not in MAY_OPEN]
    assert not strays, f"open these with m2d.reading: {strays}"
    assert not MAY_OPEN.keys() - found.keys(), "these open no file any more"


@pytest.mark.parametrize(
    "line",
    [
        "open(path)",
        "path.open('rb')",
        "(folder / name).read_bytes()",
        "Path(x).read_text()",
        "safe_open(path, 'pt')",
        "safetensors.torch.load_file(path)",
        "Image.open(path)",
        "av.open(str(path))",
        "shutil.copyfile(a, b)",
        "np.load(path)",
    ],
)
def test_another_way_to_open_a_file_is_found(line: str) -> None:
    assert list(file_readers(ast.parse(line)))

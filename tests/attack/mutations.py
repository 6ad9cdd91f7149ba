"""Random changes of bytes, JSON values, safetensors headers and files, drawn from a given generator."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MARKER = "code-was-run"
"""A file that hostile code would create in the current folder."""

# Values that a reader must survive in place of any other.
ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**18, -(10**18), 0.0, -0.5, 1e308, 1e-320,
    float("nan"), float("inf"),
    "", "x", "0", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800", "e\u0301" * 40, "[/bold]", "\x1b[31m",
    "A" * 70_000,
    [], {}, [[]], [None], {"": {}}, [0] * 5000, [[[[[[[[]]]]]]]], {"a": {"b": {"c": {}}}},
)  # fmt: skip


PIECES = (
    "&a [*a, *a]", "!!python/object/apply:os.system ['touch code-was-run']", "- " * 3000, "[" * 3000, "\t",
    "\x00", "<<: *x", "? x", "1e999", "9" * 5000, "\ud83d", "\u202e", "title: twice", "'", '"',
    "{", "../../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:9/x",
    "--- \n---", "%YAML 9.9", "A" * 200_000,
)  # fmt: skip


def change_bytes(data: bytes, draw: random.Random) -> bytes:
    """Flip, cut, repeat, insert or blank bytes."""
    kind = draw.choice(("flip", "cut", "repeat", "insert", "blank", "swap", "grow"))
    if not data:
        return draw.randbytes(draw.randrange(64))
    start = draw.randrange(len(data))
    # Most of a format's structure is at its beginning.
    if draw.random() < 0.5:
        start = draw.randrange(min(len(data), 512))
    stop = min(len(data), start + draw.choice((1, 4, 16, 256, 65536)))
    changed = bytearray(data)
    if kind == "flip":
        for _ in range(draw.choice((1, 4, 40))):
            changed[draw.randrange(start, len(data))] ^= draw.randrange(1, 256)
    elif kind == "cut":
        changed = changed[:start]
    elif kind == "repeat":
        changed[stop:stop] = changed[start:stop] * draw.choice((1, 2, 50))
    elif kind == "insert":
        changed[start:start] = draw.randbytes(draw.choice((1, 8, 300)))
    elif kind == "blank":
        changed[start:stop] = bytes([draw.choice((0, 255))]) * (stop - start)
    elif kind == "swap":
        changed = changed[stop:] + changed[:stop]
    else:
        changed += draw.randbytes(draw.choice((1, 932, 70_000)))
    return bytes(changed)


def change_json(text: str, draw: random.Random) -> str:
    """Replace, remove, double or add a value somewhere in a JSON document."""
    try:
        document = json.loads(text)
    except ValueError:
        return change_bytes(text.encode(errors="replace"), draw).decode(errors="replace")
    for _ in range(draw.choice((1, 1, 1, 3))):
        places = list(_places(document))
        if not places:
            return json.dumps(draw.choice(ODD_VALUES))
        holder, key = draw.choice(places)
        kind = draw.choice(("replace", "replace", "replace", "remove", "add"))
        if kind == "replace":
            holder[key] = draw.choice(ODD_VALUES)
        elif kind == "remove":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw.choice(("auto_map", "_target_", "custom_pipeline", "x" * 300, ""))] = draw.choice(
                ODD_VALUES
            )
        else:
            holder.append(draw.choice(ODD_VALUES))
    return json.dumps(document)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def change_value(document: dict[str, Any], draw: random.Random) -> str:
    """Replace, remove, double or add a value somewhere in a JSON object, in place; return what was done.

    Values are odd, or of the same type and such that m2d would not write them.
    """
    holder = draw.choice([holder for holder in _holders(document) if holder])
    key = draw.choice(list(holder)) if isinstance(holder, dict) else draw.randrange(len(holder))
    kind = draw.choice(("odd", "odd", "other", "other", "other", "remove", "double"))
    if kind == "remove":
        del holder[key]
        return f"{key} is missing"
    if kind == "double":
        if isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[f"{key}x"] = holder[key]
        return f"{key} stands twice"
    holder[key] = draw.choice(ODD_VALUES if kind == "odd" else _other_values(holder[key]))
    return f"{key} is {str(holder[key])[:80]!r}"


def _holders(value: object) -> list[Any]:
    """Return all objects and lists in a JSON value."""
    if not isinstance(value, dict | list):
        return []
    parts = value.values() if isinstance(value, dict) else value
    return [value, *(found for part in parts for found in _holders(part))]


def _other_values(value: object) -> list[object]:
    """Return values of the same type that m2d would not write."""
    if isinstance(value, str):
        return ["../../canary", "/etc/passwd", "", "x" * 5000, "a\0b", "\ud800", "%s", "AAAA"]
    if isinstance(value, float | int):
        return [-1, 0, 1e308, 5e-324, 1 << 62, 1 << 70, -(1 << 40), 0.5, 10**9, 10**400, -(10**400)]
    if isinstance(value, list):
        # As long as a record may be, for a value that is one of hundreds of thousands or one of a few.
        return [value[:-1], value * 2, value[::-1], value * (1 + 2_000_000 // len(str(value)))]
    return [{}]


def change_safetensors(data: bytes, draw: random.Random) -> bytes:
    """Change the header: its length, a dtype, a shape, offsets, or a value anywhere in it."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    name = draw.choice([key for key in header if key != "__metadata__"])
    kind = draw.choice(("length", "dtype", "shape", "offsets", "json", "bytes", "missing", "body", "nan"))
    if kind == "length":
        return struct.pack("<Q", draw.choice((0, 1, 2**40, 2**63, length + 8))) + data[8:]
    if kind == "bytes":
        return change_bytes(data, draw)
    if kind == "body":
        body = body[: draw.randrange(len(body) + 1)]
    elif kind == "nan":
        body = b"\xff" * len(body)
    elif kind == "dtype":
        header[name]["dtype"] = draw.choice(("F64", "F8_E4M3", "BOOL", "I64", "X", 3))
    elif kind == "shape":
        header[name]["shape"] = draw.choice(
            ([], [0], [-1], [2**40, 2**40], [1] * 200, "x", header[name]["shape"][::-1])
        )
    elif kind == "offsets":
        header[name]["data_offsets"] = draw.choice(([0, 2**50], [8, 0], [-8, 8], [0], "x", [0, len(body)]))
    elif kind == "missing":
        del header[name]
    else:
        header = json.loads(change_json(json.dumps(header), draw))
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def change_text(text: str, draw: random.Random) -> str:
    """Change lines and pieces of a text: YAML, CSV, JSON Lines."""
    lines = text.splitlines(keepends=True) or [""]
    place = draw.randrange(len(lines))
    piece = draw.choice(PIECES)
    kind = draw.choice(("insert", "value", "double", "drop", "bytes"))
    if kind == "insert":
        lines.insert(place, f"{piece}\n")
    elif kind == "value":
        key, colon, _ = lines[place].partition(":")
        lines[place] = f"{key}{colon} {piece}\n"
    elif kind == "double":
        lines[place:place] = [lines[place]] * draw.choice((1, 3000))
    elif kind == "drop":
        del lines[place]
    else:
        return change_bytes(text.encode(errors="replace"), draw).decode(errors="replace")
    return "".join(lines)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _link_to_fifo(path: Path) -> None:
    # Another file of the folder may be such a link, too.
    pipe = path.with_name(f"{path.name[:90]}.pipe")
    _fifo(pipe)
    path.symlink_to(pipe.name)


def _socket(path: Path) -> None:
    # A socket's name is short: made beside, by a relative name.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name[:90])
    finally:
        os.chdir(before)


def _link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


NOT_FILES: dict[str, Callable[[Path], None]] = {
    "fifo": _fifo,
    "socket": _socket,
    "folder": lambda path: path.mkdir(),
    "link to /dev/zero": _link_to("/dev/zero"),
    "link to a fifo": _link_to_fifo,
    "loop": lambda path: path.symlink_to(path.name),
    "dead link": _link_to("nowhere"),
    "empty": lambda path: path.write_bytes(b"") and None,
    "link to a foreign file": _link_to("../canary"),
}


def replace_file(path: Path, draw: random.Random) -> str:
    """Put something that is not a readable regular file in a file's place; return what it is."""
    kind = draw.choice(sorted(NOT_FILES))
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    NOT_FILES[kind](path)
    return kind


def change_file(path: Path, draw: random.Random) -> str:
    """Change a file by its kind; return what was done."""
    if draw.random() < 0.25:
        return f"{path.name}: {replace_file(path, draw)}"
    data = path.read_bytes()
    if path.suffix == ".safetensors" and len(data) > 8 and draw.random() < 0.8:
        path.write_bytes(change_safetensors(data, draw))
    elif path.suffix == ".json" and draw.random() < 0.8:
        path.write_text(
            change_json(data.decode("utf-8", errors="replace"), draw), "utf-8", errors="surrogatepass"
        )
    elif path.suffix in (".yaml", ".csv", ".jsonl", ".txt") and draw.random() < 0.8:
        path.write_text(
            change_text(data.decode("utf-8", errors="replace"), draw), "utf-8", errors="surrogatepass"
        )
    else:
        path.write_bytes(change_bytes(data, draw))
    return f"{path.name}: changed"


def change_one(folder: Path, draw: random.Random) -> str:
    """Change a file somewhere in a folder; small files are as likely as large ones."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return "; ".join(
        change_file(path, draw) for path in draw.sample(files, draw.choice((1, 1, 1, min(2, len(files)))))
    )

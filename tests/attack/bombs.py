"""Small files that unfold to much work or memory, each with the command that meets it."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from tests.attack.originals import copy

Bomb = Callable[[Path, Path, random.Random], list[str]]
_SPARSE_BYTES = (1 << 30, 6 << 30, 40 << 30)


def _film_words(name: str, originals: Path, draw: random.Random) -> list[str]:
    model = str(originals / "model")
    return draw.choice(
        [
            ["inspect", name],
            ["extend", name, "--prompt", "x", "--out", "o.mp4", "--steps", "1", "--model", model],
            ["eval", name, "--out", "report", "--embedder", "none"],
            ["train", "--data", ".", "--plan", "--model", model],
            ["board", name],
        ]
    )


def _gif(originals: Path, case: Path, draw: random.Random) -> list[str]:
    """Many pictures of one pixel on a large canvas."""
    side, count = draw.choice(((8192, 3000), (8191, 300), (65535, 50), (4096, 20_000), (1000, 40_000)))
    head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + b"\0\0\0\xff\xff\xff"
    picture = b"!\xf9\x04\x04\x05\0\0\0,\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"
    (case / "bomb.gif").write_bytes(head + picture * count + b";")
    (case / "bomb.txt").write_text("Actor1 walks.")
    return _film_words("bomb.gif", originals, draw)


def _webp(originals: Path, case: Path, draw: random.Random) -> list[str]:
    side, count = draw.choice(((1000, 900), (1000, 1200), (4000, 60), (8192, 12), (64, 4000)))
    picture = Image.new("RGB", (side, side), (200, 30, 40))
    stream = case / "one.webp"
    picture.save(stream, lossless=True)
    frame = stream.read_bytes()[12:]
    if frame[:4] == b"VP8X":
        frame = frame[18:]
    stream.unlink()
    size = (side - 1).to_bytes(3, "little")
    header = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
    loop = b"ANIM" + struct.pack("<IIH", 6, 0, 0)
    content = b"\0" * 6 + size + size + (40).to_bytes(3, "little") + b"\0" + frame
    one = b"ANMF" + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    body = b"WEBP" + header + loop + one * count
    (case / "bomb.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    (case / "bomb.txt").write_text("Actor1 walks.")
    return _film_words("bomb.webp", originals, draw)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(originals: Path, case: Path, draw: random.Random) -> list[str]:
    """A picture of one colour, or one with texts that unfold."""
    width, height = draw.choice(
        ((13_000, 13_700), (9400, 9400), (60_000, 60_000), (1, 178_000_000), (8192, 8192))
    )
    kind, bytes_per_pixel = draw.choice(((0, 1), (2, 3), (6, 4), (6, 8)))
    packer = zlib.compressobj(9)
    row = bytes(1 + width * bytes_per_pixel)
    num_rows = min(height, (1 << 29) // len(row))
    data = b"".join(packer.compress(row) for _ in range(num_rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 16 if bytes_per_pixel == 8 else 8, kind, 0, 0, 0)
    texts = _chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(200 << 20), 9)) if draw.random() < 0.2 else b""
    (case / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + texts + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    )
    copy(originals / "story.yaml", case / "story.yaml")
    command = draw.choice((["check"], ["generate", "--out", "o.mp4"]))
    return [command[0], "story.yaml", *command[1:], "--set", "image=bomb.png"]


def _yaml(originals: Path, case: Path, draw: random.Random) -> list[str]:
    scene = "  - Actor1 walks.\n"
    base = (originals / "story.yaml").read_text()
    aliases = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    text = draw.choice(
        (
            "a0: &a0 [x]\n" + aliases,
            base.replace(scene, scene * 19_000, 1),
            base.replace("Actor1 walks right.", "Actor1 " + "walks " * 150_000),
            base.replace("scenes:", "scenes: " + "[" * 400_000),
            base.replace("scenes:", "? " * 300_000 + "\nscenes:"),
            base.replace("seed: 3", f"seed: {'9' * 500_000}"),
            base.replace("seed: 3", f"seed: 0x{'f' * 300_000}"),
            base.replace("seed: 3", "seed: .nan"),
            base.replace("seed: 3", "seed: -.inf"),
            base.replace("frames: 5", "frames: 1_0e9"),
            base.replace("title: ", "title: " + "\u200b\u0301" * 200_000),
            base + "".join(f"k{n}: 1\n" for n in range(19_000)),
            base + "x: " + "{a: " * 200_000,
            "\n" * 900_000,
            "%YAML 1.2\n" * 19_000,
            base + "# " + "x" * 990_000,
            json.dumps({"title": "x", "scenes": [{"prompt": "x"}] * 30_000}),
            "[" * 900_000,
            '{"a":' * 150_000,
        )
    )
    suffix = draw.choice((".yaml", ".json"))
    (case / f"bomb{suffix}").write_text(text)
    return draw.choice(
        (
            ["check", f"bomb{suffix}"],
            ["generate", f"bomb{suffix}", "--out", "o.mp4", "--set", "sampling.num_inference_steps=1"],
            ["train", f"bomb{suffix}", "--plan"],
            ["init", "new.yaml", "--from-figure5", f"bomb{suffix}"],
            [
                "eval",
                str(originals / "film.mp4"),
                "--out",
                "r",
                "--embedder",
                "none",
                "--prompts",
                f"bomb{suffix}",
            ],
        )
    )


def _data(originals: Path, case: Path, draw: random.Random) -> list[str]:
    copy(originals / "clips", case / "clips")
    row = json.dumps({"m2d": 1, "scenes": [{"video": "0.mp4", "caption": "Actor1 walks."}]})
    name, text = draw.choice(
        (
            ("a.json", "[" * 2_000_000),
            ("a.json", '{"a":' * 500_000),
            ("a.json", json.dumps([{"values": [{"url": "0.mp4", "caption": "x"}] * 100_000}])),
            ("a.json", f"[{'9' * 3_000_000}]"),
            ("a.jsonl", f"{row}\n" * 100_000),
            ("a.jsonl", "\n" * 20_000_000),
            ("a.jsonl", '{"m2d": 1, "scenes": [' + "[" * 1_000_000),
            ("a.csv", "path,caption\n" + "0.mp4,x\n" * 200_000),
            ("a.csv", "path,caption" + ",x" * 3_000_000 + "\n"),
            ("a.csv", 'path,caption\n0.mp4,"' + "x" * 50_000_000),
            ("a.csv", "path,caption\n" + "\0" * 1000),
        )
    )
    (case / "clips" / name).write_text(text)
    return ["train", "--data", f"clips/{name}", "--plan", "--model", str(originals / "model")]


def _safetensors(originals: Path, case: Path, draw: random.Random) -> list[str]:
    """Headers that are long, deep, or hold very many tensors."""
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = draw.choice(
        (
            "{" + ",".join(f'"t{n}":{empty}' for n in range(600_000)) + "}",
            '{"a":' * 9_000_000,
            "[" * 60_000_000,
            '{"__metadata__":{"m2d":"' + "x" * 60_000_000 + '"}}',
            '{"a":{"dtype":"F32","shape":[' + "1," * 20_000_000 + '1],"data_offsets":[0,4]}}',
            '{"a":{"dtype":"F32","shape":[' + "9" * 5_000_000 + '],"data_offsets":[0,4]}}',
            " " * 60_000_000,
        )
    ).encode()
    copy(originals / "story.yaml", case / "story.yaml")
    data = struct.pack("<Q", len(header)) + header + bytes(draw.choice((0, 4)))
    if draw.random() < 0.4:
        (case / "bomb.safetensors").write_bytes(data)
        return ["check", "story.yaml", "--lora", "bomb.safetensors"]
    model = copy(originals / "model", case / "model")
    draw.choice(sorted(model.rglob("*.safetensors"))).write_bytes(data)
    return [draw.choice(("check", "generate")), "story.yaml", "--model", "model"]


def _sparse(originals: Path, case: Path, draw: random.Random) -> list[str]:
    """A file of any folder with a hole of many gigabytes at its end, or in all of it."""
    what = draw.choice(("journal", "run folder", "checkpoint", "graphs", "model", "clips"))
    copy(originals / "story.yaml", case / "story.yaml")
    source, name, words = {
        "journal": ("unfinished", "run", ["generate", "run/story.yaml", "--out", "run/film.mp4", "--resume"]),
        "run folder": (
            "film.m2d",
            "film.m2d",
            ["extend", "film.mp4", "--prompt", "x", "--out", "o.mp4", "--model", str(originals / "model")],
        ),
        "checkpoint": ("run", "run", ["train", "training.yaml", "--out", "run", "--resume"]),
        "graphs": (
            "graphs",
            "graphs",
            ["generate", "story.yaml", "--backend", "onnx", "--artifacts", "graphs"],
        ),
        "model": ("model", "model", ["check", "story.yaml", "--model", "model"]),
        "clips": (
            "clips",
            "clips",
            ["train", "--data", "clips", "--plan", "--model", str(originals / "model")],
        ),
    }[what]
    for each in ("training.yaml", "film.mp4"):
        copy(originals / each, case / each)
    if what != "clips":
        copy(originals / "clips", case / "clips")
    folder = copy(originals / source, case / name)
    path = draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    if draw.random() < 0.5:
        path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(draw.choice(_SPARSE_BYTES))
    return words


BOMBS: dict[str, Bomb] = {
    "gif": _gif,
    "webp": _webp,
    "png": _png,
    "yaml": _yaml,
    "data": _data,
    "safetensors": _safetensors,
    "sparse": _sparse,
}

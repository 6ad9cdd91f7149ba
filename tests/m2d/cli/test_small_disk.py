"""Commands on a disk that really fills up: one line, nothing half-written, and the next run ends well."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.attack.originals import prepare
from tests.m2d.cli.conftest import Run
from tests.m2d.small_disk import fill, small_disk, used_bytes

DISK_BYTES = 24 << 20
SHARES = (0.0, 0.15, 0.4, 0.65, 0.9)
"""Parts of what the command needs that are left on the disk."""
MODEL = ("--model", "model")
FULL = ("No space left on device", " MB are needed; free some space", "the disk is full")
NOTHING_TO_RESUME = ("nothing to resume", "has no checkpoint that verifies")
# Name to the command, and what continues it: a word, or nothing where the command itself does.
COMMANDS: dict[str, tuple[tuple[str, ...], str]] = {
    "generate": (("generate", "story.yaml", "--out", "disk/film.mp4"), "--resume"),
    "extend": (
        ("extend", "film.mp4", "--prompt", "Actor1 waves.", "--out", "disk/film.mp4", *MODEL),
        "--resume",
    ),
    "reroll": (("reroll", "film.mp4", "--scene", "1", "--out", "disk/film.mp4", *MODEL), "--resume"),
    "train": (("train", "training.yaml", "--out", "disk/run"), "--resume"),
    "data": (("data", "build", "films", "--out", "disk/set", "--set", "relate.min_sim=-1"), ""),
    "export": (("export", "--backend", "onnx", "--recipe", "story.yaml", "--out", "disk/graphs"), ""),
}


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("originals") / "originals")


@pytest.fixture
def disk(originals: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A small disk in a working folder with links to all originals."""
    working = folder / "work"
    working.mkdir()
    for path in originals.iterdir():
        (working / path.name).symlink_to(path)
    monkeypatch.chdir(working)
    monkeypatch.setenv("M2D_CACHE", str(originals / "cache"))
    with small_disk(working / "disk", DISK_BYTES) as mounted:
        yield mounted


def results(disk: Path) -> dict[str, str]:
    """Files whose bytes do not depend on times and processes, with their digests."""
    kept = (".mp4", ".safetensors", ".onnx", ".jsonl")
    return {
        str(path.relative_to(disk)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(disk.rglob("*"))
        if path.suffix in kept and path.name != "log.jsonl" and "checkpoints" not in path.parts
    }


def empty(disk: Path) -> None:
    for path in disk.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def complaints(disk: Path, code: int, stderr: str, *, straight: dict[str, str]) -> list[str]:
    """What is wrong with the end of a command on a full disk, and with what it leaves."""
    errors = [line for line in stderr.splitlines() if line.startswith("error: ")]
    wrong = [] if code == 1 else [f"exit code {code}"]
    if len(errors) != 1 or not any(word in errors[0] for word in FULL) or "Traceback" in stderr:
        wrong.append(f"said {stderr[-400:]!r}")
    wrong += [f"left over: {path.name}" for path in disk.rglob("*") if path.name.endswith(".part")]
    films = [path.name for path in disk.glob("*.mp4") if results(disk)[path.name] != straight[path.name]]
    return wrong + [f"{name}: half-written" for name in films]


@pytest.mark.long
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_fills_up_costs_a_line_and_the_next_run_ends_as_if_it_had_room(
    name: str, m2d: Run, disk: Path
) -> None:
    words, continued = COMMANDS[name]
    empty_bytes = used_bytes(disk)
    done = m2d(*words)
    assert done.exit_code == 0, done.output
    needed_bytes, straight = used_bytes(disk) - empty_bytes, results(disk)
    assert straight
    num_failed = 0
    for share in SHARES if name != "export" else SHARES[1::2]:
        empty(disk)
        fill(disk / "filler", left_bytes=int(share * needed_bytes))
        failed = m2d(*words)
        (disk / "filler").unlink()
        if failed.exit_code:
            num_failed += 1
            assert isinstance(failed.exception, SystemExit), failed.exception
            assert complaints(disk, failed.exit_code, failed.stderr, straight=straight) == [], share
            again = m2d(*words, *([continued] if continued else []))
            if again.exit_code == 2 and any(word in again.stderr for word in NOTHING_TO_RESUME):
                again = m2d(*words)
            assert again.exit_code == 0, (share, again.output)
        assert results(disk) == straight, share
    assert num_failed > 1

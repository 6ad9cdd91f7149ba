"""Let a command's disk be full at its N-th operation, for every N, and judge what it says and leaves.

    python -m tests.attack.full_disk [--command NAME] [--every K] [--out benchmarks/results/full_disk.json]

An operation is a call of the system that needs room: to make, write, sync, rename or link a file or to make a
folder, by Python or by any library. Of calls that write to one file one after another, the first and the last
are tried. "full" refuses it and all later ones; a write is cut in half, as on a disk that fills up. "once"
refuses it alone, which finds errors that nothing reads; it is tried at every third. The encoder is a static
program, which nothing can be put before: `tests/m2d/cli/test_small_disk.py` fills a real disk under it.
Needs Linux and a C compiler.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from m2d.cli.main import app
from m2d.files import write_json
from tests.attack.guard import Ending, Guarded, Rooms, load_everything
from tests.attack.originals import copy, environment, prepare
from tests.attack.refusing_disk import VARIABLE, RefusingDisk, preloaded
from tests.attack.verdict import complaints_about_a_full_disk

RESULTS = Path("benchmarks/results/full_disk.json")
KINDS = ("full", "once")
JOURNAL_LEFT = "the film is complete, but its journal could not be removed"
NOTHING_TO_RESUME = ("nothing to resume", "has no checkpoint that verifies")
# What shows all films of one command: fewer, where some were not made.
SEVERAL = ("--seeds", "--candidates")
OF_ALL = ("-seeds.png", "-candidates.json")
EXISTS = ("exists already", "holds a report")
_MODEL = "--model {model}"
# Name to the command line. What is on it or in the working folder is on the disk; the model is not.
COMMANDS = {
    "generate": "generate story.yaml --out o.mp4 --set video.upscale=2 --save-previews",
    "generate over a film": "generate story.yaml --out film.mp4 --force",
    "generate seeds": "generate story.yaml --seeds 1-2",
    "generate candidates": "generate story.yaml --out o.mp4 --candidates 2 --judge smoothness",
    "extend": f"extend film.mp4 --prompt x --out o.mp4 {_MODEL}",
    "extend in place": f"extend film.mp4 --prompt x --out film.mp4 --force {_MODEL}",
    "extend a video": f"extend clip.mp4 --prompt x --out o.mp4 {_MODEL}",
    "reroll": f"reroll film.mp4 --scene 1 --out o.mp4 {_MODEL}",
    "reproduce": f"reproduce film.mp4 --out o.mp4 {_MODEL}",
    "board": "board film.mp4 --out o.html",
    "init": "init o.yaml",
    "eval": "eval film.mp4 --out report --embedder none",
    "compare": "compare story.yaml --out compared --embedder none --methods mask2dit",
    "train": "train training.yaml --out o",
    "data": "data build films --out o --set relate.min_sim=-1",
    "puppet film": "puppet film --out o --minutes 0.1 --fps 2",
    "export": "export --backend onnx --recipe story.yaml --out graphs",
}
RESUMED = ("generate", "extend", "reroll", "reproduce", "train")
"""Commands that have `--resume`."""
_INPUTS = ("story.yaml", "training.yaml", "film.mp4", "film.m2d", "clips", "films")


class _Traced(Exception):
    """Ends an export when its graph is traced."""


@dataclass(kw_only=True, slots=True)
class Walk:
    """What became of one command.

    Attributes:
        operations: Operations of a run that nothing disturbs.
        points: Those that are not in the middle of writing one file.
        tried: Runs in which one was refused, by kind.
        failed: Those that ended with exit code 1.
        wrong: Faults.
    """

    operations: int
    points: int
    tried: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    failed: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class Undisturbed:
    """What a command leaves on a disk with room.

    Attributes:
        points: The operations to refuse, from 1.
        before: Digests of the files before it.
        names: All files after it.
        digests: Of those that are the same after every run.
    """

    operations: int
    points: tuple[int, ...]
    before: dict[str, str]
    names: set[str]
    digests: dict[str, str]


class Disk:
    """A working folder whose disk can be full, and the commands that run there."""

    def __init__(self, folder: Path, originals: Path) -> None:
        self._disk = RefusingDisk()
        self._originals, self.case = originals, folder / "case"
        self._repeated: dict[tuple[object, ...], list[str]] = {}

    def fresh(self) -> None:
        """Put the inputs into an empty working folder."""
        shutil.rmtree(self.case, ignore_errors=True)
        (self.case / "cache").mkdir(parents=True)
        for name in _INPUTS:
            copy(self._originals / name, self.case / name)
        copy(self._originals / "videos/clip.mp4", self.case / "clip.mp4")

    def run(self, words: str, *, at: int = 0, stays: bool = False) -> Ending:
        """Run a command whose operation `at` is refused."""
        given = words.format(model=self._originals / "model").split()
        around = environment(self.case / "cache") | {
            name: os.environ[name] for name in (VARIABLE, "LD_PRELOAD")
        }
        with self._disk.refusing(self.case, at=at, stays=stays):
            # Python takes the system's folder for temporary files where TMPDIR is full.
            rooms = Rooms(
                case=self.case,
                readable=(self._originals, Path(os.environ[VARIABLE])),
                writable=(Path("/tmp"),),
            )
            return Guarded(given, rooms, around).wait()

    def digests(self, *, also_cache: bool = False) -> dict[str, str]:
        """Return the digests of all files, without or with those of the cache."""
        return {
            str(path.relative_to(self.case)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.case.rglob("*"))
            if path.is_file() and (also_cache or path.relative_to(self.case).parts[0] != "cache")
        }

    def undisturbed(self, words: str) -> Undisturbed:
        """Run a command twice with room.

        Raises:
            RuntimeError: It failed.
        """
        found: list[dict[str, str]] = []
        for _ in range(2):
            self.fresh()
            before = self.digests()
            ending = self.run(words)
            if ending.code:
                raise RuntimeError(f"m2d {words}: {ending.stderr}")
            found.append(self.digests())
        same = {name: digest for name, digest in found[0].items() if found[1].get(name) == digest}
        return Undisturbed(
            operations=self._disk.num_operations,
            points=self._disk.points,
            before=before,
            names=set(found[1]),
            digests=same,
        )

    def fill_at(self, words: str, at: int, *, stays: bool, expected: Undisturbed) -> tuple[int, list[str]]:
        """Refuse one operation, repeat the command with room; return the first exit code, and faults."""
        self.fresh()
        ending = self.run(words, at=at, stays=stays)
        makes_several = any(word in words for word in SEVERAL)
        wrong = complaints_about_a_full_disk(ending, makes_several=makes_several)
        wrong += self._half_written(expected)
        # A film that is complete is not made again.
        may_stay = "/journal/" if JOURNAL_LEFT in ending.stderr else "\0"
        if not ending.code:
            return 0, wrong + [each for each in self._differences(expected) if may_stay not in each]
        # What a command makes of files depends on nothing else.
        left = (words, *sorted(self.digests(also_cache=True).items()))
        if left not in self._repeated:
            again = self._repeat(words)
            failed = [f"the repeated command ended with {again.code}: {again.stderr[-300:]!r}"]
            self._repeated[left] = (failed if again.code else []) + self._differences(expected)
        return ending.code, wrong + [each for each in self._repeated[left] if may_stay not in each]

    def _repeat(self, words: str) -> Ending:
        if words.split()[0] in RESUMED:
            again = self.run(f"{words} --resume")
            if again.code != 2 or not any(word in again.stderr for word in NOTHING_TO_RESUME):
                return again
        again = self.run(words)
        # What was refused was to sync the name of a complete file.
        return (
            self.run(f"{words} --force")
            if again.code == 2 and any(word in again.stderr for word in EXISTS)
            else again
        )

    def _half_written(self, expected: Undisturbed) -> list[str]:
        """Files under a final name that are neither what was there nor what the command makes."""
        wrong = []
        for name, digest in self.digests().items():
            if Path(name).name.endswith(".part"):
                wrong.append(f"left over: {name}")
            elif name.endswith(OF_ALL):
                wrong += [] if is_whole(self.case / name) else [f"half-written: {name}"]
            elif (
                name in expected.digests
                and digest
                not in (
                    expected.digests[name],
                    expected.before.get(name),
                )
            ) or (name in expected.names and name.endswith(".json") and not is_whole(self.case / name)):
                wrong.append(f"half-written: {name}")
        return wrong + [f"lost: {name}" for name in expected.before if not (self.case / name).exists()]

    def _differences(self, expected: Undisturbed) -> list[str]:
        found = self.digests()
        wrong = [f"differs: {name}" for name, digest in expected.digests.items() if found.get(name) != digest]
        return wrong + [
            f"{'left over' if name in found else 'missing'}: {name}" for name in set(found) ^ expected.names
        ]


def is_whole(path: Path) -> bool:
    """Whether a picture can be read to its end, or else JSON."""
    try:
        if path.suffix == ".png":
            Image.open(path).load()
        else:
            json.loads(path.read_bytes())
    except (ValueError, OSError, SyntaxError):
        return False
    return True


def walk(disk: Disk, name: str, *, every: int) -> Iterator[Walk]:
    """Refuse the operations of a command in turn; yield the state after each."""
    words = COMMANDS[name]
    expected = disk.undisturbed(words)
    found = Walk(operations=expected.operations, points=len(expected.points))
    for number, at in enumerate(expected.points[::every]):
        for kind in KINDS if number % 3 == 0 else KINDS[:1]:
            code, wrong = disk.fill_at(words, at, stays=kind == "full", expected=expected)
            found.tried[kind] += 1
            found.failed += code == 1
            found.wrong += [f"operation {at}, {kind}: {each}" for each in wrong]
            for each in wrong:
                sys.stderr.write(f"{name}: operation {at}, {kind}: {each}\n")
            yield found


@contextmanager
def made_quick(disk: Disk, names: Sequence[str]) -> Iterator[None]:
    """Do once what every run would do again without touching the disk.

    Processes that decode are forked, as they import nothing then, and the graph to export is traced.
    """
    from m2d_backends import onnx_export

    forking, traced, graphs = multiprocessing.get_context("fork"), onnx_export.trace, []

    def trace(baked: Any, opset: Any) -> Any:
        if not graphs:
            graphs.append(traced(baked, opset))
            raise _Traced
        return graphs[0]

    with (
        mock.patch.object(multiprocessing, "get_context", return_value=forking),
        mock.patch.object(onnx_export, "trace", trace),
    ):
        if "export" not in names:
            yield
            return
        disk.fresh()
        with (
            chdir(disk.case),
            mock.patch.dict(os.environ, environment(disk.case / "cache")),
            suppress(_Traced),
        ):
            app(COMMANDS["export"].split(), standalone_mode=False)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk through the commands and write the counts; exit with 1 if anything was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--command", dest="names", action="append", choices=sorted(COMMANDS))
    parser.add_argument("--every", type=int, default=1, help="refuse every K-th of the operations")
    parser.add_argument("--originals", type=Path, help="folder of the sound inputs, made if it is missing")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results; those of other commands are kept")
    given = parser.parse_args(arguments)
    if VARIABLE not in os.environ:
        with tempfile.TemporaryDirectory(prefix="full-disk-") as folder:
            again = [
                sys.executable,
                "-m",
                "tests.attack.full_disk",
                *(sys.argv[1:] if arguments is None else arguments),
            ]
            return subprocess.run(again, env=os.environ | preloaded(Path(folder)), check=False).returncode
    torch.set_num_threads(1)
    load_everything()
    with tempfile.TemporaryDirectory(prefix="full-disk-") as folder:
        disk = Disk(Path(folder), prepare(given.originals or Path(folder) / "originals"))
        names = given.names or list(COMMANDS)
        with made_quick(disk, names):
            for name in names:
                for found in walk(disk, name, every=given.every):
                    _write(given.out, name, found)
                sys.stdout.write(f"{name}: {found}\n")
    return int(bool(json.loads(given.out.read_text())["num_wrong"]))


def _write(out: Path, name: str, found: Walk) -> None:
    commands: dict[str, Any] = json.loads(out.read_text())["commands"] if out.exists() else {}
    commands[name] = asdict(found)
    write_json(
        out,
        {
            "what": "commands whose disk is full at their N-th operation, once or from then on",
            "commands": commands,
            "num_refused": sum(sum(each["tried"].values()) for each in commands.values()),
            "num_wrong": sum(len(each["wrong"]) for each in commands.values()),
            "machine": f"{platform.system()} {platform.machine()}",
        },
    )


if __name__ == "__main__":
    sys.exit(main())

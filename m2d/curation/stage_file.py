"""One JSON Lines file per stage: a line for every input, with what it gave or why it was rejected.

Owns the format, its digests, and resuming: finished inputs are appended to a journal at once, and the file is
written in the order of the inputs when all are done. So an interrupted run ends with the same bytes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from m2d import disk
from m2d.errors import DatasetError
from m2d.files import remove_file, write_bytes
from m2d.folders import make_folder
from m2d.reading import parse_json, read_bytes
from m2d.video.digests import canonical_json, text_digest

FOLDER = "stages"
_MOST_BYTES = 4 << 30
_DIGEST_LENGTH = 16
_KEY_LENGTH = 40

Output = TypeVar("Output")


def _is_below(name: str) -> str:
    path = Path(name)
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError("is not the path of a file below a folder")
    return name


# What a line may hold: digests show that it was changed, but anybody can write them.
Key = Annotated[str, Field(pattern=rf"^[0-9a-f]{{{_KEY_LENGTH}}}$")]
PathBelow = Annotated[str, AfterValidator(_is_below)]
Time = Annotated[float, Field(ge=0, le=1e7)]
Rate = Annotated[float, Field(ge=1e-6, le=1e6)]
Side = Annotated[int, Field(ge=1, le=1 << 16)]
Count = Annotated[int, Field(ge=0, le=1 << 40)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome(Generic[Output]):
    """What a stage made of one input.

    Attributes:
        key: Digest of everything that the outcome depends on.
        place: Names the input for people.
        outputs: What the input gave, if it was kept.
        reason: Why it was rejected; empty if it was kept.
    """

    key: str
    place: str
    outputs: tuple[Output, ...] = ()
    reason: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether the input was kept."""
        return not self.reason


@dataclass(frozen=True, kw_only=True, slots=True)
class StageCount:
    """The accounting of one stage: `inputs` is `kept` plus all of `rejected`, by reason."""

    stage: str
    inputs: int
    kept: int
    outputs: int
    rejected: dict[str, int]


def key_of(*parts: object) -> str:
    """Return the key of values that JSON can hold."""
    return text_digest(canonical_json(parts))[:_KEY_LENGTH]


class StageFile(Generic[Output]):
    """The lines of one stage of a data set."""

    def __init__(self, data_set: Path, stage: str, output: type[Output]) -> None:
        """Name the stage's files; nothing is read yet."""
        self.stage = stage
        self.path = data_set / FOLDER / f"{stage}.jsonl"
        self._journal = data_set / FOLDER / f"{stage}.unfinished.jsonl"
        self._lines = TypeAdapter(Outcome[output])  # type: ignore[valid-type]  # a type as a value
        self._descriptor: int | None = None

    def read(self) -> list[Outcome[Output]]:
        """Return the finished stage.

        Raises:
            DatasetError: It is not there, or a line was changed.
        """
        if not self.path.is_file():
            raise DatasetError(f"{self.path}: stage {self.stage} is not finished")
        return list(self._parsed(self.path, is_torn=False))

    def known(self) -> dict[str, Outcome[Output]]:
        """Return all outcomes of earlier and interrupted runs by key. Raises: as `read`."""
        found: dict[str, Outcome[Output]] = {}
        for path in (self.path, self._journal):
            if path.is_file():
                found |= {line.key: line for line in self._parsed(path, is_torn=path == self._journal)}
        return found

    def append(self, outcome: Outcome[Output]) -> None:
        """Record one outcome durably.

        Raises:
            OutputError: The disk refused; what was recorded before stays.
        """
        with disk.output_errors(self._journal):
            if self._descriptor is None:
                make_folder(self._journal.parent)
                self._descriptor = disk.open_file(self._journal, os.O_RDWR | os.O_CREAT)
                os.lseek(self._descriptor, self._end_of_lines(), os.SEEK_SET)
                os.ftruncate(self._descriptor, os.lseek(self._descriptor, 0, os.SEEK_CUR))
            disk.write_all(self._descriptor, self._line(outcome))
            disk.fsync(self._descriptor)

    def finish(self, outcomes: Sequence[Outcome[Output]]) -> None:
        """Write the finished stage in the order of its inputs, and remove the journal."""
        self.close()
        make_folder(self.path.parent)
        data = b"".join(map(self._line, outcomes))
        if not self.path.is_file() or self._bytes(self.path) != data:
            write_bytes(self.path, data)
        remove_file(self._journal)

    def close(self) -> None:
        """Close the journal."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def count(self, outcomes: Iterable[Outcome[Output]]) -> StageCount:
        """Return the stage's accounting; rejected inputs by the kind of their reason."""
        lines = list(outcomes)
        rejected: dict[str, int] = {}
        for line in lines:
            if line.reason:
                kind = kind_of(line.reason)
                rejected[kind] = rejected.get(kind, 0) + 1
        return StageCount(
            stage=self.stage,
            inputs=len(lines),
            kept=sum(line.is_kept for line in lines),
            outputs=sum(len(line.outputs) for line in lines),
            rejected=dict(sorted(rejected.items())),
        )

    def _parsed(self, path: Path, *, is_torn: bool) -> Iterator[Outcome[Output]]:
        """Yield the lines of a file; `is_torn`: its last line may be incomplete."""
        lines = self._bytes(path).split(b"\n")
        last = lines.pop()
        if last and not is_torn:
            raise self._changed(path, len(lines) + 1, "its end is missing")
        for number, line in enumerate(lines, start=1):
            try:
                document: dict[str, Any] = parse_json(line)
                digest = document.pop("digest")
                outcome = self._lines.validate_python(document)
                # NaN is JSON to Python, and to no digest.
                is_own = digest == _digest(document)
            except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
                raise self._changed(path, number, "it is not a line of this stage") from error
            if not is_own:
                raise self._changed(path, number, "its digest does not match")
            yield outcome

    def _changed(self, path: Path, number: int, reason: str) -> DatasetError:
        return DatasetError(
            f"{path}:{number}: was changed after it was written: {reason}; "
            "remove the line to have it made again, or the file to repeat the stage"
        )

    def _bytes(self, path: Path) -> bytes:
        try:
            return read_bytes(path, limit_bytes=_MOST_BYTES)
        except OSError as error:
            raise DatasetError(f"{path}: cannot be read: {error.strerror or error}") from error

    def _end_of_lines(self) -> int:
        return self._bytes(self._journal).rfind(b"\n") + 1

    def _line(self, outcome: Outcome[Output]) -> bytes:
        document = asdict(outcome)
        # As they are read back: tuples are lists.
        return f"{canonical_json(document | {'digest': _digest(document)})}\n".encode("ascii")


def apart(data_set: Path, *stages: str) -> DatasetError:
    """Return the error for stages whose lines are sound, but refer to what is not there."""
    named = f"{', '.join(stages[:-1])} and {stages[-1]}"
    return DatasetError(f"{data_set / FOLDER}: stages {named} do not belong together; build again")


def kind_of(reason: str) -> str:
    """Return the part of a reason that is the same for all inputs of its kind."""
    words = re.split(r"[:;(]", reason, maxsplit=1)[0].strip()
    return re.sub(r"\d[\d.]*", "N", words) or reason


def run_stage(
    file: StageFile[Output],
    keys: Sequence[str],
    work: Callable[[Sequence[int]], Iterator[tuple[int, Outcome[Output]]]],
    *,
    still_valid: Callable[[Outcome[Output]], bool] = lambda _: True,
) -> list[Outcome[Output]]:
    """Run a stage: take the outcomes that are known, work on the other inputs, write the file.

    Args:
        keys: One per input, in order; equal keys are worked on once.
        work: Receives the places of inputs and yields each with its outcome, which is recorded at once.
        still_valid: Whether a known outcome may be used; its files may be gone.
    """
    known = {key: line for key, line in file.known().items() if still_valid(line)}
    first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in known}
    try:
        for place, outcome in work(sorted(first.values())):
            assert outcome.key == keys[place]
            file.append(outcome)
            known[outcome.key] = outcome
        outcomes = [known[key] for key in keys]
        file.finish(outcomes)
    finally:
        file.close()
    return outcomes


def _digest(document: dict[str, Any]) -> str:
    return text_digest(canonical_json(document))[:_DIGEST_LENGTH]

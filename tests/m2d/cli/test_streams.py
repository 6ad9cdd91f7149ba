"""Outputs that go away or cannot show a text: the command goes on, and its exit code says what happened."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from m2d.cli.streams import SteadyFile, Streams
from m2d.video.run_folder import read_run

CALL = f"{sys.executable} -m m2d.cli.main"
STORY = """\
title: A walk \u2014 caf\u00e9
cast: {Actor1: "round red body, no hat"}
setting: beach at dusk
scenes:
  - Actor1 walks right \u2014 caf\u00e9 \u96ea.
"""


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash, in which `M2D` is the command; a pipe's exit code is that of M2D."""
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line.replace('M2D', CALL)}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        capture_output=True,
        check=False,
    )


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "story.yaml").write_text(STORY, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("encoding", ["ascii:strict", "cp1252", "utf-8"])
def test_text_that_the_encoding_lacks_is_escaped(words: Path, encoding: str) -> None:
    done = shell("M2D check story.yaml", words, PYTHONIOENCODING=encoding)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    shown = done.stdout.decode(encoding.partition(":")[0])
    assert "caf\u00e9" in shown or r"caf\xe9" in shown
    assert "\u96ea" in shown or r"\u96ea" in shown
    assert b"warning: " in done.stderr


def test_an_error_about_text_that_the_encoding_lacks_is_one_line(words: Path) -> None:
    done = shell("M2D check \u96ea.yaml", words, PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(rb"error: \u96ea.yaml: no such file")
    assert done.stderr.count(b"\n") == 1


def test_a_pipe_that_ends_is_no_failure_and_costs_no_warning(words: Path) -> None:
    done = shell("M2D check story.yaml | head -2", words)
    assert (done.returncode, done.stdout.count(b"\n")) == (0, 2)
    assert b"warning: story.yaml:5:5: scenes[0].prompt: " in done.stderr
    assert b"Traceback" not in done.stderr
    assert b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(
    ("redirection", "code"),
    [(">&-", 0), ("2>&-", 0), (">&- 2>&- <&-", 0), ("2>/dev/full", 0), (">/dev/full", 1)],
)
def test_closed_and_full_outputs_have_their_exit_code(words: Path, redirection: str, code: int) -> None:
    done = shell(f"M2D check story.yaml {redirection}", words)
    assert done.returncode == code
    assert b"Traceback" not in done.stderr
    if code:
        assert done.stderr.endswith(b"error: stdout could not be written: No space left on device\n")


def test_a_refusal_keeps_its_exit_code_without_outputs(words: Path) -> None:
    assert shell("M2D check none.yaml --json >/dev/full 2>&-", words).returncode == 2


@pytest.mark.parametrize(
    "redirection", ["2>&1 | true", pytest.param(">/dev/full 2>&-", marks=pytest.mark.long)]
)
def test_a_film_is_finished_without_a_reader(folder: Path, redirection: str) -> None:
    done = shell(f"M2D generate story.yaml {redirection}", folder)
    assert done.returncode == 0
    assert len(read_run(folder / "first-snow.mp4").provenance.scenes) == 3
    # A message that was written into the film would make it unreadable.
    assert (folder / "first-snow.mp4").read_bytes()[4:8] == b"ftyp"


def test_files_written_to_a_reader_that_stops_lead_nowhere() -> None:
    reading, writing = os.pipe()
    file = SteadyFile(writing, may_wait=True)
    assert file.write(b"one") == 3
    os.close(reading)
    assert [file.write(b"two"), file.write(b"three")] == [3, 5]
    assert isinstance(file.error, BrokenPipeError)
    assert Streams(stdout=file, stderr=file).problem == ""
    os.close(writing)


def test_progress_that_no_process_reads_is_dropped_when_the_pipe_is_full() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    file = SteadyFile(writing, may_wait=False)
    line = b"x" * 1024
    assert {file.write(line) for _ in range(200)} == {1024}
    assert file.error is None
    assert len(os.read(reading, 1 << 20)) < 200 * 1024
    for end in (reading, writing):
        os.close(end)

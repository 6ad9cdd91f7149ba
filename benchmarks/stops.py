"""Stops commands by SIGTERM and Ctrl-C at random moments, resumes them, and compares the results.

Owns the commands and the verdict; `kills` decides how often they are stopped.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.small_films import FILM, LONGER_FILM, NEW_PROMPTS, STORY, contents
from m2d.errors import EXIT_RESUMABLE
from m2d.film.journal_folder import HEADER, journal_folder_of

COMMANDS = ("generate", "extend")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
STORY_FILE = "story.yaml"
MOST_TRIES = 20
_POLL_S = 0.002
_STAGE = re.compile(r"(?P<name>[a-z][a-z ]+?)(?::| \.\.\.)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """One stopped command and its outcome.

    Attributes:
        command: `generate` or `extend`.
        sent: The signal.
        after_s: Seconds after the journal appeared.
        stage: The last stage it reported.
        code: Its exit code.
        too_late: Earlier tries in which the command had finished before the signal.
        wrong: Faults.
    """

    command: str
    sent: str
    after_s: float
    stage: str
    code: int
    too_late: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stoppable:
    """A command that is ready to be run any number of times.

    Attributes:
        command: `generate` or `extend`.
        template: Its folder before a run.
        arguments: Its arguments.
        resume_arguments: Its arguments for resuming.
        output: Its film.
        after: Contents of the folder after an undisturbed run.
        span_s: Seconds of that run from the first journal file to its end.
    """

    command: str
    template: Path
    arguments: tuple[str, ...]
    resume_arguments: tuple[str, ...]
    output: str
    after: Mapping[str, str]
    span_s: float = 0.0

    def start(self, folder: Path, *, resume: bool = False) -> subprocess.Popen[str]:
        """Start it in `folder` in its own process group, as a shell does."""
        asked = self.resume_arguments if resume else self.arguments
        return subprocess.Popen(
            [sys.executable, "-m", "m2d", self.command, *asked],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )

    def wait_for_journal(self, folder: Path, process: subprocess.Popen[str]) -> None:
        """Wait until it can be resumed, or has ended."""
        header = journal_folder_of(folder / self.output) / HEADER
        while process.poll() is None and not header.exists():
            time.sleep(_POLL_S)


def prepare_stops(folder: Path, *, model: str) -> dict[str, Stoppable]:
    """Make the film that is extended, and run both commands once without disturbance.

    Raises:
        RuntimeError: A command failed.
    """
    story = folder / "story"
    story.mkdir(parents=True)
    (story / STORY_FILE).write_text(json.dumps({**STORY, "model": model}))
    generate = _undisturbed(
        Stoppable(
            command="generate",
            template=story,
            arguments=(STORY_FILE, "--out", FILM),
            resume_arguments=(STORY_FILE, "--out", FILM, "--resume"),
            output=FILM,
            after={},
        ),
        folder / "generate",
    )
    prompts = [word for prompt in NEW_PROMPTS for word in ("--prompt", prompt)]
    named = (FILM, "--model", model, "--out", LONGER_FILM)
    extend = _undisturbed(
        Stoppable(
            command="extend",
            template=folder / "generate",
            arguments=(*named, *prompts, "--join", "crossfade:1"),
            resume_arguments=(*named, "--resume"),
            output=LONGER_FILM,
            after={},
        ),
        folder / "extend",
    )
    return {"generate": generate, "extend": extend}


def _undisturbed(command: Stoppable, folder: Path) -> Stoppable:
    shutil.copytree(command.template, folder)
    process = command.start(folder)
    command.wait_for_journal(folder, process)
    began_s = time.monotonic()
    _, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"m2d {command.command}: failed undisturbed: {complaint.strip()[-500:]}")
    return Stoppable(
        command=command.command,
        template=command.template,
        arguments=command.arguments,
        resume_arguments=command.resume_arguments,
        output=command.output,
        after=contents(folder),
        span_s=time.monotonic() - began_s,
    )


def stop_and_resume(command: Stoppable, folder: Path, *, sent: signal.Signals, draw: random.Random) -> Stop:
    """Stop the command at a random moment, resume it, and compare.

    Args:
        command: The command.
        folder: Created, and removed if there is no fault.
        sent: The signal: SIGTERM to the process, or SIGINT to its group, as a terminal does.
        draw: Draws the moment.

    Raises:
        RuntimeError: The signal came too late every time.
    """
    for too_late in range(MOST_TRIES):
        shutil.copytree(command.template, folder)
        after_s = draw.uniform(0, command.span_s)
        process = command.start(folder)
        command.wait_for_journal(folder, process)
        time.sleep(after_s)
        _send(process, sent)
        _, said = process.communicate()
        # Too late: the film has its name, or Python is ending.
        if contents(folder) == command.after:
            shutil.rmtree(folder)
            continue
        wrong = _complaints(process.returncode, said, sent) + _resumed(command, folder)
        if not wrong:
            shutil.rmtree(folder)
        return Stop(
            command=command.command,
            sent=sent.name,
            after_s=round(after_s, 3),
            stage=_last_stage(said),
            code=process.returncode,
            too_late=too_late,
            wrong=tuple(wrong),
        )
    raise RuntimeError(f"m2d {command.command}: was complete {MOST_TRIES} times before it could be stopped")


def _send(process: subprocess.Popen[str], sent: signal.Signals) -> None:
    if process.poll() is None:
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.send_signal(sent)


def _complaints(code: int, said: str, sent: signal.Signals) -> list[str]:
    wrong = [] if code == EXIT_RESUMABLE else [f"ended with {code}: {said.strip()[-300:]}"]
    if f"{sent.name}: " not in said or "--resume" not in said:
        wrong.append("the message does not name --resume")
    return wrong


def _resumed(command: Stoppable, folder: Path) -> list[str]:
    process = command.start(folder, resume=True)
    _, said = process.communicate()
    if process.returncode:
        return [f"resuming failed with {process.returncode}: {said.strip()[-300:]}"]
    found = contents(folder)
    return [f"{name} differs" for name, _ in sorted(found.items() ^ command.after.items())]


def _last_stage(said: str) -> str:
    names = [match["name"] for line in said.splitlines() if (match := _STAGE.match(line))]
    return ([name for name in names if name != "error"] or ["begin"])[-1]


def stop_often(
    commands: Mapping[str, Stoppable], folder: Path, *, numbers: Sequence[int], seed: int
) -> Iterator[Stop]:
    """Run one trial for each number; commands and signals take turns, and a number determines the moment."""
    for number in numbers:
        name, sent = COMMANDS[number % 2], SIGNALS[number // 2 % 2]
        draw = random.Random(f"{seed} stop {number}")
        yield stop_and_resume(commands[name], folder / f"stop-{number}", sent=sent, draw=draw)


def report_of_stops(stops: Sequence[Stop]) -> dict[str, Any]:
    """Return the figures of all stops, and a line for every stop."""
    return {
        "stops": len(stops),
        "wrong": sum(bool(stop.wrong) for stop in stops),
        "codes": {str(code): sum(stop.code == code for stop in stops) for code in {s.code for s in stops}},
        "signals": {sent.name: sum(stop.sent == sent.name for stop in stops) for sent in SIGNALS},
        "stages": {stage: sum(s.stage == stage for s in stops) for stage in sorted({s.stage for s in stops})},
        "came_too_late": sum(stop.too_late for stop in stops),
        "all": [_line(stop) for stop in stops],
    }


def _line(stop: Stop) -> str:
    wrong = "".join(f"; WRONG: {what}" for what in stop.wrong)
    return f"{stop.command}: {stop.sent} after {stop.after_s:.3f} s, in {stop.stage}; exit {stop.code}{wrong}"

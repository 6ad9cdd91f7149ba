"""Small films made in child processes that may be ended, and the required content of their folders.

Owns the films and the verdict on a folder; the caller decides when and how a process is ended.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.child import BEGIN, FINISH, Child
from benchmarks.decoded_film import read_film
from m2d.errors import EXIT_BAD_INPUT
from m2d.families.source import resolve_model
from m2d.files import sha256_file
from m2d.film.make import RunOptions
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import plan_story
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks import extend, generate, reroll
from m2d.video.run_folder import RECORD, run_folder_of

STORY: Mapping[str, Any] = {
    "title": "Three scenes",
    # Two scenes jointly; the third is made alone, from the last frame of the second.
    "scenes": (
        "a red ball",
        {"prompt": "a blue ball", "join": {"crossfade": 2}},
        {"prompt": "a tree", "join": "continue", "match_colour": True},
    ),
    # A scheduler with state of earlier steps, which must survive, too.
    "sampling": {"num_inference_steps": 12, "seed": 3, "scheduler": "dpm++"},
    "video": {"num_frames": 5},
}
NEW_PROMPTS = ("a fish", "a bird")
FILM, LONGER_FILM, OTHER_FILM = "film.mp4", "longer.mp4", "rerolled.mp4"
OLDER_SEED = 99
STAGES = (
    BEGIN,
    "load text encoder",
    "encode prompts",
    "load transformer",
    "denoise",
    "decode",
    "write",
    FINISH,
)
"""Stages of a run; `finish` follows writing."""
MOST_RUNS = 20
NUM_UNDISTURBED = 2

FilmState = Literal["absent", "old", "new", "broken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A film to make.

    Attributes:
        name: Name in reports.
        task: The task that makes it.
        output: Its file; `film.mp4` exists before unless the folder is empty.
        begins_empty: Whether the folder is empty before.
    """

    name: str
    task: Literal["generate", "extend", "reroll"]
    output: str = FILM
    begins_empty: bool = False

    @property
    def replaces(self) -> bool:
        """Return whether an older film has the name of the output."""
        return self.output == FILM and not self.begins_empty


CASES = (
    Case(name="generate", task="generate", begins_empty=True),
    Case(name="generate over a film", task="generate"),
    Case(name="extend", task="extend", output=LONGER_FILM),
    Case(name="extend in place", task="extend"),
    Case(name="reroll", task="reroll", output=OTHER_FILM),
    Case(name="reroll in place", task="reroll"),
)


def make(
    case: Case,
    folder: Path,
    *,
    model: str,
    reporter: Reporter,
    options: RunOptions,
    seed: int | None = None,
) -> None:
    """Make the film of `case` in `folder`, in this process.

    Raises:
        M2DError: As the tasks do.
    """
    overrides = Overrides(out=folder / case.output, seed=seed)
    if case.task == "extend":
        extension = extend.Extension(
            film=folder / FILM, prompts=NEW_PROMPTS, model=model, join={"crossfade": 1}
        )
        extend.run(
            extension, find_backend=get_backend, reporter=reporter, overrides=overrides, options=options
        )
        return
    if case.task == "reroll":
        request = reroll.Reroll(film=folder / FILM, scenes=(1,), model=model)
        reroll.run(request, find_backend=get_backend, reporter=reporter, overrides=overrides, options=options)
        return
    recipe = Recipe.model_validate({**STORY, "model": model})
    plan = plan_story(recipe, resolve_model(model), overrides=overrides)
    generate.run(plan, get_backend(plan.backend), reporter=reporter, options=options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A case that is ready to be run any number of times.

    Attributes:
        case: The case.
        model: The model's name or folder.
        template: The folder before a run.
        before: Its contents.
        after: Contents of the folder after an undisturbed run.
        spans_s: Seconds of an undisturbed run in each stage; the shorter time of two runs.
    """

    case: Case
    model: str
    template: Path
    before: Mapping[str, str]
    after: Mapping[str, str]
    spans_s: Mapping[str, float] = field(default_factory=dict)

    def fresh(self, folder: Path) -> Path:
        """Create `folder` in its state before a run."""
        return Path(shutil.copytree(self.template, folder))

    def start(self, folder: Path, *, resume: bool = False) -> Child:
        """Start making the film in `folder`."""
        options = RunOptions(force=self.case.replaces and not resume, resume=resume)
        return Child(
            lambda reporter: make(self.case, folder, model=self.model, reporter=reporter, options=options)
        )

    def film_state(self, folder: Path) -> FilmState:
        """Return the state of the output file; `prepare` has decoded the new film to its last frame."""
        path = folder / self.case.output
        if not os.path.lexists(path):
            return "absent"
        digest = sha256_file(path)
        if digest == self.after[self.case.output]:
            return "new"
        return "old" if digest == self.before.get(self.case.output) else "broken"

    def faults(self, folder: Path) -> list[str]:
        """Return the faults in a folder whose run was interrupted."""
        state, own = self.film_state(folder), run_folder_of(Path(self.case.output)).name
        wrong = [f"{self.case.output} is neither the old film nor the new one"] if state == "broken" else []
        if state == "absent" and self.case.replaces:
            wrong.append(f"{self.case.output} is gone")
        found = contents(folder)
        for name, digest in self.before.items():
            is_output = name == self.case.output or name.startswith(f"{own}/")
            if found.get(name) != digest and (state == "old" or not is_output):
                wrong.append(f"{name} was changed")
        return wrong

    def differences(self, folder: Path) -> list[str]:
        """Return the differences from the folder that an undisturbed run leaves."""
        found = contents(folder)
        differing = {name for name, _ in found.items() ^ self.after.items()}
        return [f"{name} is {_compared(found.get(name), self.after.get(name))}" for name in sorted(differing)]


class Completion(NamedTuple):
    """How an unfinished film was completed: number of runs, their messages and stages, and faults."""

    num_runs: int
    said: list[str]
    stages: list[str]
    wrong: list[str]


def complete(
    prepared: Prepared, folder: Path, *, disturb: Callable[[Child], object] = lambda _: None
) -> Completion:
    """Complete a film after an interruption: resume, or start again if there is nothing to resume.

    Args:
        prepared: The case.
        folder: The folder of the interrupted run.
        disturb: Called with every process that resumes; may kill it.
    """
    said: list[str] = []
    stages: list[str] = []
    wrong = prepared.faults(folder)
    resume = True
    for number in range(1, MOST_RUNS + 1):
        child = prepared.start(folder, resume=resume)
        disturb(child)
        code = child.wait()
        said += [message.text for message in child.messages if message.kind in ("note", "warning", "error")]
        stages += [message.text for message in child.messages if message.kind == "stage"]
        has_nothing = code == EXIT_BAD_INPUT and "nothing to resume" in child.error
        if code == 0 or (has_nothing and prepared.film_state(folder) == "new"):
            return Completion(number, said, stages, wrong + prepared.differences(folder))
        if not has_nothing and code != -signal.SIGKILL:
            wrong.append(f"resuming failed with {code}: {child.error}")
            return Completion(number, said, stages, wrong)
        wrong += prepared.faults(folder)
        resume = not has_nothing
    return Completion(MOST_RUNS, said, stages, [*wrong, f"not complete after {MOST_RUNS} runs"])


def _compared(found: str | None, wanted: str | None) -> str:
    if found is None:
        return "missing"
    return "left over" if wanted is None else "different"


def contents(folder: Path) -> dict[str, str]:
    """Return a digest of every file below `folder`, hidden ones included, without what records measured."""
    paths = sorted(path for path in folder.rglob("*"))
    return {str(path.relative_to(folder)): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.name != RECORD:
        return sha256_file(path)
    record = json.loads(path.read_bytes())
    for measured in ("timings_s", "peaks_bytes"):
        record.pop(measured, None)
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def prepare(cases: tuple[Case, ...], folder: Path, *, model: str) -> dict[str, Prepared]:
    """Make the films that exist before, and run every case without disturbance.

    Args:
        cases: The cases.
        folder: An empty folder.
        model: The model's name or folder.

    Returns:
        The cases by name.

    Raises:
        RuntimeError: A run failed, its film does not decode to all its frames, or two runs differ.
    """
    templates = {True: folder / "empty", False: folder / "older"}
    for template in templates.values():
        template.mkdir()
    # In this process, so that every forked child already has what libraries load late.
    make(
        CASES[0],
        templates[False],
        model=model,
        reporter=SilentReporter(),
        options=RunOptions(),
        seed=OLDER_SEED,
    )
    return {
        case.name: _prepared(case, folder / case.name, model=model, template=templates[case.begins_empty])
        for case in cases
    }


def _prepared(case: Case, folder: Path, *, model: str, template: Path) -> Prepared:
    before = contents(template)
    blank = Prepared(case=case, model=model, template=template, before=before, after={case.output: ""})
    runs = []
    for number in range(NUM_UNDISTURBED):
        child = blank.start(blank.fresh(folder / str(number)))
        code = child.wait()
        if code != 0:
            raise RuntimeError(f"{case.name}: failed undisturbed with {code}: {child.error}")
        runs.append(child.spans_s())
    film = read_film(folder / "0" / case.output)
    if film.provenance is None or len(film.frames_PHWC) != film.provenance.num_frames:
        raise RuntimeError(f"{case.name}: the film does not decode to the recorded number of frames")
    after = contents(folder / "0")
    if any(contents(folder / str(number)) != after for number in range(NUM_UNDISTURBED)):
        raise RuntimeError(f"{case.name}: two undisturbed runs left different films")
    spans_s = {stage: min(run[stage] for run in runs) for stage in STAGES}
    return Prepared(case=case, model=model, template=template, before=before, after=after, spans_s=spans_s)

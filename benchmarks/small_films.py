"""Small films to be made in child processes, and what their folders must hold whatever happens to these.

Owns the films and the verdict on a folder; when a process is ended, and how, is the business of who asks.
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
from m2d.errors import EXIT_BAD_INPUT
from m2d.files import sha256_file
from m2d.film.make import RunOptions
from m2d.model.source import resolve_model
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import plan_story
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks import extend, generate
from m2d.video.read import read_film
from m2d.video.run_folder import RECORD, run_folder_of

STORY: Mapping[str, Any] = {
    "title": "Three scenes",
    # Two scenes jointly; the third is made alone, from the second's last frame.
    "scenes": (
        "a red ball",
        {"prompt": "a blue ball", "join": {"crossfade": 2}},
        {"prompt": "a tree", "join": "continue", "match_colour": True},
    ),
    # A scheduler with a memory of earlier steps, which has to survive, too.
    "sampling": {"num_inference_steps": 12, "seed": 3, "scheduler": "dpm++"},
    "video": {"num_frames": 5},
}
NEW_PROMPTS = ("a fish", "a bird")
FILM, LONGER_FILM = "film.mp4", "longer.mp4"
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
"""Stages of a run; `finish` is what comes after writing."""
MOST_RUNS = 20
NUM_UNDISTURBED = 2

FilmState = Literal["absent", "old", "new", "broken"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A film to make.

    Attributes:
        name: For reports.
        task: What makes it.
        output: Its file; `film.mp4` is there before, unless nothing is.
        begins_empty: Whether nothing is in the folder before.
    """

    name: str
    task: Literal["generate", "extend"]
    output: str = FILM
    begins_empty: bool = False

    @property
    def replaces(self) -> bool:
        """Whether an older film has the output's name."""
        return self.output == FILM and not self.begins_empty


CASES = (
    Case(name="generate", task="generate", begins_empty=True),
    Case(name="generate over a film", task="generate"),
    Case(name="extend", task="extend", output=LONGER_FILM),
    Case(name="extend in place", task="extend"),
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
    recipe = Recipe.model_validate({**STORY, "model": model})
    plan = plan_story(recipe, resolve_model(model), overrides=overrides)
    generate.run(plan, get_backend(plan.backend), reporter=reporter, options=options)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A case, ready to be run as often as one likes.

    Attributes:
        case: The case.
        model: The model's name or folder.
        template: What the folder holds before.
        before: Its contents.
        after: Contents of the folder after a run that nothing disturbed.
        spans_s: How long such a run is in each of its stages; the shorter time of two.
    """

    case: Case
    model: str
    template: Path
    before: Mapping[str, str]
    after: Mapping[str, str]
    spans_s: Mapping[str, float] = field(default_factory=dict)

    def fresh(self, folder: Path) -> Path:
        """Make `folder`, as it is before a run."""
        return Path(shutil.copytree(self.template, folder))

    def start(self, folder: Path, *, resume: bool = False) -> Child:
        """Start making the film in `folder`."""
        options = RunOptions(force=self.case.replaces and not resume, resume=resume)
        return Child(
            lambda teller: make(self.case, folder, model=self.model, reporter=teller, options=options)
        )

    def film_state(self, folder: Path) -> FilmState:
        """What is at the output's name; the new film is one that was decoded to its last frame."""
        path = folder / self.case.output
        if not os.path.lexists(path):
            return "absent"
        digest = sha256_file(path)
        if digest == self.after[self.case.output]:
            return "new"
        return "old" if digest == self.before.get(self.case.output) else "broken"

    def faults(self, folder: Path) -> list[str]:
        """What is wrong in a folder whose run was ended in its midst."""
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
        """What a folder holds that an undisturbed run would not have left, and the other way round."""
        found = contents(folder)
        differing = {name for name, _ in found.items() ^ self.after.items()}
        return [f"{name} is {_compared(found.get(name), self.after.get(name))}" for name in sorted(differing)]


class Completion(NamedTuple):
    """How an unfinished film was completed: runs it took, what they said, their stages, what was wrong."""

    num_runs: int
    said: list[str]
    stages: list[str]
    wrong: list[str]


def complete(
    prepared: Prepared, folder: Path, *, disturb: Callable[[Child], object] = lambda _: None
) -> Completion:
    """Do what a user does after an interruption: resume, or start again when nothing is there to resume.

    Args:
        prepared: What is made.
        folder: Where a run of it was ended.
        disturb: Is given every process that goes on, and may kill it, too.
    """
    said: list[str] = []
    stages: list[str] = []
    wrong = prepared.faults(folder)
    resume = True
    for number in range(1, MOST_RUNS + 1):
        child = prepared.start(folder, resume=resume)
        disturb(child)
        code = child.wait()
        said += [told.text for told in child.told if told.kind in ("note", "warning", "error")]
        stages += [told.text for told in child.told if told.kind == "stage"]
        has_nothing = code == EXIT_BAD_INPUT and "nothing to resume" in child.complaint
        if code == 0 or (has_nothing and prepared.film_state(folder) == "new"):
            return Completion(number, said, stages, wrong + prepared.differences(folder))
        if not has_nothing and code != -signal.SIGKILL:
            wrong.append(f"going on failed with {code}: {child.complaint}")
            return Completion(number, said, stages, wrong)
        wrong += prepared.faults(folder)
        resume = not has_nothing
    return Completion(MOST_RUNS, said, stages, [*wrong, f"not complete after {MOST_RUNS} runs"])


def _compared(found: str | None, wanted: str | None) -> str:
    if found is None:
        return "missing"
    return "left over" if wanted is None else "another one"


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file below `folder`, hidden ones, too; of a run's record, without its timings."""
    paths = sorted(path for path in folder.rglob("*"))
    return {str(path.relative_to(folder)): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    if path.is_dir():
        return "folder"
    if path.name != RECORD:
        return sha256_file(path)
    record = json.loads(path.read_bytes())
    record.pop("timings_s", None)
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def prepare(cases: tuple[Case, ...], folder: Path, *, model: str) -> dict[str, Prepared]:
    """Make the films that are there before, and every case once without disturbance.

    Args:
        cases: The cases.
        folder: An empty folder.
        model: The model's name or folder.

    Returns:
        The cases by name.

    Raises:
        RuntimeError: One of them failed, left a film that does not decode to all its frames, or twice in a
            row did not leave the same.
    """
    templates = {True: folder / "empty", False: folder / "older"}
    for template in templates.values():
        template.mkdir()
    # In this process: whatever libraries load late is then loaded in every child that is forked from it.
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
            raise RuntimeError(f"{case.name}: failed undisturbed with {code}: {child.complaint}")
        runs.append(child.spans_s())
    film = read_film(folder / "0" / case.output)
    if film.provenance is None or len(film.frames_PHWC) != film.provenance.num_frames:
        raise RuntimeError(f"{case.name}: the film does not decode to the frames it tells of")
    after = contents(folder / "0")
    if any(contents(folder / str(number)) != after for number in range(NUM_UNDISTURBED)):
        raise RuntimeError(f"{case.name}: two undisturbed runs left different films")
    spans_s = {stage: min(run[stage] for run in runs) for stage in STAGES}
    return Prepared(case=case, model=model, template=template, before=before, after=after, spans_s=spans_s)

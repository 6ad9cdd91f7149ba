"""Several versions of a film's scenes, one for each seed, to choose from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from m2d.errors import InputError
from m2d.files import beside, check_writable
from m2d.film.journal_folder import has_journal
from m2d.film.outputs import check_outputs, output_of
from m2d.recipe.fields import MAX_SEED
from m2d.recipe.overrides import Overrides
from m2d.tasks.batch import record_if_made_by
from m2d.tasks.candidates import Judge, check_judge
from m2d.tasks.reroll import Reroll, plan_reroll
from m2d.video.printable import counted
from m2d.video.provenance import Provenance


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidateFilm:
    """The film of one seed.

    Attributes:
        resumes: Whether an unfinished run of it is resumed.
        complete: Its record, if it is there already.
    """

    reroll: Reroll
    seed: int
    output: Path
    resumes: bool
    complete: Provenance | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """The films of all seeds, the picture that shows them, and the file of their scores.

    Attributes:
        facts: Short texts about all of them.
        device: Where they are made.
    """

    films: tuple[CandidateFilm, ...]
    sheet: Path
    scores: Path
    title: str
    facts: tuple[str, ...]
    device: str


def plan_candidates(
    reroll: Reroll, count: int, *, judge: Judge, overrides: Overrides, force: bool, resume: bool
) -> Candidates:
    """Plan a film for each of `count` seeds, from the given one on, or from that of its first scene plus 1.

    All chosen scenes of a film get its seed. With `resume`, complete films are kept and an unfinished one is
    resumed.

    Raises:
        InputError: As `plan_reroll`; or a seed would be too large, or the judge compares scenes of one.
        CheckpointError: Networks that the judge needs are missing.
        OutputError: A film or the picture exists, and neither `force` nor `resume` is set.
    """
    output = output_of(reroll.film, overrides.out, ending="rerolled")
    first_job = plan_reroll(reroll, overrides=replace(overrides, out=output))
    plan = first_job.runs[0].plan
    first = plan.scenes[plan.targets[0]].seed or 0
    if first + count - 1 > MAX_SEED:
        raise InputError(f"{first} and {count - 1} more; the largest seed is {MAX_SEED}", argument="seed")
    check_judge(judge, [plan])
    sheet, scores = (beside(output, ending) for ending in ("-seeds.png", "-candidates.json"))
    for path in (sheet, scores):
        check_writable(path, force=force or resume)
    films = []
    for seed in range(first, first + count):
        own = replace(reroll, seed=seed)
        path = beside(output, f"-seed-{seed}.mp4")
        complete = None
        if resume and path.exists() and not has_journal(path):
            job = plan_reroll(own, overrides=replace(overrides, out=path))
            assert job.film is not None
            complete = record_if_made_by([run.plan for run in job.runs], after=job.film.runs)
        resumes = resume and complete is None and has_journal(path)
        if complete is None:
            check_outputs(path, force=force, resume=resumes)
        films.append(CandidateFilm(reroll=own, seed=seed, output=path, resumes=resumes, complete=complete))
    return Candidates(
        films=tuple(films),
        sheet=sheet,
        scores=scores,
        title=plan.title,
        facts=(Path(plan.source.name).name, counted(plan.sampling.num_inference_steps, "step")),
        device=plan.device,
    )

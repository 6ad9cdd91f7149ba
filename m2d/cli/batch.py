"""Several films of one command: made one after the other, shown side by side, and ranked as candidates."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from m2d.cli.failures import error_document
from m2d.cli.options import FilmOptions
from m2d.cli.results import film_document, show_film
from m2d.errors import InputError, Interrupted, M2DError, Remedy
from m2d.stop import StopRequest

if TYPE_CHECKING:
    from m2d.film.make import FilmResult
    from m2d.progress import Reporter
    from m2d.tasks.candidates import Judge
    from m2d.video.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class CandidateOptions(FilmOptions):
    """The shared options, and those that choose among several films."""

    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates", min=2, max=1000, metavar="N", help="Make N films from the seed on; score each."
        ),
    ] = None
    judge: Annotated[
        Literal["sequence", "visual", "semantic", "cross_talk", "smoothness"] | None,
        typer.Option("--judge", help="Score of `m2d eval` that ranks the candidates.", show_default=False),
    ] = None

    @property
    def score(self) -> Judge:
        """What ranks the candidates."""
        return self.judge or "sequence"

    def check_judge(self) -> None:
        """Raise InputError for a judge without candidates."""
        if self.judge is not None and self.candidates is None:
            raise InputError("--judge: ranks candidates; give --candidates, too")


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmToMake:
    """A film of a batch.

    Attributes:
        seed: The seed, if several are tried; else None.
        complete: Record of the film if an earlier run made it.
    """

    output: Path
    seed: int | None
    make: Callable[[], FilmResult]
    complete: Provenance | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class SheetPlan:
    """The picture of all seeds, and the file of their scores, if they are judged.

    Attributes:
        device: Of the networks that judge.
    """

    path: Path
    scores: Path
    title: str
    facts: Sequence[str]
    device: str


class _Failed(NamedTuple):
    """What was not made, and why."""

    what: Literal["film", "sheet"]
    path: Path
    error: M2DError


class Batch:
    """Makes several films one after the other; a film that fails does not stop the others."""

    def __init__(self, *, reporter: Reporter, options: CandidateOptions) -> None:
        self._reporter, self._options = reporter, options
        self._made: list[FilmResult] = []
        self._stop = StopRequest()
        self._sheets: list[Path] = []
        self._failed: list[_Failed] = []
        self._best: list[dict[str, object]] = []

    def make(self, films: Sequence[FilmToMake], sheet: SheetPlan | None) -> None:
        """Make films; with a sheet, they are one story's films of several seeds."""
        made = {film.seed: result for film in films if (result := self._film(film)) is not None}
        if sheet is None or not made:
            return
        self._check_stop()
        found = {seed: (each.film, each.provenance) for seed, each in made.items() if seed is not None}
        try:
            self._show_side_by_side(found, sheet)
        except Interrupted:
            raise
        except M2DError as error:
            self._note_failure("sheet", sheet.path, error)

    def _show_side_by_side(self, found: dict[int, tuple[Path, Provenance]], sheet: SheetPlan) -> None:
        from m2d.film.seed_sheet import draw_seed_sheet

        notes = self._judged(sheet, found) if self._options.candidates else {}
        found = {seed: found[seed] for seed in notes} or found
        draw_seed_sheet(sheet.path, found, title=sheet.title, facts=sheet.facts, notes=notes)
        self._sheets.append(sheet.path)
        self._reporter.note(f"all seeds: {sheet.path}")

    def _judged(self, sheet: SheetPlan, films: Mapping[int, tuple[Path, Provenance]]) -> dict[int, str]:
        """Score films, keep the scores, and return a note for each seed, the best one first."""
        from m2d.tasks.candidates import ranked_candidates, write_candidates

        judge = self._options.score
        found, report = ranked_candidates(
            {seed: film for seed, (film, _) in films.items()},
            judge,
            device=sheet.device,
            reporter=self._reporter,
        )
        write_candidates(sheet.scores, found, judge, report)
        best = found[0]
        if math.isnan(best.scores[judge]):
            self._reporter.warn(f"no film of {sheet.title!r} has a score by {judge}, so none is the best")
            return {}
        self._reporter.note(f"best by {judge}: {best.film}, {best.scores[judge]:.4g}")
        self._best.append({"judge": judge, "film": best.film, "seed": best.seed, "scores": sheet.scores})
        return {each.seed: f", {judge} {each.scores[judge]:.4g}" for each in found}

    def _film(self, film: FilmToMake) -> FilmResult | None:
        from m2d.cli.console import write_result

        self._check_stop()
        began_s = time.monotonic()
        try:
            with self._stop:
                result = _kept(film) or film.make()
        except Interrupted:
            raise
        except M2DError as error:
            self._note_failure("film", film.output, error)
            return None
        self._made.append(result)
        if film.complete is not None:
            self._reporter.note(f"{result.film}: is complete already")
        elif not self._options.quiet:
            show_film(result, spent_s=time.monotonic() - began_s)
        if not self._options.as_json:
            write_result(result.film)
        return result

    def _check_stop(self) -> None:
        """End the series after a signal that came too late to end a film."""
        self._stop.check("ended the series: finished films are kept", remedy=Remedy.RESUME)

    def report(self) -> None:
        """Write the JSON document if asked for, and end with the exit code of the first failure."""
        from m2d.cli.console import show_error, write_json

        if self._options.as_json:
            write_json(
                {
                    "films": [film_document(result) for result in self._made],
                    "sheets": self._sheets,
                    "failed": [{each.what: each.path} | error_document(each.error) for each in self._failed],
                }
                | ({"best": self._best} if self._options.candidates else {})
            )
        if self._failed:
            films = [each for each in self._failed if each.what == "film"]
            if films:
                show_error(f"{len(films)} of {len(films) + len(self._made)} films were not made")
            raise typer.Exit(self._failed[0].error.exit_code)

    def _note_failure(self, what: Literal["film", "sheet"], path: Path, error: M2DError) -> None:
        from m2d.cli.console import show_error

        show_error(error)
        self._failed.append(_Failed(what, path, error))


def _kept(film: FilmToMake) -> FilmResult | None:
    """Return the result of a film that an earlier run completed."""
    if film.complete is None:
        return None
    from m2d.film.make import FilmResult
    from m2d.video.run_folder import run_folder_of

    return FilmResult(
        film=film.output,
        run_folder=run_folder_of(film.output),
        provenance=film.complete,
        made=(),
        size_bytes=film.output.stat().st_size,
        timings_s={},
    )

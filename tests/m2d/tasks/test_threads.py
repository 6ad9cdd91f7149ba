"""Frames depend on the number of CPU threads: it is recorded, and later runs of the film compute with it.

The tiny model is too small for threads to change its sums, so a backend of this file does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from m2d.backend import BackendOptions, Denoiser
from m2d.errors import Interrupted
from m2d.families.source import ModelSource
from m2d.film.make import FilmResult, RunOptions
from m2d.layout import SceneLayout
from m2d.recipe.overrides import Overrides
from m2d.tasks import extend, generate, reproduce
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import PROMPTS, Stopping, Studio, frames_of, open_studio, rewritten

AS_RECORDED = "computing with 1 CPU thread, as recorded; torch is set to 2"


class ThreadDenoiser:
    """Its velocity depends on the number of threads."""

    def __init__(self, layout: SceneLayout) -> None:
        self.layout = layout
        self.targets = tuple(range(layout.num_scenes))

    def predict(
        self, latents_BFCHW: torch.Tensor, prompt_embeds_BLD: torch.Tensor, timesteps_BN: torch.Tensor
    ) -> torch.Tensor:
        del prompt_embeds_BLD, timesteps_BN
        return 0.2 * torch.get_num_threads() * latents_BFCHW


class ThreadBackend:
    name: ClassVar[str] = "threads"

    def unavailable_reason(self, device: str | None = None) -> str | None:
        del device
        return None

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        del source, options
        return ThreadDenoiser(layout)

    def release(self) -> None:
        pass


def find_backend(name: str) -> ThreadBackend:
    del name
    return ThreadBackend()


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def made(studio: Studio, name: str, *, reporter: Any = None, **options: Any) -> FilmResult:
    plan = studio.plan(2, name=name)
    told = reporter or RecordingReporter()
    return generate.run(plan, ThreadBackend(), reporter=told, options=RunOptions(**options))


@pytest.fixture(scope="module")
def one_thread(studio: Studio) -> FilmResult:
    """The film that nothing interrupts, on one thread."""
    return made(studio, "one", num_threads=1)


@pytest.fixture(autouse=True)
def two_threads_configured() -> Iterator[None]:
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2


def test_another_number_of_threads_gives_other_frames(studio: Studio, one_thread: FilmResult) -> None:
    assert made(studio, "two").frames_sha256 != one_thread.frames_sha256


def test_a_film_records_threads_processor_and_no_name_of_the_machine(one_thread: FilmResult) -> None:
    machine = one_thread.provenance.last_run.machine
    assert machine is not None
    assert machine.num_threads == 1
    assert machine.processor.endswith(f", {torch.backends.cpu.get_cpu_capability()}")
    assert machine.gpu == ""


def interrupted(studio: Studio, name: str) -> None:
    with pytest.raises(Interrupted):
        made(studio, name, reporter=Stopping(stage_to_stop="denoise", after=1), num_threads=1)


def test_a_run_that_began_with_one_thread_resumes_with_one(studio: Studio, one_thread: FilmResult) -> None:
    interrupted(studio, "resumed")
    told = RecordingReporter()
    result = made(studio, "resumed", reporter=told, resume=True)
    assert frames_of(result.provenance) == frames_of(one_thread.provenance)
    assert result.film.read_bytes() == one_thread.film.read_bytes()
    assert told.warnings == []
    assert told.notes[-1] == AS_RECORDED


def test_other_threads_that_are_asked_for_are_used_and_warned_about(
    studio: Studio, one_thread: FilmResult
) -> None:
    interrupted(studio, "asked")
    told = RecordingReporter()
    result = made(studio, "asked", reporter=told, resume=True, num_threads=2)
    assert result.frames_sha256 != one_thread.frames_sha256
    assert told.warnings == [
        "the run began with 1 CPU thread and continues with 2 CPU threads; frames may differ from those of an"
        " uninterrupted run"
    ]
    assert list(result.warnings) == told.warnings


def extended(studio: Studio, film: Path, name: str, **options: Any) -> FilmResult:
    return extend.run(
        extend.Extension(film=film, prompts=(PROMPTS[2],), model=studio.source.name),
        find_backend=find_backend,
        reporter=RecordingReporter(),
        overrides=Overrides(out=studio.path(name)),
        options=RunOptions(**options),
    )


def reproduced(
    studio: Studio, film: Path, told: RecordingReporter, name: str, **options: Any
) -> reproduce.Reproduction:
    return reproduce.run(
        film,
        find_backend=find_backend,
        reporter=told,
        overrides=Overrides(out=studio.path(name)),
        options=RunOptions(**options),
        model=studio.source.name,
    )


def test_an_extension_computes_with_the_threads_of_the_film(studio: Studio, one_thread: FilmResult) -> None:
    longer, asked = (
        extended(studio, one_thread.film, "longer"),
        extended(studio, one_thread.film, "asked-longer", num_threads=1),
    )
    assert longer.provenance.last_run.machine == one_thread.provenance.last_run.machine
    assert frames_of(longer.provenance) == frames_of(asked.provenance)


def test_every_run_of_a_film_is_made_again_with_its_own_threads(
    studio: Studio, one_thread: FilmResult
) -> None:
    mixed = extended(studio, one_thread.film, "mixed", num_threads=2)
    told = RecordingReporter()
    again = reproduced(studio, mixed.film, told, "mixed-again")
    assert again.differing == ()
    assert told.notes == ["computing with 1 and 2 CPU threads, as recorded; torch is set to 2"]
    runs = again.result.provenance.runs
    assert [run.machine.num_threads for run in runs if run.machine] == [1, 2]
    other = reproduced(studio, mixed.film, told, "mixed-two", num_threads=2)
    assert other.differing == (0, 1)
    assert told.warnings == ["the film was made with 1 CPU thread (here 2); frames may differ"]
    assert list(other.result.warnings) == told.warnings


def test_another_processor_or_version_is_named_with_both_values(
    studio: Studio, one_thread: FilmResult
) -> None:
    def elsewhere(document: dict[str, Any]) -> None:
        document["runs"][0]["machine"]["processor"] = "Some CPU, SSE2"
        document["runs"][0]["versions"]["torch"] = "1.0"

    film = rewritten(one_thread.film, studio.path("elsewhere"), elsewhere)
    told = RecordingReporter()
    assert reproduced(studio, film, told, "elsewhere-again").differing == ()
    here = one_thread.provenance.last_run
    assert here.machine is not None
    assert told.warnings == [
        f"the film was made with torch 1.0 (here {here.versions['torch']}), Some CPU, SSE2 (here "
        f"{here.machine.processor}); frames may differ"
    ]


def test_a_film_of_an_earlier_version_records_no_machine(studio: Studio, one_thread: FilmResult) -> None:
    film = rewritten(
        one_thread.film, studio.path("earlier"), lambda document: document["runs"][0].pop("machine")
    )
    told = RecordingReporter()
    again = reproduced(studio, film, told, "earlier-again")
    assert again.differing == (0, 1)
    assert (told.notes, told.warnings) == ([], [])

"""A run keeps the data type that it began in, also on a machine that would choose another one."""

from __future__ import annotations

from typing import Any

import pytest

from m2d.errors import InputError, Interrupted
from m2d.film.journal_folder import HEADER, journal_folder_of
from m2d.film.make import FilmResult, RunOptions
from m2d.film.resume import begun_dtypes
from m2d.pipeline import planning
from m2d.registry import get_backend
from m2d.tasks import generate
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Stopping, Studio, open_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def made(
    studio: Studio, name: str, *, reporter: Any = None, resume: bool = False, **story: Any
) -> FilmResult:
    plan = studio.plan(2, name=name, **story)
    options = RunOptions(resume=resume)
    return generate.run(plan, get_backend("eager"), reporter=reporter or RecordingReporter(), options=options)


def interrupted(studio: Studio, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that began on a machine that is fast in bfloat16; this one is not."""
    with monkeypatch.context() as patch:
        patch.setattr(planning, "cpu_has_bfloat16", lambda: True)
        with pytest.raises(Interrupted):
            made(studio, name, reporter=Stopping(stage_to_stop="denoise", after=1))


def test_a_run_goes_on_in_the_data_type_that_it_began_in(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(planning, "cpu_has_bfloat16", lambda: True)
        whole = made(studio, "whole")
    interrupted(studio, "resumed", monkeypatch)
    assert begun_dtypes(studio.path("resumed")) == ["bfloat16"]
    told = RecordingReporter()
    result = made(studio, "resumed", reporter=told, resume=True)
    assert told.notes[0] == "computing in bfloat16, as the run began"
    assert result.provenance.runs[0].parameters["dtype"] == "bfloat16"
    assert result.frames_sha256 == whole.frames_sha256
    assert result.film.read_bytes() == whole.film.read_bytes()


def test_another_data_type_that_is_named_is_another_request(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(studio, "named", monkeypatch)
    with pytest.raises(InputError, match=r'backend\.dtype was "bfloat16" and is "float32"'):
        made(studio, "named", resume=True, backend={"dtype": "float32"})


def test_a_run_that_is_not_there_or_cannot_be_read_began_in_none(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = studio.path("harmed")
    assert begun_dtypes(film) == []
    interrupted(studio, "harmed", monkeypatch)
    (journal_folder_of(film) / HEADER).write_text("{}")
    assert begun_dtypes(film) == []

"""Runs that go on from a film are stopped and resumed, in place too, and end as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2d.errors import InputError, Interrupted, OutputError, Remedy
from m2d.film.journal_folder import has_journal, journal_folder_of
from m2d.film.make import FilmResult
from m2d.video.run_folder import read_run, run_folder_of
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Stopping, Studio, contents, copied, frames_of, open_studio

ASKED = ("a fish", "a bird")


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def two(studio: Studio) -> Path:
    return studio.generate(2, name="two").film


@pytest.fixture(scope="module")
def straight(studio: Studio, two: Path) -> FilmResult:
    """The run that nothing interrupts."""
    return studio.extend(two, *ASKED, out=studio.path("straight"))


def check(result: FilmResult, straight: FilmResult) -> None:
    """Film and run folder are those of the straight run, and nothing else is there."""
    assert frames_of(result.provenance) == frames_of(straight.provenance)
    assert result.film.read_bytes() == straight.film.read_bytes()
    assert result.made == straight.made
    assert read_run(result.film).provenance == straight.provenance
    names = sorted(path.name for path in run_folder_of(result.film).iterdir())
    assert names == ["latents.safetensors", "run.json", "sheet.png"]


STOPS = [("load text encoder", 0), ("encode prompts", 1), ("denoise", 1), ("denoise", 3), ("decode", 2)]


@pytest.mark.parametrize(("stage", "after"), STOPS)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_stop_leaves_film_and_journal_and_resume_knows_the_prompts(
    stage: str, after: int, in_place: bool, studio: Studio, two: Path, straight: FilmResult
) -> None:
    film = copied(two, studio.path(f"{stage} {after} {in_place}"))
    before = contents(run_folder_of(film)) | {"film": film.read_bytes()}
    given: dict[str, Any] = {"out": film if in_place else studio.path(f"{stage} {after} new")}
    reporter = Stopping(stage_to_stop=stage, after=after)
    with pytest.raises(Interrupted, match=r"^SIGTERM: finished work is kept$") as raised:
        studio.extend(film, *ASKED, reporter=reporter, force=in_place, **given)
    assert raised.value.exit_code == 75
    kept = contents(run_folder_of(film)) | {"film": film.read_bytes()}
    assert {name: kept[name] for name in before} == before
    told = RecordingReporter()
    check(studio.extend(film, resume=True, reporter=told, **given), straight)
    assert len(told.notes) == 1
    if not in_place:
        assert contents(run_folder_of(film)) | {"film": film.read_bytes()} == before


def ctrl_c(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], Any]], None]:
    """Do something, and press Ctrl-C twice when the production comes to a function."""

    def stopped(name: str, work: Callable[[], Any]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(f"m2d.film.make.{name}", ctrl_c)
            with pytest.raises(KeyboardInterrupt):
                work()

    return stopped


StopAt = Callable[[str, Callable[[], Any]], None]


@pytest.mark.parametrize("asked", [(), ASKED])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_film_that_was_published_gets_its_run_folder_and_nothing_is_made_again(
    asked: tuple[str, ...], in_place: bool, studio: Studio, two: Path, straight: Any, stop_at: StopAt
) -> None:
    film = copied(two, studio.path(f"published {in_place} {len(asked)}"))
    given: dict[str, Any] = {"out": film if in_place else studio.path(f"of published {len(asked)}")}
    stop_at("finish_run", lambda: studio.extend(film, *ASKED, force=in_place, **given))
    assert given["out"].read_bytes() == straight.film.read_bytes()
    reporter = Stopping()
    result = studio.extend(film, *asked, resume=True, reporter=reporter, **given)
    check(result, straight)
    assert reporter.done == {}
    assert reporter.notes == ["resuming the unfinished run: all scenes are made, not all is written"]
    assert reporter.warnings == []
    with pytest.raises(InputError, match="nothing to resume"):
        studio.extend(film, *asked, resume=True, **given)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_film_that_was_about_to_be_published_is_decoded_and_written_again(
    in_place: bool, studio: Studio, two: Path, straight: FilmResult, stop_at: StopAt
) -> None:
    film = copied(two, studio.path(f"about {in_place}"))
    given: dict[str, Any] = {"out": film if in_place else studio.path("of about")}
    stop_at("write_encoded", lambda: studio.extend(film, *ASKED, force=in_place, **given))
    assert film.read_bytes() == two.read_bytes()
    reporter = Stopping()
    check(studio.extend(film, resume=True, reporter=reporter, **given), straight)
    assert set(reporter.done) == {"decode", "write"}
    assert reporter.notes == ["resuming the unfinished run: all scenes are made, not all is written"]


def test_what_is_to_be_replaced_may_be_anything(
    studio: Studio, two: Path, straight: FilmResult, stop_at: StopAt
) -> None:
    out = studio.path("anything")
    out.write_bytes(b"no film at all")
    stop_at("write_encoded", lambda: studio.extend(two, *ASKED, out=out, force=True))
    assert out.read_bytes() == b"no film at all"
    check(studio.extend(two, resume=True, out=out), straight)


@pytest.mark.parametrize("function", ["write_encoded", "finish_run"])
def test_another_request_is_not_resumed(
    function: str, studio: Studio, two: Path, straight: FilmResult, stop_at: StopAt
) -> None:
    film = copied(two, studio.path(f"other {function}"))
    stop_at(function, lambda: studio.extend(film, *ASKED, out=film, force=True))
    before = contents(studio.folder)
    for command in (
        lambda: studio.extend(film, "a fish", "a cat", out=film, resume=True),
        lambda: studio.reroll(film, 0, out=film, resume=True),
    ):
        with pytest.raises(InputError, match="the unfinished run has another request: ") as raised:
            command()
        assert raised.value.exit_code == 2
        assert "\n" not in str(raised.value)
    assert contents(studio.folder) == before
    check(studio.extend(film, out=film, resume=True), straight)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"overrides": {"seed": 8}}, r"request: sampling\.seed was 5 and is 8"),
        ({"overrides": {"num_inference_steps": 3}}, r"num_inference_steps was 2 and is 3"),
        ({"only_new": True}, "only_new was false and is true"),
    ],
)
def test_changed_options_are_named(
    change: dict[str, Any], told: str, studio: Studio, two: Path, stop_at: StopAt
) -> None:
    out = studio.path("changed")
    if not has_journal(out):
        stop_at("write_encoded", lambda: studio.extend(two, *ASKED, out=out))
    for prompts in ((), ASKED):
        with pytest.raises(InputError, match=told):
            studio.extend(two, *prompts, out=out, resume=True, **change)


def test_options_of_scenes_that_are_not_asked_for_are_refused(
    studio: Studio, two: Path, stop_at: StopAt
) -> None:
    out = studio.path("options")
    stop_at("write_encoded", lambda: studio.extend(two, *ASKED, out=out, only_new=True))
    for change in ({"frames": 9}, {"join": "continue"}):
        with pytest.raises(InputError, match="--frames, --join: belong to new scenes"):
            studio.extend(two, out=out, resume=True, **change)
    # What is asked for but is no part of a scene need not be repeated either.
    assert len(studio.extend(two, out=out, resume=True).provenance.scenes) == 2


def test_an_unfinished_run_is_not_overrun(studio: Studio, two: Path, stop_at: StopAt) -> None:
    out = studio.path("overrun")
    stop_at("write_encoded", lambda: studio.extend(two, *ASKED, out=out))
    with pytest.raises(OutputError, match=r"all scenes are made, not all is written$"):
        studio.extend(two, "a cat", out=out)
    assert studio.extend(two, "a cat", out=out, force=True).provenance.scenes[-1].prompt == "a cat"


@pytest.mark.parametrize("prompts", [(), ASKED])
def test_a_damaged_journal_says_what_can_be_done(
    prompts: tuple[str, ...], studio: Studio, two: Path, stop_at: StopAt
) -> None:
    out = studio.path(f"damaged {len(prompts)}")
    stop_at("write_encoded", lambda: studio.extend(two, *ASKED, out=out))
    (journal_folder_of(out) / "journal.json").write_text("{}")
    with pytest.raises(
        InputError,
        match=r"cannot be resumed: .*journal\.json: ",
        check=lambda error: error.remedy is Remedy.DISCARD_RUN,
    ):
        studio.extend(two, *prompts, out=out, resume=True)


@pytest.mark.parametrize("function", ["write_encoded", "finish_run"])
def test_a_reroll_is_resumed_in_place(function: str, studio: Studio, straight: Any, stop_at: StopAt) -> None:
    film = copied(straight.film, studio.path(f"reroll {function}"))
    wanted = studio.reroll(film, 1, out=studio.path(f"wanted {function}"))
    stop_at(function, lambda: studio.reroll(film, 1, out=film, force=True))
    told = RecordingReporter()
    result = studio.reroll(film, 1, out=film, resume=True, reporter=told)
    check(result, wanted)
    assert len(told.notes) == 1

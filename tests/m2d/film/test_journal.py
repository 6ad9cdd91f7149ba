"""A journal gives back what was kept, to the last bit, or says what is wrong with it."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from m2d.diffusion.denoise import StepEvent
from m2d.errors import CheckpointError, InputError, Interrupted, M2DError, OutputBusy, OutputError, Remedy
from m2d.film.journal import StepRhythm
from m2d.film.journal_contents import scan_journal
from m2d.film.journal_folder import (
    CorruptFileError,
    has_journal,
    journal_folder_of,
    read_document,
    read_header,
    read_request,
    write_document,
    write_header,
)
from m2d.film.outputs import check_outputs
from tests.m2d.odd_files import ODD_FILES, put
from tests.m2d.tasks.journals import (
    ACTIONS,
    DOCUMENT,
    EMPTY,
    FILES,
    REQUEST,
    STEPS,
    VERSIONS,
    RecordingReporter,
    finished,
    keep,
    latents_of,
    opened,
    resumed,
    snapshot_of,
)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return tmp_path / "story.mp4"


def advises(remedy: Remedy) -> Callable[[M2DError], bool]:
    return lambda error: error.remedy is remedy


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("count", range(len(ACTIONS) + 1))
def test_what_was_kept_is_given_back_to_the_last_bit(film: Path, count: int) -> None:
    keep(film, count)
    expected = [EMPTY, *(snapshot for _, snapshot in ACTIONS)][count]
    assert resumed(film) == expected
    assert resumed(film) == expected


def test_a_run_can_be_resumed_at_every_window_and_finished(film: Path) -> None:
    for action, snapshot in ACTIONS:
        with opened(film, resume=journal_folder_of(film).exists()) as journal:
            action(journal)
            assert snapshot_of(journal) == snapshot
    with opened(film, resume=True) as journal:
        journal.finish()
    assert names(film.parent) == []


def test_the_journal_lies_in_the_run_folder_and_only_a_lock_lies_beside_it(film: Path) -> None:
    with opened(film) as journal:
        journal.keep_step(0, STEPS[0])
        assert names(film.parent) == [
            "story.m2d",
            "story.m2d/.lock",
            "story.m2d/journal",
            "story.m2d/journal/journal.json",
            "story.m2d/journal/step.safetensors",
        ]
        assert film.with_suffix(".m2d").is_dir()
    assert "story.m2d/.lock" not in names(film.parent)


def test_finishing_leaves_the_run_and_what_others_put_there(film: Path) -> None:
    with opened(film) as journal:
        for action, _ in ACTIONS:
            action(journal)
        (film.with_suffix(".m2d") / "run.json").write_text("{}")
        (journal_folder_of(film) / "notes.txt").write_text("mine")
        journal.finish()
    assert names(film.parent) == [
        "story.m2d",
        "story.m2d/journal",
        "story.m2d/journal/notes.txt",
        "story.m2d/run.json",
    ]


@pytest.mark.parametrize(
    ("count", "progress"),
    [
        (1, "window 1 of 2, 5 of 8 steps"),
        (2, "window 1 of 2, 6 of 8 steps"),
        (3, "window 2 of 2, 0 of 6 steps"),
        (4, "window 2 of 2, 5 of 6 steps"),
        (5, "all scenes are denoised"),
        (6, "all scenes are made, not all is written"),
    ],
)
def test_an_unfinished_run_is_not_overwritten_and_told_how_far_it_got(
    film: Path, count: int, progress: str
) -> None:
    keep(film, count)
    message = rf"story\.mp4: an unfinished run is here: {progress}$"
    with pytest.raises(OutputError, match=message, check=advises(Remedy.RESUME_OR_DISCARD)), opened(film):
        pass
    told = RecordingReporter()
    assert resumed(film, reporter=told) == ACTIONS[count - 1][1]
    assert told.notes == [f"resuming the unfinished run: {progress}"]
    assert told.warnings == []


def test_force_discards_an_unfinished_run(film: Path) -> None:
    keep(film, 7)
    with opened(film, force=True) as journal:
        assert not journal.resumed
        assert snapshot_of(journal) == EMPTY
        assert names(journal_folder_of(film)) == ["journal.json"]


def test_a_run_without_a_finished_step_is_in_nobodys_way(film: Path) -> None:
    keep(film, 0)
    keep(film, 1, request={"kind": "another"})
    assert resumed(film, request={"kind": "another"}) == ACTIONS[0][1]


def test_nothing_to_resume_is_said_and_leaves_nothing(film: Path) -> None:
    with pytest.raises(
        InputError, match="nothing to resume: no unfinished run is there", check=advises(Remedy.START_RUN)
    ):
        resumed(film)
    assert names(film.parent) == []
    film.write_bytes(b"film")
    film.with_suffix(".m2d").mkdir()
    (film.with_suffix(".m2d") / "run.json").write_text("{}")
    with pytest.raises(InputError, match="nothing to resume: the film is complete"):
        resumed(film)


def test_another_request_is_refused_with_what_differs(film: Path) -> None:
    keep(film, 3)
    scenes = [{"prompt": "a fox"}, {"prompt": "an eagle" * 20}, {"prompt": "a hare", "seed": 3}]
    other = {**REQUEST, "kind": "extend", "recipe": {"scenes": scenes, "seed": 8}}
    message = (
        r'kind was "generate" and is "extend"; '
        r'recipe\.scenes\[1\]\.prompt was "an owl" and is "an eagle.*\.\.\.; '
        r"recipe\.scenes\[2\]\.seed was absent and is 3; and 1 more$"
    )
    with pytest.raises(InputError, match=message, check=advises(Remedy.REPEAT_OR_DISCARD)):
        resumed(film, request=other)
    with pytest.raises(InputError, match=r"window_steps\[1\] was 6 and is 7"):
        resumed(film, window_steps=(8, 7))
    with pytest.raises(InputError, match="window_steps was 2 entries and is 1 entries"):
        resumed(film, window_steps=(8,))
    assert resumed(film) == ACTIONS[2][1]


def test_other_versions_are_warned_about_as_long_as_the_run_lasts(film: Path) -> None:
    keep(film, 1)
    for versions in (VERSIONS | {"torch": "2.12.0"}, VERSIONS):
        told = RecordingReporter()
        assert resumed(film, versions=versions, reporter=told) == ACTIONS[0][1]
        (warning,) = told.warnings
        assert warning.startswith("versions or processor changed since the run began: torch was")


def test_the_request_can_be_read_without_asking_for_it_again(film: Path) -> None:
    assert read_request(film) is None
    keep(film, 2)
    assert read_request(film) == json.loads(json.dumps(REQUEST))
    (journal_folder_of(film) / "journal.json").write_text("{}")
    with pytest.raises(CorruptFileError, match=r"journal\.json: was changed since it was written"):
        read_request(film)


@pytest.mark.parametrize("runs", ["x", [""], [{"recipe": []}], {"0": {}}])
def test_a_request_that_no_run_has_is_refused_whatever_its_digest(film: Path, runs: object) -> None:
    keep(film, 2)
    folder = journal_folder_of(film)
    header = read_header(folder)
    assert header is not None
    write_header(folder, replace(header, request={**header.request, "runs": runs}))
    with pytest.raises(InputError, match=r"journal\.json: is not the header of a run"):
        resumed(film)


@pytest.mark.parametrize("files", [{"../x.png": "a" * 64}, {"run.json": "a" * 64}, {"sheet.png": "../x"}])
def test_an_output_with_files_of_other_names_is_not_used_whatever_its_digest(
    film: Path, files: dict[str, str]
) -> None:
    keep(film, 6)
    made = journal_folder_of(film) / "made.json"
    document = read_document(made)
    write_document(made, {**document, "files": files, "sizes": {}})
    header = read_header(made.parent)
    assert header is not None
    scan = scan_journal(made.parent, header)
    assert scan.contents.output is None
    assert [problem for problem in scan.problems if "is not the record of an output" in problem]


def test_two_processes_never_make_the_same_film(film: Path) -> None:
    message = rf"story\.m2d: process {os.getpid()} on \S+ is making story\.mp4$"
    for changes in ({}, {"force": True}, {"resume": True}):
        with opened(film), pytest.raises(OutputBusy, match=message), opened(film, **changes):
            pass


def test_existing_films_and_runs_are_replaced_only_with_force(film: Path) -> None:
    film.write_bytes(b"film")
    with pytest.raises(OutputError, match=r"story\.mp4: exists already"), opened(film):
        pass
    assert names(film.parent) == ["story.mp4"]
    with opened(film, force=True) as journal:
        assert journal.may_replace
        journal.keep_step(0, STEPS[0])
    # Asked for once, it is asked for until the run is finished.
    with opened(film, resume=True) as journal:
        assert journal.may_replace


def test_a_film_that_came_meanwhile_is_not_taken_for_the_runs_own(film: Path) -> None:
    keep(film, 5)
    film.write_bytes(b"somebody else's")
    with pytest.raises(OutputError, match=r"story\.mp4: exists already"):
        resumed(film)
    with opened(film, resume=True, force=True) as journal:
        assert journal.may_replace


def test_a_film_that_the_run_was_about_to_write_may_be_its_own(film: Path) -> None:
    with opened(film) as journal:
        for action, _ in ACTIONS:
            action(journal)
        assert not journal.may_replace
    film.write_bytes(b"film")
    with opened(film, resume=True) as journal:
        assert journal.may_replace


def test_early_checks_leave_an_unfinished_runs_own_film_to_the_journal(film: Path) -> None:
    film.write_bytes(b"film")
    with pytest.raises(OutputError, match="exists already"):
        check_outputs(film, force=False)
    check_outputs(film, force=False, resume=True)
    film.unlink()
    keep(film, 7)
    film.write_bytes(b"film")
    check_outputs(film, force=False)
    with pytest.raises(OutputError, match="an unfinished run is here: all scenes are made"), opened(film):
        pass


def test_a_folder_with_a_journal_alone_holds_no_run(film: Path) -> None:
    keep(film, 3)
    assert names(film.with_suffix(".m2d"))[0] == "journal"
    check_outputs(film, force=False)


@pytest.mark.parametrize(("failure", "stays"), [(CheckpointError, False), (Interrupted, True)])
def test_a_run_that_failed_before_its_first_step_leaves_a_journal_only_after_a_signal(
    film: Path, failure: type[Exception], stays: bool
) -> None:
    with pytest.raises(failure, match="no weights"), opened(film):
        raise failure("no weights")
    assert bool(names(film.parent)) is stays


def test_a_run_that_failed_later_can_go_on(film: Path) -> None:
    def fail_later() -> None:
        with opened(film) as journal:
            journal.keep_step(0, STEPS[0])
            raise CheckpointError("no weights")

    with pytest.raises(CheckpointError, match="no weights"):
        fail_later()
    assert resumed(film) == ACTIONS[0][1]


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty"])
@pytest.mark.parametrize(
    ("count", "name", "counts"),
    [
        (4, "step.safetensors", 3),
        (4, "window-000.safetensors", 0),
        # The window is lost, but not the step that was kept of it last.
        (5, "window-001.safetensors", 4),
        (7, "made.json", 5),
        (7, "made-*", 5),
        (7, "window-000.safetensors", 0),
    ],
)
def test_a_damaged_file_is_told_and_the_state_before_it_counts(
    film: Path, count: int, name: str, counts: int, damage: str
) -> None:
    keep(film, count)
    path = next(path for path in sorted(journal_folder_of(film).glob(name)) if path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-3] ^= 4
    path.write_bytes({"flipped": data, "cut": data[:-1], "empty": b""}[damage])
    told = RecordingReporter()
    expected = ACTIONS[counts - 1][1] if counts else EMPTY
    assert resumed(film, reporter=told) == expected
    assert len(told.warnings) == 1
    assert name.partition("*")[0] in told.warnings[0]
    assert told.warnings[0].endswith("it is not used")
    told = RecordingReporter()
    assert resumed(film, reporter=told) == expected
    assert told.warnings == []


def test_windows_after_a_damaged_one_do_not_count_again_once_it_is_made_anew(film: Path) -> None:
    keep(film, 7)
    (journal_folder_of(film) / "window-000.safetensors").write_bytes(b"")
    with opened(film, resume=True) as journal:
        journal.keep_window(finished(0))
        assert snapshot_of(journal) == ACTIONS[2][1]
    assert resumed(film) == ACTIONS[2][1]


def test_no_changed_byte_of_any_file_is_believed(film: Path) -> None:
    keep(film, 7)
    folder = journal_folder_of(film)
    header = read_header(folder)
    assert header is not None
    assert not scan_journal(folder, header).problems
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        # Every byte takes four times as long and finds nothing else.
        for index in range(0, len(data), 4):
            path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
            if path.name == "journal.json":
                with pytest.raises(CorruptFileError, match=r"journal\.json: (is not JSON|was changed)"):
                    read_header(folder)
            else:
                assert len(scan_journal(folder, header).problems) == 1, (path.name, index)
        path.write_bytes(data)
    assert not scan_journal(folder, header).problems


def test_a_damaged_beginning_is_never_a_silent_new_one(film: Path) -> None:
    keep(film, 3)
    path = journal_folder_of(film) / "journal.json"
    path.write_bytes(path.read_bytes().replace(b"a fox", b"a box"))
    discard = advises(Remedy.DISCARD_RUN)
    with pytest.raises(InputError, match=r"cannot be resumed: .*journal\.json: was changed", check=discard):
        resumed(film)
    with (
        pytest.raises(OutputError, match=r"an unfinished run is here, but .*: was changed", check=discard),
        opened(film),
    ):
        pass
    with opened(film, force=True) as journal:
        assert snapshot_of(journal) == EMPTY


def test_a_journal_of_a_later_version_is_left_to_it(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("m2d.film.journal_folder.SCHEMA_VERSION", 2)
        keep(film, 3)
    with pytest.raises(
        InputError, match="is not of version 1; finish it with the version of m2d that started it"
    ):
        resumed(film)


def test_files_of_another_run_or_of_another_window_are_not_mixed_in(film: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    keep(film, 3)
    keep(other, 3)
    window = journal_folder_of(film) / "window-000.safetensors"
    shutil.copy(window, journal_folder_of(film) / "window-001.safetensors")
    told = RecordingReporter()
    assert resumed(film, reporter=told) == ACTIONS[2][1]
    assert "window-001.safetensors: belongs to window 0; it is not used" in told.warnings[0]
    shutil.copy(journal_folder_of(other) / window.name, window)
    told = RecordingReporter()
    assert resumed(film, reporter=told) == EMPTY
    assert "window-000.safetensors: was written by another run; it is not used" in told.warnings[0]


def test_the_next_run_removes_what_killed_processes_left_whoever_has_their_number_now(film: Path) -> None:
    keep(film, 3)
    pid = os.getppid()
    strays = [
        film.parent / f".story.mp4.{pid}.part",
        film.with_suffix(".m2d") / f".latents.safetensors.{pid}.part",
        journal_folder_of(film) / f".window-001.safetensors.{pid}.part",
    ]
    others = film.parent / f".other.mp4.{pid}.part"
    for path in (*strays, others):
        path.write_bytes(b"half")
    assert resumed(film) == ACTIONS[2][1]
    assert not any(path.exists() for path in strays)
    assert others.exists()


@pytest.mark.parametrize(
    ("step", "total", "waited_s", "is_due"),
    [
        (4, 50, 59.9, False),
        (5, 50, 0.0, True),
        (45, 50, 0.0, True),
        (7, 50, 60.0, True),
        (50, 50, 1e9, False),
        (1, 1, 1e9, False),
    ],
)
def test_steps_are_kept_by_number_and_by_time_but_never_the_last(
    step: int, total: int, waited_s: float, is_due: bool
) -> None:
    assert StepRhythm().is_due(step, total=total, waited_s=waited_s) is is_due


def test_time_is_counted_from_what_was_kept_last(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("m2d.film.journal.time.monotonic", lambda: now_s)
    event = StepEvent(step=7, total=8, timestep=1, x0=lambda: latents_of(0), state=lambda: STEPS[0])
    with opened(film, rhythm=StepRhythm(every_steps=100, every_s=60.0)) as journal:
        now_s += 59.0
        assert not journal.is_due(event)
        now_s += 1.0
        assert journal.is_due(event)
        journal.keep_step(0, STEPS[0])
        assert not journal.is_due(event)


def test_windows_are_kept_in_their_order_and_as_latents(film: Path) -> None:
    with opened(film) as journal:
        with pytest.raises(ValueError, match="window 1 of 2; 0 comes next"):
            journal.keep_window(finished(1))
        with pytest.raises(ValueError, match="window 1 of 2; 0 comes next"):
            journal.keep_step(1, STEPS[0])
        with pytest.raises(ValueError, match=r"scene 4: torch\.float16 .*; float32 FCHW is needed"):
            journal.keep_window(finished(0, {4: torch.zeros(1, 1, 1, 1, dtype=torch.float16)}))
        with pytest.raises(ValueError, match="0 of 2 windows are finished"):
            journal.keep_output(DOCUMENT, FILES)
        journal.keep_window(finished(0))
        journal.keep_window(finished(1))
        with pytest.raises(ValueError, match="window 2 of 2; 2 comes next"):
            journal.keep_step(2, STEPS[0])


def test_a_request_that_is_no_json_is_a_wrong_call_and_leaves_nothing(film: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"), opened(film, request={"scale": math.nan}):
        pass
    assert names(film.parent) == []


def test_a_missing_folder_is_told_and_not_made(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match=r"the folder .*nowhere does not exist"),
        opened(tmp_path / "nowhere" / "a.mp4"),
    ):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["story.m2d", "story.m2d/journal"])
def test_a_file_in_a_folders_place_is_told_and_kept(film: Path, name: str) -> None:
    path = film.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"mine")
    for changes in ({}, {"force": True}):
        with (
            pytest.raises(OutputError, match="a folder is needed there, but a file has its name"),
            opened(film, **changes),
        ):
            pass
    assert path.read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ODD_FILES)
@pytest.mark.parametrize("name", ["window-000.safetensors", "step.safetensors", "made.json"])
def test_what_is_no_regular_file_counts_as_corrupt(film: Path, name: str, kind: str) -> None:
    keep(film, len(ACTIONS))
    folder = journal_folder_of(film)
    header = read_header(folder)
    assert header is not None
    put(kind, folder / name)
    scan = scan_journal(folder, header)
    assert f"{folder / name}: cannot be read: it is a" in scan.problems[0]


@pytest.mark.parametrize("kind", ODD_FILES)
def test_a_header_that_is_no_regular_file_is_corrupt(film: Path, kind: str) -> None:
    keep(film, 1)
    put(kind, journal_folder_of(film) / "journal.json")
    with pytest.raises(CorruptFileError, match=r"journal.json: cannot be read: it is a"):
        read_request(film)


def test_a_run_folder_that_cannot_be_read_is_called_unreadable(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(film, 1)

    def refuse(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)
    for read in (has_journal, read_request):
        with pytest.raises(OutputError, match=r"story.m2d: cannot be read: Permission denied"):
            read(film)


def test_a_name_that_is_too_long_has_no_journal_and_cannot_be_written(tmp_path: Path) -> None:
    film = tmp_path / f"{'x' * 300}.mp4"
    assert not has_journal(film)
    with pytest.raises(OutputError, match="File name too long; choose a shorter name"):
        check_outputs(film, force=False)

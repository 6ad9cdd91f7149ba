"""Several films in one command: stories, folders, standard input, prompts alone, and seeds."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from PIL import Image
from typer.testing import CliRunner

from m2d import disk
from m2d.cli.main import app
from m2d.cli.stories import parse_numbers
from m2d.errors import InputError
from m2d.files import write_bytes
from m2d.film import make, seed_sheet
from m2d.tasks import candidates
from m2d.video.run_folder import read_run
from tests.m2d.cli.conftest import STORY, Run
from tests.m2d.cli.test_json import undocumented

QUICK = ["--steps", "1"]


def films(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.mp4"))


def test_seeds_make_one_film_each_and_one_picture_and_resume_completes_them(m2d: Run, folder: Path) -> None:
    words = ["generate", "story.yaml", "--seeds", "3,5", *QUICK]
    result = m2d(*words)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "first-snow-seed-3.mp4\nfirst-snow-seed-5.mp4\n"
    seeds = [[scene.seed for scene in read_run(folder / name).provenance.scenes] for name in films(folder)]
    # A scene with a seed of its own keeps it.
    assert seeds == [[3, 8, 3], [5, 8, 5]]
    with Image.open(folder / "first-snow-seeds.png") as sheet:
        assert sheet.height > 200

    # Again: nothing is overwritten, and --resume makes what is missing and keeps the rest.
    assert m2d(*words).exit_code == 2
    kept = (folder / "first-snow-seed-3.mp4").stat().st_mtime_ns
    (folder / "first-snow-seed-5.mp4").unlink()
    shutil.rmtree(folder / "first-snow-seed-5.m2d")
    result = m2d(*words, "--resume", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [(film["film"], film["made_scenes"]) for film in document["films"]] == [
        ("first-snow-seed-3.mp4", []),
        ("first-snow-seed-5.mp4", [1, 2, 3]),
    ]
    assert (document["sheets"], document["failed"]) == (["first-snow-seeds.png"], [])
    assert undocumented(document) == undocumented(document["films"][0]) == []
    assert (folder / "first-snow-seed-3.mp4").stat().st_mtime_ns == kept
    # A film of another recipe is not taken for a finished one.
    assert m2d(*words, "--resume", "--set", "title=Other", "--out", "first-snow.mp4").exit_code == 2


def test_a_signal_at_the_end_of_a_film_ends_the_series(
    m2d: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = make._publish

    def last_moment(*arguments: Any, **options: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return finish(*arguments, **options)

    monkeypatch.setattr(make, "_publish", last_moment)
    result = m2d("generate", "story.yaml", "--seeds", "3,5", "--out", "snow", *QUICK)
    assert result.exit_code == 75
    assert "SIGTERM ended the series: finished films are kept; resume with --resume" in result.stderr
    # A folder, which was missing.
    assert films(folder / "snow") == ["first-snow-seed-3.mp4"]


def test_candidates_are_ranked_on_one_sheet_and_their_scores_are_kept(m2d: Run, folder: Path) -> None:
    words = ["generate", "story.yaml", "--seed", "5", "--candidates", "2", *QUICK]
    # The best film is no use to someone who learns after an hour that nothing can score it.
    result = m2d(*words)
    assert result.exit_code == 2
    assert "need efficientnet i3d minilm" in result.stderr
    assert films(folder) == []
    result = m2d(*words, "--judge", "smoothness", "--json")
    assert result.exit_code == 0, result.stderr
    assert films(folder) == ["first-snow-seed-5.mp4", "first-snow-seed-6.mp4"]
    kept = json.loads((folder / "first-snow-candidates.json").read_text())
    scores = [each["scores"]["smoothness"] for each in kept["candidates"]]
    assert (kept["judge"], scores) == ("smoothness", sorted(scores, reverse=True))
    document = json.loads(result.stdout)
    assert document["best"][0]["film"] == kept["candidates"][0]["film"]
    assert undocumented(document) == undocumented(document["best"][0]) == []
    with Image.open(folder / "first-snow-seeds.png") as sheet:
        assert sheet.height > 200


def test_a_disk_that_is_full_under_the_sheet_is_told_and_the_films_stay(
    m2d: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_on_a_full_disk(path: Path, data: bytes) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(
                disk, "write_all", Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
            )
            write_bytes(path, data)

    monkeypatch.setattr(seed_sheet, "write_bytes", write_on_a_full_disk)
    result = m2d("generate", "story.yaml", "--seeds", "3,5", *QUICK, "--json")
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert [film["film"] for film in document["films"]] == films(folder)
    (failed,) = document["failed"]
    assert failed["sheet"] == "first-snow-seeds.png"
    assert result.stderr.count("first-snow-seeds.png: could not be written: No space left on device") == 1
    assert ".part" not in result.stderr


def test_without_a_score_no_film_is_called_the_best(
    m2d: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = candidates.ranked_candidates

    def unscored(*given: Any, **options: Any) -> Any:
        found, report = real(*given, **options)
        return [replace(each, scores=dict.fromkeys(each.scores, math.nan)) for each in found], report

    monkeypatch.setattr(candidates, "ranked_candidates", unscored)
    result = m2d("generate", "story.yaml", "--candidates", "2", "--judge", "smoothness", "--json", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "has a score by smoothness, so none is the best" in " ".join(result.stderr.split())
    assert not json.loads(result.stdout)["best"]
    assert (folder / "first-snow-seeds.png").is_file()


def test_films_of_one_scene_are_not_ranked_by_what_compares_scenes(m2d: Run, folder: Path) -> None:
    (folder / "one.yaml").write_text("title: one\nscenes: [{prompt: A puppet waves., seed: 4}]\n")
    words = ["generate", "one.yaml", "--candidates", "2", "--set", "scenes[0].seed=null", "--out", "films"]
    done = m2d(*words)
    assert done.exit_code == 2
    still = m2d(*words, "--judge", "smoothness", "--set", "video.num_frames=1")
    assert "--judge: a scene has 1 frame; scores need 2 at least" in still.stderr
    assert not (folder / "films").exists()
    assert "--judge: sequence compares scenes, and a film has one; use semantic or smoothness" in done.stderr
    assert films(folder) == []


def test_a_seed_for_scenes_with_seeds_of_their_own_is_told(m2d: Run, folder: Path, tiny_folder: Path) -> None:
    (folder / "one.yaml").write_text("title: one\nscenes: [{prompt: A puppet waves., seed: 4}]\n")
    done = m2d("generate", "one.yaml", "--model", str(tiny_folder), "--seed", "7", *QUICK)
    assert done.exit_code == 0, done.stderr
    told = "sampling.seed: 7 changes nothing, for every scene has a seed of its own"
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--judge", "visual"], "--judge: ranks candidates; give --candidates, too"),
        (["--candidates", "2", "--seeds", "1-2"], "--candidates, --seeds: both given; give one"),
    ],
)
def test_candidates_and_their_judge_go_together(m2d: Run, words: list[str], message: str) -> None:
    result = m2d("generate", "story.yaml", *words)
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_stories_of_a_folder_and_of_stdin_go_to_one_folder(folder: Path, tiny_folder: Path) -> None:
    text = STORY.format(model=tiny_folder)
    (folder / "more").mkdir()
    for name in ("b", "a"):
        (folder / "more" / f"{name}.yaml").write_text(text.replace("first-snow.mp4", f"{name}.mp4"))
    (folder / "more" / "notes.txt").write_text("no story")
    one_scene = ["--set", "scenes=[Actor1 walks right.]"]
    words = ["generate", "more", "-", "--out", "films", *one_scene, *QUICK]
    result = CliRunner().invoke(app, words, input=text)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == ["films/a.mp4", "films/b.mp4", "films/first-snow.mp4"]
    assert films(folder) == ["a.mp4", "b.mp4", "first-snow.mp4"]


def test_prompts_make_a_film_without_a_recipe(m2d: Run, folder: Path, tiny_folder: Path) -> None:
    prompts = ["Actor1 (round red body, no hat) walks right.", "Actor1 jumps."]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    result = m2d("generate", *words, "--model", str(tiny_folder), "--set", "setting=beach at noon", *QUICK)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "actor1-walks-right.mp4\n"
    assert [scene.prompt for scene in read_run(folder / "actor1-walks-right.mp4").provenance.scenes] == [
        "Beach at noon. Actor1 (round red body, no hat) walks right.",
        "Beach at noon. Actor1 (round red body, no hat) jumps.",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "STORY, --prompt, --from: none given"),
        (["story.yaml", "-p", "x"], "STORY, --prompt, --from: STORY and --prompt given"),
        (
            ["-p", "Actor1 (round waves."],
            "--prompt: a bracket has no partner; describe Actor1 as in",
        ),
        (["-p", "Actor1 waves."], "--prompt: Actor1 is not described; describe it once: Actor1 (tall"),
        (["-p", "A ball.", "-p", ""], "--prompt 2: is empty"),
        (["-p", "A \udcff cat"], "--prompt 1: is not text"),
        (["-p", "\u3000\u200b"], "--prompt 1: holds U+200B, which shows nothing"),
        (["story.yaml", "--seeds", "1-3", "--seed", "4"], "--seeds, --seed: both given"),
        (["story.yaml", "--seeds", "1-3", "--set", "scenes=[{prompt: a, seed: 1}]"], "a seed of its own"),
        (["story.yaml", "none.yaml", "wrong.yaml"], "none.yaml: no such file"),
        (
            ["story.yaml", "none.yaml", "wrong.yaml"],
            "wrong.yaml:1:1: titel: unknown key; did you mean title?",
        ),
        (["story.yaml", "copy.yaml"], "first-snow.mp4: would be the film of two stories"),
        (["story.yaml", "copy.yaml", "-o", "x.mp4"], "--out: x.mp4: several films need a folder"),
        (["empty"], "empty: holds no recipe"),
        (["-", "-"], "STORY -: given twice; stdin"),
        (["story.yaml", "story.yaml", "-o", "films"], "STORY story.yaml: given twice; name each story once"),
        (["story.yaml", "-o", ""], "-o: is empty"),
        (["story.yaml", "--out="], "--out: is empty"),
        ([""], "an argument: is empty"),
        (["x" * 300], "cannot be read: File name too long"),
        (["story.yaml", "-o", f"{'x' * 300}.mp4"], "could not be written: File name too long"),
    ],
)
def test_what_cannot_be_made_is_refused_before_any_work(
    m2d: Run, folder: Path, words: list[str], message: str
) -> None:
    shutil.copy("story.yaml", "copy.yaml")
    Path("wrong.yaml").write_text("titel: A\n")
    Path("empty").mkdir()
    before = sorted(folder.rglob("*"))
    result = m2d("generate", *words)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_film_that_fails_does_not_stop_the_others(m2d: Run, folder: Path) -> None:
    # An unfinished run of another story is in the way of the first film.
    journal = folder / "first-snow-seed-1.m2d" / "journal"
    journal.mkdir(parents=True)
    (journal / "journal.json").write_text("{}")
    one_scene = ["--set", "scenes=[Actor1 walks right.]"]
    result = m2d("generate", "story.yaml", "--seeds", "1,2", "--json", *one_scene, *QUICK)
    document = json.loads(result.stdout)
    assert [film["film"] for film in document["films"]] == ["first-snow-seed-2.mp4"]
    assert [failed["film"] for failed in document["failed"]] == ["first-snow-seed-1.mp4"]
    assert result.exit_code == document["failed"][0]["error"]["exit_code"] == 2
    assert result.stderr.endswith("error: 1 of 2 films were not made\n")


@pytest.mark.parametrize(
    ("text", "numbers"), [("3", (3,)), ("1-4", (1, 2, 3, 4)), ("7, 1-2", (7, 1, 2)), ("0-0", (0,))]
)
def test_seeds_are_numbers_and_ranges(text: str, numbers: tuple[int, ...]) -> None:
    assert parse_numbers(text, option="--seeds") == numbers


@pytest.mark.parametrize("text", ["x", "1-", "-3", "3-1", "1,,2", "1-2,2", "0-5000", "1.5"])
def test_other_texts_are_no_seeds(text: str) -> None:
    with pytest.raises(InputError, match=r"^--seeds"):
        parse_numbers(text, option="--seeds")


@pytest.mark.parametrize("digits", [19, 30, 5000])
def test_a_seed_that_is_too_large_is_told_the_largest(digits: int) -> None:
    with pytest.raises(InputError, match=r"^--seeds '9.*: the largest number is 9223372036854775807$"):
        parse_numbers("9" * digits, option="--seeds")

"""`m2d reroll` from the command line to the changed film, on a tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.video.provenance import Provenance
from tests.m2d.cli.conftest import Run
from tests.m2d.tasks.studio import write_plain

FILM = "first-snow.mp4"


@pytest.fixture
def film(m2d: Run, folder: Path, tiny_folder: Path) -> Path:
    """`first-snow.mp4` of three scenes in the working folder, and a link `tiny` to its model."""
    recipe = (folder / "story.yaml").read_text()
    recipe = recipe.replace("upscale: 2", "num_frames: 5, height: 16, width: 16, upscale: 2")
    (folder / "story.yaml").write_text(recipe)
    (folder / "tiny").symlink_to(tiny_folder)
    result = m2d("generate", "story.yaml", "--quiet")
    assert result.exit_code == 0, result.stderr
    return folder / FILM


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def provenance_of(path: Path) -> Provenance:
    provenance = read_film(path).provenance
    assert provenance is not None
    return provenance


def test_a_scene_is_made_anew_and_the_others_are_what_they_were(m2d: Run, folder: Path, film: Path) -> None:
    before = film.read_bytes()
    result = m2d("reroll", FILM, "--scene", "2", "--model", "tiny")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "first-snow-rerolled.mp4\n"
    old, new = provenance_of(film), provenance_of(folder / "first-snow-rerolled.mp4")
    pairs = zip(old.scenes, new.scenes, strict=True)
    assert [a.frames_sha256 == b.frames_sha256 for a, b in pairs] == [True, False, True]
    assert new.scenes[1].prompt == old.scenes[1].prompt
    assert [scene.seed for scene in new.scenes] == [7, 9, 7]
    assert film.read_bytes() == before


@pytest.mark.usefixtures("film")
def test_several_scenes_get_the_prompts_in_their_order(m2d: Run, folder: Path) -> None:
    prompts = ["Actor2 jumps.", "Actor1 (round red body, wool cap) sits."]
    words = ["--scene", "3,1", "-p", prompts[0], "-p", prompts[1]]
    flags = ["--seed", "40", "--model", "tiny", "--json", "--quiet", "--out", "x.mp4"]
    result = m2d("reroll", FILM, *words, *flags)
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert (told["made_scenes"], told["num_scenes"], told["film"]) == ([1, 3], 3, "x.mp4")
    assert [scene["seed"] for scene in told["scenes"]] == [40, 8, 40]
    assert [scene.prompt for scene in provenance_of(folder / "x.mp4").scenes] == [
        "Snowfield at dusk. Actor1 (round red body, wool cap) sits.",
        "Snowfield at dusk. Actor2 (tall blue body, no hat) waves.",
        "Snowfield at dusk. Actor2 (tall blue body, no hat) jumps.",
    ]


BAD_FLAGS = {
    "scene 0": (["--scene", "0"], "--scene: 0; first-snow.mp4 has scenes 1 to 3"),
    "a scene too many": (["--scene", "3-5"], "--scene: 4, 5; first-snow.mp4 has"),
    "a negative scene": (["--scene", "-1"], "--scene '-1': use numbers and ranges"),
    "a scene twice": (["--scene", "1-2", "--scene", "2"], "--scene '1-2,2': names a number twice"),
    "an empty prompt": (["--scene", "2", "-p", ""], "--prompt: is empty"),
    "a prompt too many": (["--scene", "2", "-p", "a", "-p", "b"], "--prompt: 2 prompts for 1 scene;"),
    "a negative seed": (["--scene", "2", "--seed", "-4"], "--seed: must be at least 0, got -4"),
    "a seed too large": (["--scene", "2", "--seed", str(2**63)], "--seed: must be at most"),
    "its own name": (["--scene", "2", "--out", FILM], "first-snow.mp4: exists already"),
    "somebody unknown": (["--scene", "2", "-p", "Actor9 waves."], "--prompt: Actor9 is not in the"),
    "nothing to resume": (["--scene", "2", "--resume"], "nothing to resume"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
@pytest.mark.usefixtures("film")
def test_a_bad_flag_is_refused_in_one_line_and_nothing_is_written(case: str, m2d: Run, folder: Path) -> None:
    words, told = BAD_FLAGS[case]
    before = names(folder)
    result = m2d("reroll", FILM, *words, "--model", "tiny", "--quiet")
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert names(folder) == before


@pytest.mark.parametrize("words", [[], ["--scene", "two"]])
@pytest.mark.usefixtures("film")
def test_without_a_number_the_command_line_is_wrong(words: list[str], m2d: Run) -> None:
    result = m2d("reroll", FILM, *words)
    assert result.exit_code == 2
    assert "--scene" in result.stderr


def test_a_film_of_somebody_else_has_no_scenes_to_go_back_to(m2d: Run, folder: Path) -> None:
    write_plain(folder / "theirs.mp4", np.zeros((5, 16, 16, 3), np.uint8))
    result = m2d("reroll", "theirs.mp4", "--scene", "1", "--quiet")
    assert result.exit_code == 2
    assert "theirs.mp4: was not made by m2d; it can be extended" in result.stderr


def test_help_says_what_stays(m2d: Run) -> None:
    told = " ".join(m2d("reroll", "--help").stdout.split())
    assert "the frames of all other scenes stay identical" in told
    assert "FILM itself is never changed, unless --out names it and --force is given." in told
    assert "Scenes to regenerate, counted from 1, such as 2 or 1,3-5." in told
    assert "New seed; by default the scene's seed plus 1." in told


@pytest.mark.usefixtures("film")
def test_candidates_of_a_scene_are_ranked_and_resume_keeps_what_is_complete(m2d: Run, folder: Path) -> None:
    words = ["reroll", FILM, "--scene", "2", "--model", "tiny", "--candidates", "2"]
    # The model is none of the embedded ones: networks would have to judge it.
    result = m2d(*words)
    assert result.exit_code == 2
    assert "need efficientnet i3d minilm" in result.stderr
    assert not list(folder.glob("*-rerolled-*"))

    words += ["--judge", "smoothness", "--json"]
    result = m2d(*words)
    assert result.exit_code == 0, result.stderr
    kept = json.loads((folder / "first-snow-rerolled-candidates.json").read_text())
    assert sorted(each["seed"] for each in kept["candidates"]) == [9, 10]
    scores = [each["scores"]["smoothness"] for each in kept["candidates"]]
    assert scores == sorted(scores, reverse=True)
    document = json.loads(result.stdout)
    assert document["best"][0]["film"] == kept["candidates"][0]["film"]
    assert document["sheets"] == ["first-snow-rerolled-seeds.png"]
    new = provenance_of(folder / "first-snow-rerolled-seed-10.mp4")
    assert [scene.seed for scene in new.scenes] == [7, 10, 7]

    assert m2d(*words).exit_code == 2
    (folder / "first-snow-rerolled-seed-10.mp4").unlink()
    shutil.rmtree(folder / "first-snow-rerolled-seed-10.m2d")
    result = m2d(*words, "--resume")
    assert result.exit_code == 0, result.stderr
    made = {film["film"]: film["made_scenes"] for film in json.loads(result.stdout)["films"]}
    assert made == {"first-snow-rerolled-seed-9.mp4": [], "first-snow-rerolled-seed-10.mp4": [2]}

"""`m2d inspect`: films of ours and of others, and files that are none."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from m2d.joins import Join
from m2d.video.write import write_film
from tests.m2d.cli.conftest import Run
from tests.m2d.video.grown_films import FOOTAGE, grown, write_grown


@pytest.fixture
def film(m2d: Run, folder: Path) -> Path:
    assert m2d("generate", "story.yaml", "--steps", "1").exit_code == 0
    return folder / "first-snow.mp4"


def test_origin_prompts_and_digests_are_shown_and_latents_checked(m2d: Run, film: Path) -> None:
    shown = m2d("inspect", "first-snow.mp4").stdout
    assert "all 27 frames decode; provenance intact" in shown
    assert "pictures  unchanged since they were written" in shown
    assert "prompt    Snowfield at dusk. Actor2 (tall blue body, no hat) waves." in shown
    assert re.search(r"^  2 +1.1 to 2.2 s +9 +cut +8 +1 generate", shown, re.MULTILINE)
    assert "beside the film; the film was decoded from them" in shown

    told = json.loads(m2d("inspect", "first-snow.mp4", "--json").stdout)
    assert f"sha256 {told['frames_sha256'][:16]}, as the model made them" in shown
    assert told["latents"] == {"state": "present", "problem": ""}
    assert told["pictures"] == {"state": "as written", "changed_scenes": []}
    assert [chapter["title"][:2] for chapter in told["chapters"]] == ["1.", "2.", "3."]

    latents = film.with_suffix(".m2d") / "latents.safetensors"
    latents.write_bytes(latents.read_bytes()[:-1])
    assert json.loads(m2d("inspect", "first-snow.mp4", "--json").stdout)["latents"]["state"] == "unusable"


def test_a_run_folder_of_another_film_is_not_believed(m2d: Run, film: Path) -> None:
    assert m2d("generate", "story.yaml", "--seed", "5", "--out", "other.mp4").exit_code == 0
    film.write_bytes((film.parent / "other.mp4").read_bytes())
    told = json.loads(m2d("inspect", "first-snow.mp4", "--json").stdout)
    assert told["latents"]["state"] == "unusable"
    assert "belongs to another run" in told["latents"]["problem"]


def test_somebody_elses_film_has_no_origin_but_frames(m2d: Run, folder: Path) -> None:
    frames_PHWC = np.zeros((5, 32, 32, 3), np.uint8)
    arguments = {"fps": 8, "upscale": 1, "provenance": None, "force": False}
    write_film(folder / "x.mp4", [frames_PHWC], title="[/] theirs", scene_prompts=["[link=x]"], **arguments)
    result = m2d("inspect", "x.mp4")
    assert result.exit_code == 0
    assert "5 frames" in result.stdout
    assert "[link=x]" in result.stdout
    assert "unknown: no provenance" in result.stdout


def test_a_grown_film_shows_its_scenes_and_its_lineage(m2d: Run, folder: Path) -> None:
    joins = {3: Join(kind="crossfade", num_frames=2), 4: Join(kind="continue")}
    write_grown(folder / "walk.mp4", *grown(joins=joins))
    shown = " ".join(m2d("inspect", "walk.mp4").stdout.split())
    assert "scene shown frames join seed made by colour jump 1 0.0 to 0.6 s 5 - 40 1 generate -" in shown
    assert re.search(r"2 0\.6 to 1\.2 s 5 cut 41 3 reroll \d+\.\d", shown)
    # Three frames of its own: the blended ones open the next scene.
    assert re.search(r"3 1\.2 to 1\.6 s 5 cut 42 1 generate", shown)
    assert re.search(
        r"4 1\.6 to 2\.2 s 5 crossfade 2 43 2 extend .* 5 2\.2 to 2\.9 s 5 continue 44 2 extend", shown
    )
    assert "run 1 generate: scenes 1-3 together; scene 2 since replaced model builtin:puppet" in shown
    # What is the same as in the run before is not said again.
    assert "run 2 extend: scene 4 from scenes 2-3; scene 5 from scenes 3-4 run 3 reroll: scene 2" in shown
    assert "hint scene 4 was made with an older version of scene 2" in shown
    assert "negative a second sun" in shown


def test_json_carries_scenes_and_lineage_in_numbers_that_count_from_1(m2d: Run, folder: Path) -> None:
    write_grown(folder / "walk.mp4", *grown())
    told = json.loads(m2d("inspect", "walk.mp4", "--json").stdout)
    assert [(scene["number"], scene["run"], scene["kind"]) for scene in told["scenes"]] == [
        (1, 1, "generate"),
        (2, 3, "reroll"),
        (3, 1, "generate"),
        (4, 2, "extend"),
        (5, 2, "extend"),
    ]
    fourth = told["scenes"][3]
    assert (fourth["context"], fourth["outdated_context"], fourth["seed"]) == ([2, 3], [2], 43)
    assert fourth["stale"] == ["made with an older version of scene 2"]
    assert (fourth["start_s"], fourth["end_s"]) == (1.875, 2.5)
    assert told["scenes"][0]["made_together_with"] == [2, 3]
    assert [(run["run"], run["made"], run["replaced"]) for run in told["lineage"]] == [
        (1, [1, 2, 3], [2]),
        (2, [4, 5], []),
        (3, [2], []),
    ]
    assert told["lineage"][1]["means"]["mask"] == "mask2dit"
    (hint,) = told["hints"]
    assert hint.endswith("re-roll it: m2d reroll FILM --scene 4")
    assert told["timings_s"]["denoise"] == 14.6


def test_scenes_of_another_film_have_no_seed_and_tell_where_they_are_from(m2d: Run, folder: Path) -> None:
    film = grown((FOOTAGE, ("extend", [((0, 1, 2), (2,))])), (0, 0, 1))
    write_grown(folder / "holiday.mp4", *film, has_run_folder=False)
    shown = " ".join(m2d("inspect", "holiday.mp4").stdout.split())
    assert "1 0.0 to 0.6 s 5 - - 1 footage -" in shown
    assert "run 1 footage: scenes 1-2 taken from holiday.mov run 2 extend: scene 3 from scenes 1-2" in shown
    assert "latents not beside the film" in shown


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing.mp4", None), ("text.mp4", b"hello"), ("list.mp4", b"ffconcat version 1.0\nfile a.mp4\n")],
)
def test_what_is_no_film_is_refused(name: str, content: bytes | None, m2d: Run, folder: Path) -> None:
    if content is not None:
        (folder / name).write_bytes(content)
    result = m2d("inspect", name)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {name}: ")
    assert result.stdout == ""

"""`m2d extend` from the command line to the longer film, on a tiny model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from tests.m2d.cli.conftest import Run

FILM, LONGER = "first-snow.mp4", "first-snow-extended.mp4"
HOSTILE = ["a cat [/] [bold red]x", "[link=https://example.org]x[/link]", ":cat: \\[red] {braces} %s $(x)"]


@pytest.fixture
def film(m2d: Run, folder: Path, tiny_folder: Path) -> Path:
    """`first-snow.mp4` of two scenes in the working folder, and a link `tiny` to its model."""
    recipe = (folder / "story.yaml").read_text().replace("  - Actor1 jumps.\n", "")
    recipe = recipe.replace("upscale: 2", "num_frames: 5, height: 16, width: 16, upscale: 2")
    (folder / "story.yaml").write_text(recipe)
    (folder / "tiny").symlink_to(tiny_folder)
    result = m2d("generate", "story.yaml", "--quiet")
    assert result.exit_code == 0, result.stderr
    return folder / FILM


def snapshot(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tiny" not in path.parts
    }


@pytest.mark.usefixtures("film")
def test_a_film_goes_on_and_stays_as_it_is(m2d: Run, folder: Path) -> None:
    before = snapshot(folder)
    result = m2d("extend", FILM, "--prompt", "Actor1 jumps.", "-p", "Actor2 waves.", "--model", "tiny")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{LONGER}\n"
    assert "\x1b" not in result.output
    assert [line for line in result.stderr.splitlines() if line.startswith(("error", "warning"))] == []
    assert "20 frames, 2.5 s, 32x32" in result.stderr
    assert " of 4, tiny with eager on cpu" in result.stderr
    chapters = [chapter.title for chapter in read_film(folder / LONGER).chapters]
    assert chapters[2:] == [
        "3. Snowfield at dusk. Actor1 (round red body, wool cap) jumps.",
        "4. Snowfield at dusk. Actor2 (tall blue body, no hat) waves.",
    ]
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before


@pytest.mark.usefixtures("film")
def test_the_json_result_tells_what_was_made(m2d: Run, folder: Path) -> None:
    flags = ["--join", "crossfade:2", "--frames", "9", "--seed", "99", "--steps", "1", "--json", "--quiet"]
    result = m2d("extend", FILM, "-p", "Actor1 jumps.", "--model", "tiny", "--out", "x.mp4", *flags)
    assert (result.exit_code, result.stderr) == (0, "")
    told = json.loads(result.stdout)
    assert (told["film"], told["run_folder"], told["num_scenes"]) == ("x.mp4", "x.m2d", 3)
    assert (told["made_scenes"], told["num_frames"], told["fps"], told["width"]) == ([3], 17, 8, 32)
    assert (told["notes"], told["warnings"]) == ([], [])
    assert {"denoise", "decode", "write"} <= told["timings_s"].keys()
    assert told["size_bytes"] == (folder / "x.mp4").stat().st_size
    provenance = read_film(folder / "x.mp4").provenance
    assert provenance is not None
    assert told["frames_sha256"] == provenance.frames_sha256
    assert [scene["number"] for scene in told["scenes"]] == [1, 2, 3]
    assert told["scenes"][2] == {
        "number": 3,
        "seed": 99,
        "num_frames": 9,
        "frames_sha256": provenance.scenes[2].frames_sha256,
        "join": "crossfade",
        "colour_jump": provenance.scenes[2].colour_jump,
    }
    assert provenance.last_run.parameters["num_inference_steps"] == 1


@pytest.mark.usefixtures("film")
def test_only_new_scenes_are_counted_from_one(m2d: Run, folder: Path) -> None:
    flags = ["--only-new", "--json", "--quiet", "--preview", "--save-previews"]
    result = m2d("extend", FILM, "-p", "Actor1 jumps.", "--model", "tiny", "--out", "x.mp4", *flags)
    told = json.loads(result.stdout)
    assert (told["num_scenes"], told["made_scenes"], told["num_frames"]) == (1, [1], 5)
    assert told["scenes"][0]["number"] == 1
    # As the draft and every preview are: of the whole film's third scene among the two before it.
    assert sorted(path.name for path in (folder / "x.m2d" / "previews").iterdir()) == ["scenes-1-3"]
    assert (folder / "x.m2d" / "draft.png").exists()


@pytest.mark.usefixtures("film")
def test_in_place_needs_both_words(m2d: Run, folder: Path) -> None:
    before = snapshot(folder)
    words = ["extend", FILM, "-p", "Actor1 jumps.", "--model", "tiny", "--quiet", "--out", FILM]
    refused = m2d(*words)
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {FILM}: exists already; ")
    assert snapshot(folder) == before
    assert m2d(*words, "--force").exit_code == 0
    assert len(read_film(folder / FILM).chapters) == 3
    assert m2d("inspect", FILM).exit_code == 0


@pytest.mark.usefixtures("film")
def test_markup_in_prompts_is_just_text(m2d: Run) -> None:
    words = [word for prompt in HOSTILE for word in ("--prompt", prompt)]
    result = m2d("extend", FILM, *words, "--model", "tiny")
    assert result.exit_code == 0, result.stderr
    inspected = m2d("inspect", LONGER)
    assert all(prompt in inspected.stdout for prompt in HOSTILE)


def film_holiday(path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        for level in range(20):
            frame_HWC = np.full((32, 48, 3), 10 * level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())


def test_any_other_film_goes_on_and_what_was_done_to_it_is_said(
    m2d: Run, folder: Path, tiny_folder: Path
) -> None:
    film_holiday(folder / "holiday.mp4")
    (folder / "tiny").symlink_to(tiny_folder)
    before = snapshot(folder)
    words = ["--cuts", "1.25", "--context-prompt", "a day", "--model", "tiny", "--steps", "1"]
    result = m2d("extend", "holiday.mp4", "-p", "a night", *words)
    assert result.exit_code == 0, result.stderr
    size = "new scenes are scaled from 32x32 to 48x32 pixels, with black bars"
    fitted = f"{size}, and shown at 8 frames per second"
    for note in ("2 scenes given: 0.0-1.2 s, 1.2-2.5 s", fitted):
        assert note in result.stderr.splitlines()
    converted = m2d("extend", "holiday.mp4", "-p", "a night", *words, "--fit", "model", "--out", "small.mp4")
    assert "cropped 8 pixels left and right" in converted.stderr.splitlines()
    told = json.loads(m2d("inspect", "holiday-extended.mp4", "--json").stdout)
    assert [scene["kind"] for scene in told["scenes"]] == ["footage", "footage", "extend"]
    after = snapshot(folder)
    assert {name: after[name] for name in before} == before


BAD_FLAGS = {
    "no prompt": ([], "--prompt: missing; give one for each new scene"),
    "an empty prompt": (["-p", "a", "-p", " "], "--prompt 2: is empty"),
    "an escape": (["-p", "a\x1b[31m"], r"--prompt: holds the forbidden character U+001B; remove it"),
    "an unknown join": (["-p", "a", "--join", "wipe"], "--join 'wipe': use cut, continue, or crossfade:4"),
    "a join of no number": (["-p", "a", "--join", "crossfade:x"], "--join 'crossfade:x': use"),
    "a join of any digits": (["-p", "a", "--join", "crossfade:\u0664"], "use cut, continue, or crossfade:4"),
    "a crossfade of nothing": (["-p", "a", "--join", "crossfade:0"], "--join: expected a number of frames"),
    "a crossfade too long": (["-p", "a", "--join", "crossfade:5"], "two scenes have room for 4"),
    "cuts of nothing": (["-p", "a", "--cuts", ""], "--cuts '': give seconds, separated by commas"),
    "cuts of words": (["-p", "a", "--cuts", "1,two"], "--cuts '1,two': give seconds"),
    "cuts of a film with scenes": (["-p", "a", "--cuts", "1"], "made by m2d and knows its scenes"),
    "an unknown fit": (["-p", "a", "--fit", "wide"], "--fit 'wide': use film or model"),
    "a fit of a film with scenes": (["-p", "a", "--fit", "model"], "--fit: model; the film was made by m2d"),
    "frames not 4k+1": (["-p", "a", "--frames", "10"], "--frames: 10 is not 4k+1; use 9 or 13"),
    "no steps": (["-p", "a", "--steps", "0"], "--steps: must be at least 1, got 0"),
    "a negative seed": (["-p", "a", "--seed", "-1"], "--seed: must be at least 0, got -1"),
    "an unknown dtype": (["-p", "a", "--dtype", "int8"], "--dtype"),
    "an unknown device": (["-p", "a", "--device", "tpu"], "--device: 'tpu' is not known"),
    "an unknown backend": (["-p", "a", "--backend", "magic"], "magic"),
    "an output that is no MP4": (["-p", "a", "--out", "x.gif"], "--out: 'x.gif' does not end in .mp4"),
    "an output that is nothing": (["-p", "a", "--out", ""], "--out: is empty; give a value"),
    "a folder that is missing": (["-p", "a", "--out", "no/x.mp4"], "the folder no does not exist"),
    "a folder's name": (["-p", "a", "--out", "folder.mp4"], "not a file but a folder"),
    "nothing to resume": (["--resume"], "nothing to resume"),
    "a model that is missing": (["-p", "a", "--model", "nowhere"], "'nowhere': there is no such folder"),
    "another model": (["-p", "a", "--model", "builtin:puppet"], "with other weights than builtin:puppet"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
@pytest.mark.usefixtures("film")
def test_a_bad_flag_is_refused_in_one_line_and_nothing_is_written(case: str, m2d: Run, folder: Path) -> None:
    words, told = BAD_FLAGS[case]
    (folder / "folder.mp4").mkdir()
    before = snapshot(folder)
    model = [] if "--model" in words else ["--model", "tiny"]
    result = m2d("extend", FILM, *words, *model, "--quiet")
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert told in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.isprintable()
    assert result.stdout == ""
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere.mp4", "nowhere.mp4: does not exist"),
        (".", ".: is a folder"),
        ("story.yaml", "story.yaml: is not a film"),
        ("\x1b[31m[/]no.mp4", "does not exist"),
        ("x" * 300 + ".mp4", "cannot be read: File name too long"),
    ],
)
def test_what_is_no_film_is_refused_in_one_line(name: str, told: str, m2d: Run, folder: Path) -> None:
    before = snapshot(folder)
    result = m2d("extend", name, "-p", "a", "--quiet")
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert "\x1b" not in result.stderr
    assert snapshot(folder) == before


@pytest.mark.usefixtures("film")
def test_a_device_that_is_not_here_is_exit_code_3(m2d: Run, folder: Path) -> None:
    before = snapshot(folder)
    result = m2d("extend", FILM, "-p", "a", "--model", "tiny", "--device", "cuda:7", "--quiet")
    assert result.exit_code == 3
    assert "cuda:7" in result.stderr
    assert snapshot(folder) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.usefixtures("film")
def test_a_film_in_a_folder_that_cannot_be_written_is_refused(m2d: Run, folder: Path) -> None:
    folder.chmod(0o500)
    result = m2d("extend", FILM, "-p", "a", "--model", "tiny")
    folder.chmod(0o700)
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to send")
@pytest.mark.usefixtures("film")
@pytest.mark.long
def test_sigterm_leaves_a_run_that_resume_finishes_without_being_told_again(m2d: Run, folder: Path) -> None:
    asked = ["extend", FILM, "--model", "tiny", "-p", "Actor1 jumps.", "--steps", "300", "--frames", "9"]
    straight = m2d(*asked, "--out", "straight.mp4", "--quiet")
    assert straight.exit_code == 0, straight.stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "m2d.cli.main", *asked], stderr=subprocess.PIPE, text=True, cwd=folder
    )
    while not (folder / "first-snow-extended.m2d" / "journal" / "step.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 75
    assert stderr.splitlines()[-1] == "error: SIGTERM: finished work is kept; resume with --resume"
    assert not (folder / LONGER).exists()
    resumed = m2d("extend", FILM, "--model", "tiny", "--resume")
    assert resumed.exit_code == 0, resumed.stderr
    assert "resuming the unfinished run: window 1 of 1, " in resumed.stderr
    assert (folder / LONGER).read_bytes() == (folder / "straight.mp4").read_bytes()


def test_help_says_what_is_changed_and_what_not(m2d: Run) -> None:
    told = " ".join(m2d("extend", "--help").stdout.split())
    assert "FILM itself is never changed, unless --out names it and --force is given." in told
    options: dict[str, Any] = {
        "--prompt": "Prompt of a new scene; repeat it for more scenes.",
        "--cuts": "Where the scenes of an external video begin, in seconds.",
        "--only-new": "Write only the new scenes.",
        "--resume": "Resume an unfinished run.",
        "--preview": "First draw a contact sheet of a draft.",
        "--save-previews": "Save pictures of the current estimate while denoising.",
        "--join": "cut (default), continue, or crossfade:4 (frames).",
    }
    for name, text in options.items():
        assert name in told
        assert text in told

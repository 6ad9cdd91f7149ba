"""`m2d generate` from the command line to the film, on a tiny model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.decoded_film import read_film
from m2d.video.run_folder import read_run
from tests.m2d.cli.conftest import Run
from tests.m2d.video.small_clips import ffmpeg


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def replace(folder: Path, old: str, new: str) -> None:
    recipe = folder / "story.yaml"
    text = recipe.read_text()
    assert old in text
    recipe.write_text(text.replace(old, new))


def test_a_story_becomes_a_film_with_chapters_and_a_run_folder(m2d: Run, folder: Path) -> None:
    result = m2d("generate", "story.yaml")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == "first-snow.mp4\n"
    # No terminal here: progress is plain lines.
    assert "\x1b" not in result.output
    assert "\r" not in result.output
    assert "denoise ..." in result.stderr.splitlines()
    film = read_film(folder / "first-snow.mp4")
    assert film.frames_PHWC.shape == (27, 32, 32, 3)
    assert [chapter.title for chapter in film.chapters] == [
        "1. Snowfield at dusk. Actor1 (round red body, wool cap) walks right.",
        "2. Snowfield at dusk. Actor2 (tall blue body, no hat) waves.",
        "3. Snowfield at dusk. Actor1 (round red body, wool cap) jumps.",
    ]
    assert film.provenance is not None
    assert [scene.seed for scene in film.provenance.scenes] == [7, 8, 7]
    assert read_run(folder / "first-snow.mp4").provenance == film.provenance
    assert names(folder) == [
        "first-snow.m2d",
        "first-snow.m2d/latents.safetensors",
        "first-snow.m2d/run.json",
        "first-snow.m2d/sheet.png",
        "first-snow.mp4",
        "story.yaml",
    ]


def test_the_same_recipe_and_seed_give_the_same_film_byte_for_byte(m2d: Run, folder: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        assert m2d("generate", "story.yaml", "--out", name).exit_code == 0
    assert (folder / "a.mp4").read_bytes() == (folder / "b.mp4").read_bytes()


def test_flags_override_the_recipe_and_the_json_result_tells_what_was_written(m2d: Run, folder: Path) -> None:
    flags = ["--steps", "1", "--seed", "99", "--dtype", "bfloat16"]
    told = json.loads(m2d("generate", "story.yaml", "--json", *flags).stdout)
    assert (told["film"], told["num_frames"], told["width"], told["fps"]) == ("first-snow.mp4", 27, 64, 8)
    assert told["size_bytes"] == (folder / "first-snow.mp4").stat().st_size
    assert {"denoise", "decode", "write"} <= told["timings_s"].keys()
    provenance = read_film(folder / "first-snow.mp4").provenance
    assert provenance is not None
    assert provenance.frames_sha256 == told["frames_sha256"]
    assert provenance.last_run.parameters["num_inference_steps"] == 1
    assert provenance.last_run.parameters["dtype"] == "bfloat16"
    assert [scene.seed for scene in provenance.scenes] == [99, 8, 99]


def test_quiet_says_the_path_alone_and_the_film_holds_no_path(m2d: Run, folder: Path) -> None:
    result = m2d("generate", "story.yaml", "--quiet")
    assert (result.stdout, result.stderr) == ("first-snow.mp4\n", "")
    record = (folder / "first-snow.m2d" / "run.json").read_text()
    film = (folder / "first-snow.mp4").read_bytes()
    assert str(folder) not in record
    assert str(folder).encode() not in film
    assert b"/tiny" not in film


def test_an_existing_film_is_refused_and_untouched(m2d: Run, folder: Path) -> None:
    (folder / "first-snow.mp4").write_bytes(b"precious")
    before = names(folder)
    result = m2d("generate", "story.yaml")
    assert result.exit_code == 2
    assert "first-snow.mp4: exists already" in result.stderr
    assert (folder / "first-snow.mp4").read_bytes() == b"precious"
    assert names(folder) == before


def test_force_replaces_an_existing_film_and_its_run(m2d: Run, folder: Path) -> None:
    (folder / "first-snow.mp4").write_bytes(b"old")
    (folder / "first-snow.m2d").mkdir()
    (folder / "first-snow.m2d" / "run.json").write_bytes(b"old")
    result = m2d("generate", "story.yaml", "--force")
    assert result.exit_code == 0
    assert read_run(folder / "first-snow.mp4").provenance == read_film(folder / "first-snow.mp4").provenance


BAD_RECIPES = {
    "an unknown key": ("title:", "titel:", "titel"),
    "a wrong type": ("num_inference_steps: 2", "num_inference_steps: many", "num_inference_steps"),
    "no scenes": ("setting:", "scenes: []\nx_setting:", "scenes"),
    "an actor who is not in the cast": ("Actor1 jumps", "Actor3 jumps", "Actor3"),
    "frames that are not 4k+1": ("upscale: 2", "num_frames: 10, upscale: 2", "use 9 or 13"),
    "a height the model cannot do": ("upscale: 2", "height: 30, upscale: 2", "video.height: 30"),
    "a crossfade with nothing before it": (
        "Actor1 walks right.",
        "{prompt: A., join: {crossfade: 2}}",
        "nothing comes before",
    ),
    "a prompt that is too long": ("Actor1 jumps.", "Actor1 jumps " * 20, "tokens"),
    "an alias": ("Actor1 jumps.", "*other", "alias"),
    "an anchor": ("setting: ", "setting: &here ", "anchor"),
    "a tag": ("title: ", "title: !!python/name:os.system ", "tag"),
    "a duplicate key": ("title:", "title: Twice\ntitle:", "title"),
    "a control character": ("Actor1 jumps.", '"Actor1 \\e[31m jumps."', "character"),
    "a raw control character": ("Actor1 jumps.", "Actor1 \x1b[31m jumps.", "character"),
    "a missing model": ("model: ", "model: /nowhere", "nowhere"),
    "a model address": ("model: ", "model: https://example.org/x #", "local"),
    "an unknown mask": ("title:", "mask: magic\ntitle:", "magic"),
    "an output elsewhere": ("output: first-snow.mp4", "output: ../up.mp4", "output"),
    "not YAML at all": ("title:", "\t{[", "story.yaml"),
}


@pytest.mark.parametrize("command", ["check", "generate"])
@pytest.mark.parametrize("case", BAD_RECIPES)
def test_a_bad_recipe_is_refused_with_its_place_and_nothing_is_written(
    case: str, command: str, m2d: Run, folder: Path
) -> None:
    old, new, told = BAD_RECIPES[case]
    replace(folder, old, new)
    before = names(folder)
    result = m2d(command, "story.yaml")
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert told in result.stderr
    assert all(line.startswith("error: story.yaml:") for line in result.stderr.splitlines())
    assert result.stderr.replace("\n", "").isprintable()
    assert result.stdout == ""
    assert names(folder) == before


BAD_FLAGS = {
    "no steps": (["--steps", "0"], "--steps"),
    "a negative seed": (["--seed", "-1"], "--seed"),
    "an unknown dtype": (["--dtype", "int8"], "--dtype"),
    "an unknown device": (["--device", "tpu"], "--device"),
    "an unknown backend": (["--backend", "magic"], "magic"),
    "a folder that is missing": (["--out", "missing/film.mp4"], "missing"),
    "an output that is no MP4": (["--out", "film.gif"], "film.gif"),
    "a model that is missing": (["--model", "nowhere"], "nowhere"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_a_bad_flag_is_refused_and_nothing_is_written(case: str, m2d: Run, folder: Path) -> None:
    words, told = BAD_FLAGS[case]
    before = names(folder)
    result = m2d("generate", "story.yaml", *words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert all(line.startswith("error: ") for line in result.stderr.splitlines())
    assert names(folder) == before


def test_a_device_that_is_not_here_is_exit_code_3(m2d: Run, folder: Path) -> None:
    before = names(folder)
    result = m2d("generate", "story.yaml", "--device", "cuda:7", "--quiet")
    assert result.exit_code == 3
    assert "cuda:7" in result.stderr
    assert names(folder) == before


def test_a_half_written_model_folder_is_refused_file_by_file(
    m2d: Run, folder: Path, tiny_folder: Path
) -> None:
    model = folder / "half"
    shutil.copytree(tiny_folder, model)
    (model / "vae" / "config.json").unlink()
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    replace(folder, str(tiny_folder), "half")
    before = names(folder)
    result = m2d("generate", "story.yaml")
    assert result.exit_code == 2
    assert "config.json" in result.stderr
    assert "truncated" in result.stderr
    assert result.stderr.count("error: story.yaml:2:8: model:") == 2
    assert names(folder) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_refused(m2d: Run, folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    result = m2d("generate", "story.yaml", "--out", "locked/film.mp4")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_markup_in_prompts_is_just_text(m2d: Run, folder: Path) -> None:
    prompts = ["a cat [/] [bold red]x", "[link=https://example.org]x[/link]", ":cat: \\[red] {braces} %s"]
    for old, prompt in zip(("Actor1 walks right.", "Actor2 waves.", "Actor1 jumps."), prompts, strict=True):
        replace(folder, old, json.dumps(prompt))
    checked = m2d("check", "story.yaml")
    assert checked.exit_code == 0, checked.stderr
    assert m2d("generate", "story.yaml", "--quiet", "--steps", "1").exit_code == 0
    inspected = m2d("inspect", "first-snow.mp4")
    for prompt in prompts:
        assert prompt in checked.stdout
        assert prompt in inspected.stdout


def test_a_hostile_file_name_is_printed_harmlessly(m2d: Run) -> None:
    result = m2d("generate", "\x1b[31m[/]no.yaml")
    assert result.exit_code == 2
    assert "\x1b" not in result.stderr


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "m2d.cli.main", "generate", "story.yaml", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    )


def interrupted(process: subprocess.Popen[str]) -> str:
    """Press Ctrl-C. Returns the last line of stderr."""
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=600)
    assert stdout == ""
    assert "Traceback" not in stderr
    return stderr.splitlines()[-1]


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_while_denoising_leaves_a_run_that_resume_finishes_as_if_nothing_had_been(
    m2d: Run, folder: Path
) -> None:
    straight = m2d("generate", "story.yaml", "--steps", "300", "--out", "straight.mp4", "--json")
    process = started(folder, "--steps", "300")
    while not (folder / "first-snow.m2d" / "journal" / "step.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    assert interrupted(process) == "error: SIGINT: finished work is kept; resume with --resume"
    assert process.returncode == 75
    assert not (folder / "first-snow.mp4").exists()
    refused = m2d("generate", "story.yaml", "--steps", "300")
    assert refused.exit_code == 2
    assert "continue it with --resume or discard it with --force" in refused.stderr
    resumed = m2d("generate", "story.yaml", "--steps", "300", "--resume", "--json")
    assert resumed.exit_code == 0, resumed.stderr
    assert json.loads(resumed.stdout)["frames_sha256"] == json.loads(straight.stdout)["frames_sha256"]
    assert (folder / "first-snow.mp4").read_bytes() == (folder / "straight.mp4").read_bytes()
    assert names(folder / "first-snow.m2d") == ["latents.safetensors", "run.json", "sheet.png"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT to send")
def test_ctrl_c_before_the_run_leaves_no_file(folder: Path) -> None:
    before = names(folder)
    process = started(folder)
    assert process.stderr is not None
    assert any(line == "load libraries ...\n" for line in process.stderr)
    assert interrupted(process).startswith("error: stopped")
    assert process.returncode == 130
    assert names(folder) == before


def test_a_film_is_made_again_from_what_it_says_of_itself(m2d: Run, folder: Path, tiny_folder: Path) -> None:
    replace(folder, str(tiny_folder), "tiny")
    (folder / "tiny").symlink_to(tiny_folder)
    assert m2d("generate", "story.yaml", "--quiet").exit_code == 0
    film = (folder / "first-snow.mp4").read_bytes()
    asked = ["generate", "--from", "first-snow.mp4", "--model", "tiny"]
    again = m2d(*asked)
    assert again.exit_code == 0, again.stderr
    assert again.stdout == "first-snow-again.mp4\n"
    assert again.stderr.splitlines()[-1] == "all frames are identical to the original's"
    assert (folder / "first-snow-again.mp4").read_bytes() == film
    # Judged by its record, not by its pictures.
    tags = ("-map_metadata", "0", "-movflags", "use_metadata_tags")
    ffmpeg("-i", folder / "first-snow.mp4", "-vf", "negate", *tags, folder / "edited.mp4")
    edited = m2d("reproduce", "edited.mp4", "--model", "tiny")
    assert edited.stderr.splitlines()[-2:] == [
        "warning: edited.mp4: its pictures are not those of its record: changed or encoded again",
        "all frames are identical to its record's",
    ]
    other = m2d(*asked, "--steps", "1", "--json", "--quiet", "--preview", "--out", "other.mp4")
    assert other.stderr == "warning: scenes 1, 2, 3 have other frames than the original\n"
    assert json.loads(other.stdout)["differing_scenes"] == [1, 2, 3]
    assert (folder / "other.m2d" / "draft.png").exists()
    assert (folder / "first-snow.mp4").read_bytes() == film


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "STORY, --prompt, --from: none given; give stories, or prompts, or a film with --from"),
        (["story.yaml", "--from", "a.mp4"], "STORY, --prompt, --from: STORY and --from given; give stories"),
        (["--from", "nowhere.mp4"], "nowhere.mp4: does not exist; give a video file"),
        (["--from", "story.yaml"], "story.yaml: is not a film that can be read"),
        (["--from", "."], ".: is a folder; give a video file"),
        (["--from", "story.yaml", "--out", "a.gif"], "--out: 'a.gif' does not end in .mp4"),
        (["story.yaml", "--resume"], "first-snow.mp4: nothing to resume: no unfinished run is there"),
    ],
)
def test_there_must_be_something_to_make(words: list[str], told: str, m2d: Run, folder: Path) -> None:
    before = names(folder)
    result = m2d("generate", *words, "--quiet")
    assert result.exit_code == 2
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert names(folder) == before


def test_a_draft_and_previews_lie_in_the_run_folder(m2d: Run, folder: Path) -> None:
    result = m2d("generate", "story.yaml", "--preview", "--save-previews")
    assert result.exit_code == 0, result.stderr
    assert "draft: first-snow.m2d/draft.png" in result.stderr.splitlines()
    assert names(folder / "first-snow.m2d") == [
        "draft.png",
        "latents.safetensors",
        "previews",
        "previews/scenes-1-3",
        "previews/scenes-1-3/step-0001.png",
        "previews/scenes-1-3/step-0002.png",
        "run.json",
        "sheet.png",
    ]


def test_a_negative_prompt_may_say_anything(m2d: Run, folder: Path) -> None:
    replace(folder, "seed: 7", 'seed: 7, negative_prompt: "rain, /home of the sun"')
    result = m2d("generate", "story.yaml", "--quiet", "--steps", "1")
    assert result.exit_code == 0, result.stderr
    provenance = read_film(folder / "first-snow.mp4").provenance
    assert provenance is not None
    assert provenance.scenes[0].negative_prompt == "rain, /home of the sun"


def test_help_names_drafts_previews_and_resuming(m2d: Run) -> None:
    told = " ".join(m2d("generate", "--help").stdout.split())
    for text in (
        "Same as `m2d reproduce FILM`.",
        "First draw a contact sheet of a draft.",
        "Save pictures of the current estimate while denoising.",
        "Resume an unfinished run.",
    ):
        assert text in told

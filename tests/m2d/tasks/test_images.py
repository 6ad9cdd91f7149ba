"""`image` in recipes: the picture that a scene starts from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from m2d.cli.main import app
from m2d.tasks.models import make_random
from tests.m2d.tasks.studio import latents_of

STORY = """\
title: Two shores
model: {model}
{head}
scenes:
  - {{prompt: a red boat{first}}}
  - {{prompt: a blue boat{second}}}
sampling: {{num_inference_steps: 1, guidance_scale: 1.0}}
video: {{num_frames: 9, height: 48, width: 80}}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name in ("cogvideox-5b", "cogvideox-5b-i2v"):
        make_random(name, folder / name, is_tiny=True)
    return folder


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def write(folder: Path, model: Path, *, head: str = "", first: str = "", second: str = "") -> str:
    (folder / "pictures").mkdir(exist_ok=True)
    for name, level in (("red", 200), ("blue", 50)):
        Image.fromarray(np.full((100, 90, 3), level, np.uint8)).save(folder / "pictures" / f"{name}.png")
    Image.new("1", (8193, 1)).save(folder / "pictures" / "wide.png")
    noise = np.random.Generator(np.random.Philox(key=[1, 0])).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "pictures" / "noise.png")
    whole = (folder / "pictures" / "noise.png").read_bytes()
    (folder / "pictures" / "cut-off.png").write_bytes(whole[: len(whole) // 2])
    path = folder / "story.yaml"
    path.write_text(STORY.format(model=model, head=head, first=first, second=second))
    return str(path)


def said(result: Result) -> str:
    return " ".join(result.stderr.split())


def test_every_scene_starts_from_its_picture_and_the_record_names_no_folder(
    models: Path, tmp_path: Path
) -> None:
    i2v = models / "cogvideox-5b-i2v"
    digests = []
    for picture in ("red", "blue"):
        story = write(tmp_path, i2v, head=f"image: pictures/{picture}.png", second=", join: continue")
        result = run("generate", story, "--out", str(tmp_path / f"{picture}.mp4"), "--json", "--quiet")
        assert result.exit_code == 0, result.stderr
        digests.append(json.loads(result.stdout)["frames_sha256"])
    assert digests[0] != digests[1]
    record = run("inspect", str(tmp_path / "red.mp4"), "--json").stdout
    assert '"image": "red.png"' in record
    assert "pictures/" not in record
    # Made again with the picture beside the film; another picture of the same name is rejected.
    again = ("reproduce", str(tmp_path / "red.mp4"), "--model", str(i2v), "--out")
    (tmp_path / "pictures" / "red.png").replace(tmp_path / "red.png")
    same = run(*again, str(tmp_path / "same.mp4"), "--json")
    assert (same.exit_code, json.loads(same.stdout)["differing_scenes"]) == (0, [])
    (tmp_path / "pictures" / "blue.png").replace(tmp_path / "red.png")
    other = run(*again, str(tmp_path / "other.mp4"))
    assert other.exit_code == 2
    assert "another picture than the recorded one" in said(other)


def test_a_text_to_video_model_that_was_trained_for_it_starts_from_pictures_too(
    models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(models / "cogvideox-5b", folder)
    settings = {"num_scenes": 2, "default_num_frames": 9, "default_height": 48, "default_width": 80}
    (folder / "m2d.json").write_text(json.dumps({**settings, "default_fps": 8, "starts_from_images": True}))
    latents = []
    for name, first in (("a", ", image: pictures/red.png"), ("b", ", image: pictures/blue.png"), ("c", "")):
        story = write(tmp_path, folder, head="mask: isolated", first=first)
        made = run("generate", story, "--out", str(tmp_path / f"{name}.mp4"), "--quiet")
        assert made.exit_code == 0, made.stderr
        latents.append(latents_of(tmp_path / f"{name}.mp4"))
    # The first scene is another one with every picture, the second the same without.
    assert not np.array_equal(latents[0][0], latents[1][0])
    assert not np.array_equal(latents[0][0], latents[2][0])
    assert np.array_equal(latents[0][1], latents[1][1])
    checked = run("check", write(tmp_path, folder, first=", image: pictures/red.png")).stdout
    assert "starts from red.png" in checked


def test_extended_and_rerolled_scenes_start_from_pictures_too(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    i2v = str(models / "cogvideox-5b-i2v")
    story = write(tmp_path, Path(i2v), head="image: pictures/red.png", second=", join: continue")
    monkeypatch.chdir(tmp_path)
    assert run("generate", story, "--out", "film.mp4", "--quiet").exit_code == 0
    given = ("--model", i2v, "--quiet", "--out")
    bare = run("extend", "film.mp4", "--prompt", "a sea", *given, "longer.mp4")
    assert (
        bare.exit_code,
        "give image: first.png, or join: continue" in said(bare),
    ) == (2, True)
    for name, how in (("a.mp4", ("--set", "image=pictures/blue.png")), ("b.mp4", ("--join", "continue"))):
        assert run("extend", "film.mp4", "--prompt", "a sea", *how, *given, name).exit_code == 0
    # A re-rolled scene keeps its picture, which has to be in the working folder.
    gone = run("reroll", "film.mp4", "--scene", "1", *given, "c.mp4")
    assert (gone.exit_code, "'red.png': No such file" in said(gone)) == (2, True)
    (tmp_path / "pictures" / "red.png").replace(tmp_path / "red.png")
    # The second scene has none: it continues the first.
    made = run("reroll", "film.mp4", "--scene", "1", "--scene", "2", *given, "c.mp4")
    assert made.exit_code == 0, made.stderr
    record = json.loads(run("inspect", "c.mp4", "--json").stdout)["provenance"]["runs"][-2]["recipe"]
    assert record["scenes"][0]["image"] == "red.png"
    assert (
        run(
            "reroll", "film.mp4", "--scene", "1", "--set", "image=pictures/blue.png", *given, "d.mp4"
        ).exit_code
        == 0
    )


@pytest.mark.parametrize(
    ("model", "fields", "message"),
    [
        ("cogvideox-5b", {"first": ", image: pictures/red.png"}, "the model takes no images"),
        (
            "cogvideox-5b-i2v",
            {"first": ", image: pictures/red.png"},
            "scenes[1].prompt: the model needs a pic",
        ),
        ("cogvideox-5b-i2v", {"head": "image: red.png"}, "image: 'red.png': No such file"),
        ("cogvideox-5b-i2v", {"head": "image: story.yaml"}, "is no picture that m2d reads (PNG, JPEG, WEBP)"),
        (
            "cogvideox-5b-i2v",
            {"head": "image: pictures/cut-off.png"},
            "image: 'pictures/cut-off.png': image file is",
        ),
        ("cogvideox-5b-i2v", {"head": "image: pictures/wide.png"}, "8193x1 pixels; at most 8192 a side"),
        (
            "cogvideox-5b-i2v",
            {"head": "image: pictures/red.png", "second": ", join: continue, image: pictures/blue.png"},
            "remove image or join",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_by_check(
    models: Path, tmp_path: Path, model: str, fields: dict[str, str], message: str
) -> None:
    result = run("check", write(tmp_path, models / model, **fields))
    assert result.exit_code == 2
    assert message in said(result)


def test_a_model_of_one_size_refuses_others(models: Path, tmp_path: Path) -> None:
    story = write(tmp_path, models / "cogvideox-5b-i2v", head="image: pictures/red.png")
    result = run("check", story, "--set", "video.height=64")
    assert result.exit_code == 2
    assert "64, but the model makes pictures of one size alone; use 48" in said(result)

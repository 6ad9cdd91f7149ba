"""`m2d models`: the rules of published models and of folders, and folders with random weights."""

from __future__ import annotations

import json
from pathlib import Path

from tests.m2d.cli.conftest import Run


def test_the_list_has_every_published_model_with_its_rules(m2d: Run) -> None:
    found = {facts["name"]: facts for facts in json.loads(m2d("models", "list", "--json").stdout)["models"]}
    newest = found["CogVideoX1.5-5B-I2V"]
    assert (newest["width"], newest["height"], newest["fps"]) == (1360, 768, 16)
    assert (newest["frame_step"], newest["num_frames"], newest["max_text_tokens"]) == (16, 81, 224)
    assert (newest["needs_image"], newest["is_fixed_size"]) == (True, False)
    assert found["CogVideoX-5b-I2V"]["is_fixed_size"]
    assert found["CogVideoX-2b"]["licence"] == "Apache License 2.0"
    assert found["builtin:puppet"]["num_scenes"] == found["Mask2DiT"]["num_scenes"] == 3
    assert json.loads(m2d("models", "show", "qth/Mask2DiT", "--json").stdout) == found["Mask2DiT"]
    assert m2d("models", "list").stdout.count("not known") == 2
    takes_image = {name: found[f"builtin:{name}"]["takes_image"] for name in ("puppet", "puppet-large")}
    assert takes_image == {"puppet": False, "puppet-large": True}


def test_a_folder_and_the_published_name_of_its_layout_have_the_same_rules(m2d: Run, folder: Path) -> None:
    assert m2d("models", "make-random", "cogvideox-1.5-5b", "--tiny", "--out", "random").exit_code == 0
    ours, published = (
        json.loads(m2d("models", "show", name, "--json").stdout) for name in ("random", "cogvideox1.5-5b")
    )
    same = ("size_step", "frame_step", "fps", "max_text_tokens", "needs_image", "takes_image")
    assert {key: ours[key] for key in same} == {key: published[key] for key in same}
    assert "17 a scene at 16 fps; 16k+1" in m2d("models", "show", "random").stdout
    assert (ours["width"], ours["height"], published["width"], published["height"]) == (80, 48, 1360, 768)
    assert not list(folder.glob(".*"))


def test_a_random_folder_never_replaces_one(m2d: Run, folder: Path) -> None:
    (folder / "here").mkdir()
    result = m2d("models", "make-random", "cogvideox-2b", "--tiny", "--out", "here")
    assert (result.exit_code, list((folder / "here").iterdir())) == (2, [])
    assert "here: exists already" in result.stderr


def test_an_unknown_model_is_answered_with_the_known_ones(m2d: Run, folder: Path) -> None:
    result = m2d("models", "make-random", "cogvideox-9b", "--out", "x")
    assert result.exit_code == 2
    assert "'cogvideox-9b' is not known; use one of CogVideoX-2b, CogVideoX-5b" in result.stderr
    assert "load libraries" not in result.stderr
    assert not (folder / "x").exists()
    result = m2d("models", "show", "cogvideox-9b")
    assert result.exit_code == 2
    assert "give a model folder or one of builtin:puppet-large, builtin:puppet, CogVideoX-2b" in result.stderr


def test_another_familys_frames_are_refused_with_the_rule(m2d: Run) -> None:
    m2d("models", "make-random", "cogvideox-1.5-5b", "--tiny", "--out", "random")
    result = m2d("check", "story.yaml", "--model", "random", "--set", "video.num_frames=49")
    assert result.exit_code == 0
    result = m2d("check", "story.yaml", "--model", "random", "--set", "video.num_frames=41")
    assert result.exit_code == 2
    assert "41 is not 16k+1; use 33 or 49" in " ".join(result.stderr.split())


def test_a_story_is_warned_about_only_where_the_weights_were_trained_on_single_scenes(
    m2d: Run, folder: Path
) -> None:
    m2d("models", "make-random", "cogvideox-2b", "--tiny", "--out", "random")

    def warnings(*words: str) -> str:
        result = m2d("check", "story.yaml", "--model", "random", *words)
        assert result.exit_code == 0, result.stderr
        return " ".join(result.stderr.split())

    assert "scenes: CogVideoX was trained on single scenes, so several may not fit" in warnings()
    config = folder / "random" / "transformer" / "config.json"
    config.write_text(
        config.read_text().replace(
            '"CogVideoXTransformer3DModel"', '"MultiPromptCogVideoXTransformer3DModel"'
        )
    )
    assert "single scenes" not in warnings()
    assert "jointly: 2, but the model was trained on 3 scenes together" in warnings("--set", "jointly=2")


def test_check_shows_the_picture_of_every_scene_and_points_at_a_story_s_own(m2d: Run, folder: Path) -> None:
    from PIL import Image

    Image.new("RGB", (80, 48)).save(folder / "a.png")
    text = (folder / "story.yaml").read_text().replace("video: {upscale: 2}", "video: {num_frames: 9}")
    (folder / "story.yaml").write_text(f"{text}image: a.png\n")
    refused = m2d("check", "story.yaml")
    assert refused.exit_code == 2
    assert refused.stderr.count("the model takes no images") == 1
    assert "image: the model takes no images" in refused.stderr
    m2d("models", "make-random", "cogvideox-5b-i2v", "--tiny", "--out", "random")
    shown = m2d("check", "story.yaml", "--model", "random")
    assert shown.stdout.count("starts from a.png") == 3

"""`m2d check`: what is shown and told, without torch and without writing anything."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from m2d.cli.main import app
from tests.m2d.cli.conftest import Run

LONG_STORY = Path(__file__).parents[3] / "recipes" / "stories" / "the-long-goodbye.yaml"


def longer(folder: Path, scenes: Sequence[str]) -> None:
    """Append scenes to `story.yaml`."""
    recipe = folder / "story.yaml"
    added = "".join(f"  - {scene}\n" for scene in scenes)
    recipe.write_text(recipe.read_text().replace("sampling:", f"{added}sampling:"))


def squares(shown: str, *, heading: str) -> list[list[str]]:
    """The rows below a mask's heading, their labels cut off; the first is the columns' labels."""
    lines = shown.split(heading)[1].splitlines()[1:8]
    return [lines[0].split(), *(line.split()[1:] for line in lines[1:])]


def test_prompts_tokens_windows_and_film_are_shown(m2d: Run) -> None:
    shown = m2d("check", "story.yaml").stdout
    assert "  2  Snowfield at dusk. Actor2 (tall blue body, no hat) waves.\n" in shown
    assert "from 1.1 s, seed 8, 16 of 40 tokens\n" in shown
    assert "3 scenes of 9 frames: 27 frames, 3.4 s at 8 fps" in shown
    assert "32x32, written as 64x64" in shown
    assert "2 steps in one window, guidance 3\n" in shown
    assert "  1-3     jointly  120 text, 144 video  6 calls, 53.2% of full\n" in shown
    drawn = squares(shown, heading="Mask mask2dit")
    assert drawn[1] == list("\u25a0\u00b7\u00b7\u25a0\u00b7\u00b7")
    assert drawn[4] == list("\u25a0\u00b7\u00b7\u25a0\u25a0\u25a0")


def test_scenes_after_the_first_window_are_told_with_their_context(m2d: Run, folder: Path) -> None:
    longer(folder, ["Actor1 waves.", "Actor2 waves.", "Actor1 bows."])
    shown = m2d("check", "story.yaml").stdout
    assert "2 steps in each of 4 windows" in shown
    assert re.search(r"^  1-3 +jointly  ", shown, flags=re.MULTILINE)
    assert re.search(r"^  4-6 +after first and last  120 text, 144 video  ", shown, flags=re.MULTILINE)
    drawn = squares(shown, heading="Mask for scene 4, same for 5-6: * is clean context")
    assert drawn[0] == ["T1*", "T3*", "T4", "V1*", "V3*", "V4"]
    assert drawn[6] == list("\u00b7\u00b7\u25a0\u25a0\u25a0\u25a0")


def test_what_scenes_differ_in_is_told_of_each(m2d: Run, folder: Path) -> None:
    longer(
        folder,
        [
            '{prompt: Actor1 waves., frames: 13, join: {crossfade: 4}, negative_prompt: "night"}',
            "{prompt: Actor2 waves., guidance_scale: 1.5, join: continue, match_colour: true}",
        ],
    )
    shown = m2d("check", "story.yaml").stdout
    assert "5 scenes: 45 frames (crossfades share 4), 5.6 s at 8 fps" in shown
    assert "from 2.2 s, 9 frames, guidance 3, seed 7, " in shown
    assert "without: night\n" in shown
    assert "from 2.9 s, crossfades from scene 3 over 4 frames, 13 frames, guidance 3, seed 7, " in shown
    assert "from 4.5 s, continues scene 4, 9 frames, guidance 1.5, seed 7, colours matched, " in shown
    assert re.search(r"^  4 +after scenes 1 and 3  120 text, 160 video", shown, flags=re.MULTILINE)


def test_what_all_scenes_share_is_told_once(m2d: Run, folder: Path) -> None:
    recipe = folder / "story.yaml"
    text = recipe.read_text().replace("    seed: 8\n", "").replace("{upscale: 2}", "{match_colour: true}")
    recipe.write_text(text.replace("seed: 7}", 'seed: 7, negative_prompt: "night"}'))
    shown = m2d("check", "story.yaml").stdout
    assert "guidance 3, seed 7, colours matched\n" in shown
    assert "negative  night\n" in shown
    assert "from 1.1 s, 16 of 40 tokens\n" in shown
    assert shown.count("night") == shown.count("seed") == 1


def test_the_first_scene_has_no_colours_to_match(m2d: Run, folder: Path) -> None:
    recipe = folder / "story.yaml"
    text = recipe.read_text().replace("    seed: 8\n", "    match_colour: false\n")
    recipe.write_text(text.replace("{upscale: 2}", "{match_colour: true}"))
    shown = m2d("check", "story.yaml").stdout
    assert "from 0.0 s, 17 of" in shown
    assert "from 1.1 s, 16 of" in shown
    assert "from 2.2 s, colours matched, 16 of" in shown


def test_a_scene_that_continues_the_first_leaves_that_alone(m2d: Run, folder: Path) -> None:
    recipe = folder / "story.yaml"
    recipe.write_text(recipe.read_text().replace("    seed: 8", "    join: continue"))
    shown = m2d("check", "story.yaml").stdout
    assert re.search(r"^  1 +alone +40 text, 48 video    1 call, 100.0% of full$", shown, flags=re.MULTILINE)
    assert re.search(r"^  2 +after scene 1  ", shown, flags=re.MULTILINE)
    assert squares(shown, heading="Mask for scene 3: * is clean context")[0][:3] == ["T1*", "T2*", "T3"]


def test_the_json_plan_tells_the_same(m2d: Run, folder: Path) -> None:
    longer(folder, ["{prompt: Actor1 waves., join: {crossfade: 4}}"])
    plan = json.loads(m2d("check", "story.yaml", "--json").stdout)
    assert [scene["num_prompt_tokens"] for scene in plan["scenes"]] == [17, 16, 16, 16]
    assert [scene["first_frame"] for scene in plan["scenes"]] == [0, 9, 18, 23]
    assert [(scene["number"], scene["join"], scene["overlap"]) for scene in plan["scenes"]][2:] == [
        (3, "cut", 0),
        (4, "crossfade", 4),
    ]
    assert [(window["scenes"], window["targets"], window["context"]) for window in plan["windows"]] == [
        ([1, 2, 3], [1, 2, 3], []),
        ([1, 3, 4], [4], [1, 3]),
    ]
    layout = plan["windows"][0]["layout"]
    assert layout["segments"] == ["T1", "T2", "T3", "V1", "V2", "V3"]
    assert layout["may_attend"][0] == [1, 0, 0, 1, 0, 0]
    assert plan["num_frames"] == 32
    assert plan["warnings"] == []


def test_full_attention_is_one_call_with_all_the_work(m2d: Run, folder: Path) -> None:
    recipe = folder / "story.yaml"
    recipe.write_text(recipe.read_text() + "mask: full\n")
    (window,) = json.loads(m2d("check", "story.yaml", "--json").stdout)["windows"]
    assert (window["layout"]["num_attention_calls"], window["layout"]["attention_share"]) == (1, 1.0)


def test_a_long_story_fits_into_eighty_columns(folder: Path) -> None:
    del folder
    terminal = {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": "80"}
    result = CliRunner().invoke(app, ["check", str(LONG_STORY)], env=terminal)
    assert "\x1b[" in result.stdout
    shown = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert "12 scenes of 17 frames" in shown
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    # Rows that wrap would break the tables.
    assert re.search(r"^  4-12 +after first and last .* of full$", shown, flags=re.MULTILINE)
    assert "Mask for scene 4, same for 5-12: * is clean context" in shown


def test_an_unfinished_run_is_a_warning(m2d: Run, folder: Path) -> None:
    journal = folder / "first-snow.m2d" / "journal"
    journal.mkdir(parents=True)
    (journal / "journal.json").write_text("{}")
    result = m2d("check", "story.yaml")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: an unfinished run of first-snow.mp4 is here; continue it with")


def test_an_output_that_is_there_is_a_warning(m2d: Run, folder: Path) -> None:
    (folder / "first-snow.mp4").write_bytes(b"precious")
    result = m2d("check", "story.yaml")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: first-snow.mp4 exists")


def test_words_the_puppet_theatre_does_not_know_are_named(m2d: Run, folder: Path, tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder, folder / "puppets")
    settings = folder / "puppets" / "m2d.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "world": "puppet"}))
    recipe = folder / "story.yaml"
    recipe.write_text(recipe.read_text().replace(str(tiny_folder), "puppets").replace("jumps", "jmups"))
    result = m2d("check", "story.yaml")
    assert result.exit_code == 0
    assert "story.yaml:9:5: scenes[2].prompt: " in result.stderr
    assert "did you mean jumps?" in result.stderr


def test_checking_a_story_of_an_embedded_model_imports_no_torch(folder: Path, tiny_folder: Path) -> None:
    recipe = folder / "story.yaml"
    recipe.write_text(recipe.read_text().replace(str(tiny_folder), "builtin:puppet"))
    program = (
        "import sys; from m2d.cli.main import app; sys.argv = ['m2d', 'check', 'story.yaml']\n"
        "try:\n    app()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "sys.exit(', '.join({'torch', 'diffusers', 'transformers'} & sys.modules.keys()) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert [path.name for path in folder.iterdir()] == ["story.yaml"]


def test_another_model_can_be_checked(m2d: Run, tiny_folder: Path) -> None:
    assert "Mask mask2dit" in m2d("check", "story.yaml", "--model", str(tiny_folder)).stdout


def test_a_missing_model_given_as_an_option_is_named_as_one(m2d: Run) -> None:
    result = m2d("check", "story.yaml", "--model", "nowhere")
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert "nowhere" in result.stderr


def test_a_negative_prompt_without_guidance_is_told(m2d: Run, folder: Path) -> None:
    story = "title: own\nscenes: [A puppet waves.]\nsampling: {guidance_scale: 1, negative_prompt: night}\n"
    (folder / "own.yaml").write_text(story)
    told = m2d("check", "own.yaml").stderr
    assert "own.yaml:3:48: sampling.negative_prompt: has no effect without guidance" in told
    assert "effect" not in m2d("check", "own.yaml", "--set", "sampling.guidance_scale=2").stderr


def test_what_is_not_usual_about_sampling_and_pixels_is_shown(m2d: Run, folder: Path) -> None:
    recipe = folder / "story.yaml"
    text = recipe.read_text().replace("guidance_scale: 3.0", "guidance_scale: 3.0, dynamic_guidance: true")
    recipe.write_text(text.replace("{upscale: 2}", "{upscale: {factor: 2, filter: nearest}}"))
    shown = m2d("check", "story.yaml").stdout
    assert "2 steps in one window, dynamic guidance, guidance 3" in shown
    assert "32x32, written as 64x64 with hard pixels" in shown


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda f: drop(f / "vae", "decoder.conv_out.conv.weight"),
            "vae: the weights do not fit config.json",
        ),
        (lambda f: drop(f / "transformer", "proj_out.bias"), "missing: proj_out.bias"),
        (lambda f: edit(f / "vae" / "config.json", latents_mean=[0.0] * 4), "latents_mean is not supported"),
        (lambda f: edit(f / "scheduler" / "scheduler_config.json", timestep_spacing="linspace"), "linspace"),
    ],
)
def test_what_could_not_be_loaded_is_refused(
    m2d: Run, folder: Path, tiny_folder: Path, damage: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(tiny_folder, folder / "model")
    damage(folder / "model")
    for command in ("check", "generate"):
        result = m2d(command, "story.yaml", "--model", "model")
        assert result.exit_code == 2
        assert message in " ".join(result.stderr.split())
    assert "load text encoder" not in result.stderr


def drop(part: Path, name: str) -> None:
    path = part / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights[name]
    save_file(weights, path, metadata={"format": "pt"})


def edit(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_card_is_predicted_for_and_an_unknown_one_is_named(m2d: Run) -> None:
    found = json.loads(m2d("check", "story.yaml", "--gpu", "rtx 4090", "--json").stdout)
    assert found["prediction"]["device"] == "RTX 4090"
    assert found["backend"]["device"] == "cuda"
    assert found["prediction"]["tokens"] == 120 + 144
    assert set(found["prediction"]["stages"]) == {"encode prompts", "denoise", "decode"}
    assert "Predicted on RTX 4090: memory full, decode plain, fits" in m2d(
        "check", "story.yaml", "--gpu", "NVIDIA GeForce RTX 4090"
    ).stdout.replace("\n", " ")
    refused = m2d("check", "story.yaml", "--gpu", "RTX 9")
    assert refused.exit_code == 2
    assert "--gpu: 'RTX 9' is not in the table; known: RTX 4060, " in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("backend.memory=half", "use one of 'auto', 'full', 'model-offload', 'group-offload', 'sequential'"),
        ("backend.quantize=int4", "'int4' is not known; use none, fp8, int8 or a local .gguf file"),
        ("backend.quantize=https://host/a.gguf", "is not known; use none, fp8, int8 or a local .gguf file"),
        ("backend.decode=fast", "use one of 'auto', 'plain', 'sliced', 'tiled'"),
    ],
)
def test_nonsense_is_answered_by_what_is_allowed(m2d: Run, setting: str, message: str) -> None:
    result = m2d("check", "story.yaml", "--set", setting)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_a_published_model_that_is_not_here_is_predicted_by_its_sizes(
    m2d: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    given = ("check", "story.yaml", "--model", "zai-org/CogVideoX-5b", "--gpu", "RTX 4090")
    result = m2d(*given, "--set", "video.upscale=1", "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert (shown["width"], shown["height"], shown["backend"]["dtype"]) == (720, 480, "bfloat16")
    assert shown["prediction"]["stages"]["denoise"]["peak_bytes"] > 10 << 30
    assert {scene["num_prompt_tokens"] for scene in shown["scenes"]} == {None}
    assert (
        "model of the hub is not here: time and memory are predicted from the published sizes of"
        in (shown["warnings"][0])
    )
    # Tensors are compared with a LoRA, and there are none.
    assert "is not here; `m2d generate`" in m2d(*given, "--lora", "a.safetensors").stderr
    assert m2d("check", "story.yaml", "--model", "zai-org/Other").exit_code == 2

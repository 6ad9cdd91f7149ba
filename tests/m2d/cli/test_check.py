"""`m2d check`: what is shown and told, without torch and without writing anything."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

from tests.m2d.cli.conftest import Run


def test_prompts_tokens_mask_and_film_are_shown(m2d: Run) -> None:
    shown = m2d("check", "story.yaml").stdout
    assert "prompt  Snowfield at dusk. Actor2 (tall blue body, no hat) waves." in shown
    assert "tokens  16 of 40   guidance 3   seed 8" in shown
    assert "3 scenes of 9 frames, 3.4 s at 8 fps" in shown
    assert "32x32, written as 64x64" in shown
    assert "mask mask2dit: 6 calls per layer" in shown
    squares = [line.split()[1:] for line in shown.splitlines()[-6:]]
    assert squares[0] == list("\u25a0\u00b7\u00b7\u25a0\u00b7\u00b7")
    assert squares[3] == list("\u25a0\u00b7\u00b7\u25a0\u25a0\u25a0")


def test_the_json_plan_tells_the_same(m2d: Run) -> None:
    plan = json.loads(m2d("check", "story.yaml", "--json").stdout)
    assert [scene["num_prompt_tokens"] for scene in plan["scenes"]] == [17, 16, 16]
    assert plan["layout"]["segments"] == ["T1", "T2", "T3", "V1", "V2", "V3"]
    assert plan["layout"]["may_attend"][0] == [1, 0, 0, 1, 0, 0]
    assert plan["num_frames"] == 27
    assert plan["warnings"] == []


def test_full_attention_is_one_call_with_all_the_work(m2d: Run, folder: Path) -> None:
    recipe = folder / "story.yaml"
    recipe.write_text(recipe.read_text() + "mask: full\n")
    layout = json.loads(m2d("check", "story.yaml", "--json").stdout)["layout"]
    assert (layout["num_attention_calls"], layout["attention_share"]) == (1, 1.0)


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
    assert "nearest known: jumps" in result.stderr


def test_checking_imports_no_torch_and_writes_nothing(folder: Path) -> None:
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
    assert "mask mask2dit" in m2d("check", "story.yaml", "--model", str(tiny_folder)).stdout


def test_a_missing_model_given_as_an_option_is_named_as_one(m2d: Run) -> None:
    result = m2d("check", "story.yaml", "--model", "nowhere")
    assert result.exit_code == 2
    assert "--model" in result.stderr
    assert "nowhere" in result.stderr

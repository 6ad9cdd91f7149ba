"""`--lora` in every command that plans or exports, and `--set loras...`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from m2d.cli.options import parse_loras
from m2d.errors import InputError
from tests.m2d.cli.conftest import Run
from tests.m2d.model.lora_files import matrices, write_kohya


@pytest.mark.parametrize(
    ("text", "path", "scale"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1", "a.safetensors", -1.0),
        ("a.safetensors:1e-2", "a.safetensors", 0.01),
        ("C:\\a.safetensors", "C:\\a.safetensors", 1.0),
        ("a:b.safetensors:.5", "a:b.safetensors", 0.5),
    ],
)
def test_a_number_after_the_last_colon_is_the_scale(text: str, path: str, scale: float) -> None:
    (choice,) = parse_loras([text]) or ()
    assert (choice.path, choice.scale) == (path, scale)
    assert parse_loras(None) is None


@pytest.mark.parametrize("text", ["", "a.safetensors:1000", "https://a/b.safetensors"])
def test_a_scale_or_a_path_that_no_recipe_may_have_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"lora: "):
        parse_loras([text])


@pytest.fixture
def lora(folder: Path) -> str:
    """A LoRA in the working folder, and one for a larger model."""
    write_kohya(folder, matrices()).rename(folder / "style.safetensors")
    layer = "transformer.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.lora_A.weight": torch.zeros(4, 3072), f"{layer}.lora_B.weight": torch.zeros(3072, 4)},
        folder / "large.safetensors",
    )
    return "style.safetensors"


def test_check_shows_loras(m2d: Run, lora: str) -> None:
    shown = m2d("check", "story.yaml", "--lora", f"{lora}:0.5").stdout
    assert "style.safetensors at 0.5\n" in shown
    document = json.loads(
        m2d("check", "story.yaml", "--set", f"loras=[{{path: {lora}, scenes: [1, 3]}}]", "--json").stdout
    )
    (found,) = document["loras"]
    assert (found["path"], found["scale"], found["scenes"]) == (lora, 1.0, [1, 3])


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["--lora", "gone.safetensors"], "--lora: gone.safetensors: there is no such file"),
        (
            ["--lora", "large.safetensors"],
            "--lora: large.safetensors: is for another model: transformer_blocks.0",
        ),
        (
            ["--lora", "story.yaml"],
            "--lora: story.yaml: cannot be read: it is truncated or not a safetensors file",
        ),
        (
            ["--lora", "large.safetensors:abc"],
            "'abc' is no scale; use a number, such as large.safetensors:0.8",
        ),
        (["--lora", "style.safetensors:101"], "--lora: 'style.safetensors:101': Input should be less than"),
        (
            ["--lora", "style.safetensors", "--set", "loras[0].scale=2"],
            "--lora sets this field, too; give one",
        ),
        (["--set", "loras=[{path: style.safetensors, scenes: [4]}]"], "4; the recipe has 3 scenes, from 1"),
        (["--set", "loras=[{path: style.safetensors, strength: 1}]"], "unknown key"),
        (["--set", "loras=style.safetensors"], "expected a list"),
    ],
)
@pytest.mark.parametrize("name", ["check", "generate"])
def test_a_lora_that_cannot_be_used_is_one_line(
    m2d: Run, folder: Path, lora: str, name: str, command: list[str], told: str
) -> None:
    del lora
    before = sorted(folder.iterdir())
    result = m2d(name, "story.yaml", *command)
    assert result.exit_code == 2
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(folder.iterdir()) == before


def test_films_name_their_loras_and_ask_for_them(m2d: Run, folder: Path, lora: str) -> None:
    made = m2d("generate", "story.yaml", "--lora", f"{lora}:0.5", "--steps", "1", "--quiet")
    assert made.exit_code == 0, made.stderr
    assert "style.safetensors at 0.5, sha256" in " ".join(m2d("inspect", "first-snow.mp4").stdout.split())
    (folder / "elsewhere").mkdir()
    (folder / lora).rename(folder / "elsewhere" / "other-name.safetensors")
    model = ["--model", (folder / "story.yaml").read_text().split("model: ")[1].split("\n")[0]]
    refused = m2d("reproduce", "first-snow.mp4", *model)
    assert refused.exit_code == 2
    assert "style.safetensors: missing; the film was made with it" in refused.stderr
    assert "give that file with --lora, wherever it lies now" in refused.stderr
    again = m2d(
        "reproduce", "first-snow.mp4", *model, "--lora", "elsewhere/other-name.safetensors", "--quiet"
    )
    assert again.exit_code == 0, again.stderr


def test_graphs_are_exported_with_loras_and_the_command_for_it_is_printed(m2d: Run, lora: str) -> None:
    asked = ["--steps", "1", "--backend", "onnx", "--lora", f"{lora}:0.5", "--artifacts", "graphs"]
    refused = m2d("generate", "story.yaml", *asked)
    assert refused.exit_code == 3
    assert f"--lora {lora}:0.5" in " ".join(refused.stderr.split())

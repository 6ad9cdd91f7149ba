"""`--set FIELD=VALUE`: any field of the recipe, recorded in the film; `m2d train` has tests of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2d.video.provenance import Provenance
from m2d.video.run_folder import read_run
from tests.m2d.cli.conftest import Run


def record(folder: Path, name: str) -> Provenance:
    return read_run(folder / f"{name}.mp4").provenance


def test_settings_of_generate_extend_and_reroll_are_in_the_films_recipe(
    m2d: Run, folder: Path, tiny_folder: Path
) -> None:
    model = ["--model", str(tiny_folder)]
    words = ["--set", "scenes[0].seed=40", "--set", "sampling.scheduler=euler", "--set", "title=A walk: #2"]
    result = m2d("generate", "story.yaml", *words, "--out", "a.mp4")
    assert result.exit_code == 0, result.stderr
    made = record(folder, "a")
    assert made.title == "A walk: #2"
    assert [scene.seed for scene in made.scenes] == [40, 8, 7]
    assert made.last_run.recipe["sampling"]["scheduler"] == "euler"

    words = ["--prompt", "Actor1 waves.", "--set", "sampling.guidance_scale=1.5", "--set", "mask=causal"]
    result = m2d("extend", "a.mp4", *model, *words, "--set", "scenes[0].seed=9", "--out", "b.mp4")
    assert result.exit_code == 0, result.stderr
    longer = record(folder, "b")
    assert (longer.scenes[-1].seed, longer.scenes[-1].guidance_scale) == (9, 1.5)
    assert longer.last_run.recipe["mask"] == "causal"

    words = ["--set", "sampling.guidance_scale=2.5", "--set", "sampling.seed=77"]
    result = m2d("reroll", "b.mp4", "--scene", "2", *model, *words, "--out", "c.mp4")
    assert result.exit_code == 0, result.stderr
    again = record(folder, "c")
    assert (again.scenes[1].seed, again.scenes[1].guidance_scale) == (77, 2.5)
    assert [scene.seed for scene in again.scenes] == [40, 77, 7, 9]

    refused = {
        ("extend", "a.mp4", "-p", "Actor1 waves.", "--set", "video.height=64"): "belongs to the whole film",
        ("extend", "a.mp4", "-p", "Actor1 waves.", "--set", "scenes[0].prompt=Actor7 waves."): "Actor7",
        ("extend", "a.mp4", "-p", "Actor1 waves.", "--set", "output=x.mp4"): "belongs to the whole film",
        ("reroll", "a.mp4", "-s", "1", "--set", "scenes[0].prompt=x"): "from --prompt and --seed",
        ("reroll", "a.mp4", "-s", "1", "--set", "video.num_frames=5"): "keeps its length",
        ("reroll", "a.mp4", "-s", "1", "--seed", "1", "--set", "sampling.seed=5"): "--seed sets this field",
    }
    for line, message in refused.items():
        result = m2d(*line, *model)
        assert (result.exit_code, message in result.stderr) == (2, True), (line, result.stderr)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "video.height=30"], "error: command line: --set video.height: 30 is not a positive"),
        (["--set", "model=nope"], "error: command line: --model: model 'nope'"),
        (["--set", "model=a", "--model", "b"], "error: --set model: given twice"),
        (["--set", "sampling.seed=1", "--seed", "2"], "error: --set sampling.seed: --seed sets this field"),
        (["--set", "backend.options.x=1", "--backend", "onnx"], "--backend sets this field, too"),
        (["--set", "steps=1"], "--set steps: unknown key; did you mean sampling.num_inference_steps?"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(m2d: Run, words: list[str], message: str) -> None:
    result = m2d("generate", "story.yaml", *words)
    assert result.exit_code == 2
    assert message in result.stderr

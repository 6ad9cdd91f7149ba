"""The library: the same frames as the commands, from a pipeline that stays loaded."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from benchmarks.decoded_film import read_film
from m2d import RunOptions, Story, StoryPipeline, extend, generate, reroll
from m2d.errors import BackendUnavailable, CheckpointError, OutputError, RecipeError
from m2d.pipeline.observer import WindowStep
from tests.m2d.model.tiny_model import build_tiny_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "library.md"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_tiny_model(tmp_path_factory.mktemp("model")))


def run_python(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def story(**changes: Any) -> Story:
    """Four scenes: three made jointly, blended and matched in colour, and one that continues the third."""
    scenes = [
        "a red ball",
        {"prompt": "a blue ball", "join": {"crossfade": 2}},
        {"prompt": "a tree", "match_colour": True},
        {"prompt": "a green cube", "join": "continue"},
    ]
    sampling = {"num_inference_steps": 2, "guidance_scale": 2.0, "seed": 5}
    video = {"num_frames": 5, "height": 16, "width": 16}
    return Story(**({"title": "Balls", "scenes": scenes, "sampling": sampling, "video": video} | changes))


def test_importing_m2d_imports_no_torch_and_offers_its_names() -> None:
    program = "import sys, m2d; from m2d import Story; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
    with pytest.raises(ImportError, match="cannot import name 'Film' from 'm2d'"):
        from m2d import Film  # type: ignore[attr-defined]  # noqa: F401  # the test's point


def test_frames_are_those_of_the_film_that_generate_makes(model: str, tmp_path: Path) -> None:
    output = StoryPipeline.from_pretrained(model)(story(), seed=3)
    film = generate(story(), tmp_path / "balls.mp4", model=model, seed=3)
    assert output.frames_sha256 == film.frames_sha256
    assert output.frames.shape == (18, 16, 16, 3) == read_film(film.film).frames_PHWC.shape
    assert [scene.prompt for scene in output.scenes] == [scene.prompt for scene in film.provenance.scenes]
    assert [tuple(latents.shape[1:]) for latents in output.latents] == [(4, 4, 4)] * 4
    assert output._repr_png_().startswith(b"\x89PNG")


def test_a_recipe_file_a_story_and_its_fields_give_the_same_frames(model: str, tmp_path: Path) -> None:
    recipe = tmp_path / "story.yaml"
    recipe.write_text("title: A ball\nscenes: [a red ball]\nsampling: {num_inference_steps: 1}\n", "utf-8")
    pipe = StoryPipeline.from_pretrained(model)
    fields = {"title": "A ball", "scenes": ["a red ball"], "sampling": {"num_inference_steps": 1}}
    digests = {pipe(each).frames_sha256 for each in (recipe, str(recipe), Story.load(recipe), fields)}
    assert len(digests) == 1
    assert pipe(fields, seed=1).frames_sha256 not in digests


def test_weights_are_read_once(tmp_path: Path) -> None:
    folder = build_tiny_model(tmp_path / "model")
    pipe = StoryPipeline.from_pretrained(folder)
    first = pipe(story())
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    assert pipe(story()).frames_sha256 == first.frames_sha256
    pipe.release()
    with pytest.raises(CheckpointError, match="transformer"):
        pipe(story())


def test_two_pipelines_in_two_threads_do_not_disturb_each_other(model: str) -> None:
    def generated(seed: int) -> str:
        pipe = StoryPipeline.from_pretrained(model)
        return pipe(story(), seed=seed).frames_sha256

    alone = [generated(seed) for seed in (1, 2)]
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(generated, (1, 2))) == alone
    assert alone[0] != alone[1]


def test_a_callback_sees_every_step_and_may_end_the_call(model: str) -> None:
    pipe = StoryPipeline.from_pretrained(model)
    seen: list[tuple[int, int]] = []
    expected = pipe(story(), callback=lambda step: seen.append((step.index, step.event.step)))
    assert seen == [(0, 1), (0, 2), (1, 1), (1, 2)]

    def stop(step: WindowStep) -> None:
        raise InterruptedError(f"stopped after step {step.event.step}")

    with pytest.raises(InterruptedError, match="stopped after step 1"):
        pipe(story(), callback=stop)
    assert pipe(story()).frames_sha256 == expected.frames_sha256


def test_films_grow_from_python_as_from_the_command_line(model: str, tmp_path: Path) -> None:
    film = generate(story(), tmp_path / "balls.mp4", model=model)
    longer = extend(film.film, ["a sea"], tmp_path / "longer.mp4", model=model, num_inference_steps=2)
    assert len(longer.provenance.scenes) == 5
    better = reroll(longer.film, [0], tmp_path / "better.mp4", model=model, seed=9)
    kept = [old == new for old, new in zip(longer.provenance.scenes, better.provenance.scenes, strict=True)]
    assert kept[2:] == [True] * 3
    assert not kept[0]
    with pytest.raises(OutputError, match="exists"):
        generate(story(), film.film, model=model)
    assert generate(story(), film.film, model=model, options=RunOptions(force=True)).film == film.film


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenes": []}, r"story: scenes: "),
        ({"setting": "Actor7's garden"}, r"story: setting: .*Actor7"),
        ({"colour": "red"}, r"story: colour: "),
        ({"sampling": {"num_inference_steps": 0}}, r"story: sampling\.num_inference_steps: .*0"),
    ],
)
def test_a_wrong_story_is_refused_with_its_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        story(**changes)


def test_what_cannot_run_is_refused_before_anything_is_loaded(model: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        StoryPipeline.from_pretrained(tmp_path / "nothing")
    with pytest.raises(BackendUnavailable, match="cuda"):
        StoryPipeline.from_pretrained(model, device="cuda:99")
    pipe = StoryPipeline.from_pretrained(model)
    with pytest.raises(RecipeError, match=r"video\.height"):
        pipe(story(video={"height": 17}))


def test_the_page_s_example_runs(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)[:1]
    assert len(example.strip().splitlines()) <= 12
    shutil.copy(ROOT / "recipes/stories/first-snow.yaml", tmp_path)
    done = run_python(example, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "(27, 64, 64, 3)" in done.stdout


def test_the_notebook_s_code_is_that_of_the_library_today() -> None:
    notebook = json.loads(PAGE.with_suffix(".ipynb").read_text("utf-8"))
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code")
    # With the small model and one step: what is tested is the code, not the pictures in the page.
    program = "\n".join(code)
    for shown, quick in (("puppet-large", "puppet"), ('_steps": 25', '_steps": 1'), ("[1:13:2]", "[1:9:2]")):
        program = program.replace(shown, quick)
    done = run_python(program, ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 steps; (27, 64, 64, 3)")

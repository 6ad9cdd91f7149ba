"""`m2d export`, and the runs that need what it makes: words in, folders and exit codes out."""

import json
import re
from pathlib import Path

import pytest

from tests.m2d.cli.conftest import Run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("M2D_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "--scenes, --frames, --size: missing"),
        ("--scenes 3 --frames 9", "--size: missing"),
        ("--recipe story.yaml --scenes 3", "--recipe, --scenes: both given"),
        ("--recipe story.yaml --context 2", "--recipe, --context: both given"),
        ("--scenes 3 --frames nine --size 32x32", "--frames 'nine': use a number"),
        ("--scenes 3 --frames 9 --size 32", "--size '32': use HEIGHTxWIDTH"),
        (
            "--scenes 3 --frames 9 --size 32x32 --context 3",
            "--context 3: at least one of the 3 scenes must be generated",
        ),
        ("--scenes 3 --frames 9 --size 32x32 --context 1 --targets 2", "--context, --targets: both given"),
        ("--scenes 3 --frames 9 --size 32x32 --targets 4", r"--targets: \[4\]"),
        ("--scenes 3 --frames 8 --size 31x32", r"num_frames: 8 is not .*\n.*height: 31 is not"),
        ("--scenes 3 --frames 9 --size 32x32 --mask striped", "striped"),
        ("--scenes 3 --frames 9 --size 32x32 --dtype int8", "dtype: got 'int8'"),
        ("--scenes 3 --frames 9 --size 32x32 --batch 0", "batch_size: got"),
        ("--scenes 3 --frames 9 --size 32x32 --backend-option fast", "use NAME=VALUE"),
        ("--scenes 3 --frames 9 --size 32x32 --backend-option warp=9", "warp"),
        (
            f"--scenes {'9' * 30} --frames 9 --size 32x32",
            "'--scenes': must be at most 10000, got",
        ),
        ("--recipe nowhere.yaml", "nowhere.yaml"),
    ],
)
def test_bad_input_is_one_message_and_exit_2(m2d: Run, tiny_folder: Path, words: str, message: str) -> None:
    model = () if "--recipe" in words else ("--model", str(tiny_folder))
    result = m2d("export", "--backend", "aot", *model, *words.split(), "--quiet")
    assert result.exit_code == 2, result.output
    assert re.search(message, result.stderr), result.stderr
    assert "Traceback" not in result.output


def test_backends_that_export_nothing_and_unknown_ones_exit_with_2(m2d: Run) -> None:
    for name, message in (("eager", "runs the model itself"), ("eagr", "backend: got 'eagr'")):
        result = m2d("export", "--backend", name, "--recipe", "story.yaml", "--quiet")
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


@pytest.mark.parametrize(
    "words",
    [("generate", "story.yaml"), ("generate", "story.yaml", "--preview")],
    ids=["film", "draft"],
)
def test_without_its_graphs_a_film_is_not_begun_and_the_command_is_told(
    m2d: Run, folder: Path, tiny_folder: Path, words: tuple[str, ...]
) -> None:
    before = sorted(folder.iterdir())
    result = m2d(*words, "--backend", "aot", "--quiet")
    assert result.exit_code == 3, result.output
    told = " ".join(result.stderr.split())
    command = f"m2d export --backend aot --model {tiny_folder} --scenes 3 --frames 9 --size 32x32"
    assert command in told
    assert "--mask mask2dit --batch 2" in told
    assert [path for path in sorted(folder.iterdir()) if path.name != "cache"] == before


def test_an_option_of_the_recipe_reaches_its_backend_and_no_other(m2d: Run, folder: Path) -> None:
    story = folder / "story.yaml"
    story.write_text(story.read_text() + "backend: {name: eager, options: {warp: 9}}\n")
    refused = m2d("generate", "story.yaml", "--quiet")
    assert (refused.exit_code, "warp" in refused.stderr) == (2, True), refused.output
    # Another backend's options are not this one's.
    other = m2d("generate", "story.yaml", "--backend", "aot", "--quiet")
    assert (other.exit_code, "warp" in other.stderr) == (3, False), other.output


@pytest.mark.long
def test_a_story_is_exported_and_made_from_its_graph(m2d: Run, folder: Path) -> None:
    first = m2d(
        "export", "--backend", "onnx", "--recipe", "story.yaml", "--out", "graphs", "--json", "--quiet"
    )
    assert first.exit_code == 0, first.output
    (graph,) = json.loads(first.stdout)["graphs"]
    assert Path(graph["folder"]).parent.name == "graphs"
    assert graph["relative_error"] <= 1e-5
    again = m2d(
        "export", "--backend", "onnx", "--recipe", "story.yaml", "--out", "graphs", "--json", "--quiet"
    )
    assert json.loads(again.stdout)["graphs"][0]["was_there"] is True
    made = m2d("generate", "story.yaml", "--backend", "onnx", "--artifacts", "graphs", "--quiet")
    assert made.exit_code == 0, made.output
    assert (folder / "first-snow.mp4").is_file()


def test_backends_are_listed_with_what_they_can_and_what_nobody_tried(m2d: Run) -> None:
    result = m2d("backends", "list", "--json")
    assert result.exit_code == 0, result.output
    found = {facts["name"]: facts for facts in json.loads(result.stdout)["backends"]}
    assert {"eager", "compile", "aot", "onnx", "tensorrt"} <= set(found)
    assert (found["eager"]["trains"], found["eager"]["exports"]) == (True, False)
    assert (found["aot"]["trains"], found["aot"]["exports"]) == (False, True)
    assert found["aot"]["artifacts"] == []
    assert "hardware" in found["tensorrt"]["caveat"] or found["tensorrt"]["problem"]


def test_the_backends_doctor_asks_about_every_device(m2d: Run) -> None:
    result = m2d("backends", "doctor", "--json")
    assert result.exit_code == 0, result.output
    found = {facts["name"]: facts for facts in json.loads(result.stdout)["backends"]}
    assert found["eager"]["problem_on"]["cpu"] is None

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.broken_videos import KINDS, write_video
from m2d.cli.data import check
from m2d.data.rule_counts import RuleCount
from m2d.errors import DatasetError
from m2d.progress import SilentReporter
from m2d.recipe.loader import fit_document
from m2d.recipe.places import Places
from m2d.tasks.data import check_data
from m2d.tasks.own_clips import check_data as check_data_of
from m2d.training.recipe import TrainingRecipe

RECIPE = {
    "title": "one step",
    "stage": "base",
    "model": "builtin:puppet",
    "init": "builtin:puppet",
    "video": {"num_frames": 9, "height": 64, "width": 64, "fps": 8},
    "num_scenes": 1,
    "steps": 1,
    "batch_size": 1,
    "optimizer": {"name": "adamw", "lr": 1e-4},
}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """One video of two seconds: with another file's digest, and with a part behind its end."""
    write_video(tmp_path / "a.mp4", num_frames=16)
    write_video(tmp_path / "b.mp4", num_frames=16)
    scenes = [
        {"video": "a.mp4", "caption": "x", "sha256": "0" * 64},
        {"video": "b.mp4", "caption": "x", "start_s": 50, "end_s": 99},
    ]
    lines = [json.dumps({"m2d": 1, "scenes": [scene]}) for scene in scenes]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    return tmp_path / "d.jsonl"


def _check(source: Path) -> dict[str, RuleCount]:
    counts = check_data(source, num_frames=9, fps=8, workers=0, reporter=SilentReporter())
    return {count.rule: count for count in counts}


def test_another_file_and_a_part_behind_the_end_are_told_before_training(described: Path) -> None:
    counts = _check(described)
    (other,) = counts["is the described file"].examples
    assert other.startswith(
        f"{described}:1: scenes[0]: a.mp4 is not the file that the dataset describes: its sha256 is "
    )
    (behind,) = counts["official SFT"].examples
    assert behind == (
        f"{described}:2: scenes[0]: b.mp4 ends after 2 s: start_s 50 lies behind the end of the video"
    )


def test_a_plan_names_the_causes_and_no_file_that_is_not_there(described: Path, tmp_path: Path) -> None:
    data = {"source": str(described), "held_out": 0}
    recipe = fit_document(RECIPE | {"data": data}, TrainingRecipe, places=Places(path="recipe")).value
    with pytest.raises(DatasetError) as caught:
        check_data_of(recipe, SilentReporter(), cache=tmp_path / "cache")
    first, *causes = str(caught.value).splitlines()
    assert first == f"{described}: 0 stories can be read and suit the recipe"
    assert [cause.split(": ")[2].split()[:3] for cause in causes] == [
        ["a.mp4", "is", "not"],
        ["b.mp4", "ends", "after"],
    ]


def test_a_folders_fault_names_the_video_and_many_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(7):
        KINDS["empty"](tmp_path / f"{number}.mp4", 3)
        (tmp_path / f"{number}.txt").write_text("A tree.")
    check(tmp_path)
    shown = capsys.readouterr().err
    assert f"{tmp_path / '0.txt'}: 0.mp4 has 0 bytes" in shown.replace("\n", "")
    assert shown.count(".mp4 has") == 5
    assert "and 2 more; --json gives all" in shown
    assert len(_check(tmp_path)["can be decoded"].examples) == 7

"""Training on a folder of clips: what is chosen, what is written, and what is refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m2d.data.dataset_file import read_groups
from m2d.data.dataset_text import ShotGroup
from m2d.errors import DatasetError, InputError, RecipeError, Remedy
from m2d.progress import SilentReporter
from m2d.puppet.dataset_files import RenderPlan
from m2d.recipe.loader import load_document
from m2d.recipe.settings import parse_settings
from m2d.tasks.own_clips import OwnClips, check_data, choose, text_of, train_on
from m2d.tasks.render import render
from m2d.tasks.training_recipe import load_training_recipe
from m2d.training import datasets
from m2d.training.defaults import ChosenRecipe
from m2d.training.recipe import TrainingRecipe
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.tasks.journals import RecordingReporter

NUM_CLIPS = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos with captions; one caption is missing."""
    out = tmp_path_factory.mktemp("clips")
    plan = RenderPlan(out=out, num_stories=NUM_CLIPS, num_scenes=1, side=32, upscale=1, file_format="json")
    description = render(plan, SilentReporter())
    for group in json.loads(description.read_text()):
        for value in group["values"]:
            (out / value["url"]).with_suffix(".txt").write_text(value["caption"])
            (out / value["url"]).rename(out / Path(value["url"]).name)
            (out / value["url"]).with_suffix(".txt").rename(out / f"{Path(value['url']).stem}.txt")
    description.unlink()
    (out / "story-000000-scene-1.txt").unlink()
    return out


def test_a_folder_is_trained_on_without_a_recipe_and_the_choice_can_be_edited(
    clips: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def read(path: Path, **how: Any) -> list[ShotGroup]:
        reads.append(path)
        return read_groups(path, **how)

    monkeypatch.setattr(datasets, "read_groups", read)
    own = OwnClips(data=clips, model=str(model), cache=tmp_path / "cache")
    chosen = choose(own, SilentReporter())
    assert check_data(chosen.recipe, SilentReporter(), found=chosen.found) is not None
    assert reads == [clips]
    text = text_of(chosen)
    assert "# " in text
    edited = tmp_path / "edited.yaml"
    edited.write_text(re.sub(r"\nsteps: \d+\n", "\nsteps: 2\n", text))
    recipe = load_training_recipe(edited)
    assert (recipe.stage, recipe.steps, recipe.data.source) == ("pretrain", 2, str(clips))
    summary = check_data(recipe, SilentReporter(), cache=tmp_path / "cache")
    assert summary is not None
    assert (summary.num_videos, summary.num_readable, summary.rejects) == (5, 5, ())
    reads.clear()
    reporter = RecordingReporter()
    report = train_on(own, reporter, run=tmp_path / "run", num_threads=1, max_minutes=0)
    assert "the time is up after step 1 of 64; resuming the run continues it" in reporter.notes
    assert reads == [clips]
    assert (report.step, report.held_out_loss) == (1, None)
    assert (report.model / "model_index.json").is_file()
    written = load_document(tmp_path / "run" / "recipe.yaml", TrainingRecipe)
    assert written.model_copy(update={"steps": 2}) == recipe
    # Resuming takes the recipe of the run folder, whatever would be chosen now, and the settings.
    again = train_on(
        replace(own, data=tmp_path, settings=parse_settings(["steps=2"])),
        SilentReporter(),
        run=tmp_path / "run",
        resume=True,
        num_threads=1,
    )
    assert (again.step, again.outcome) == (2, "finished")


def test_what_is_chosen_follows_from_what_is_set(clips: Path, model: Path, tmp_path: Path) -> None:
    own = OwnClips(data=clips, cache=tmp_path / "cache")

    def chosen(*settings: str) -> ChosenRecipe:
        of_model = parse_settings([f"model={model}", *settings])
        return choose(replace(own, settings=of_model), SilentReporter())

    few = chosen("data.num_stories=4", "steps=4", "batch_size=2", "video.fps=4", "video.num_frames=5")
    assert few.recipe.model == str(model)
    assert len(few.found.groups) == 4
    assert (few.recipe.schedule.warmup_steps, few.recipe.log_every_steps) == (0, 1)
    assert few.reasons[1].startswith("stage pretrain: 4 clips")
    assert few.reasons[2:] == (
        "5 frames of 32x32 at 4 per second: as given",
        "4 steps of 2 samples on cpu, in low-rank adapters",
    )
    assert chosen("schedule.warmup_steps=1", "steps=40").recipe.schedule.warmup_steps == 1
    alone = chosen("stage=base", "data.held_out=1")
    assert (alone.recipe.num_scenes, alone.recipe.evaluation.num_samples) == (1, 1)
    assert alone.reasons[1] == "stage base: 5 single clips; 1 of them held out"
    pair = chosen("num_scenes=2")
    assert pair.reasons[1].startswith("stage pretrain: 5 clips or stories, 2 different ones")
    with pytest.raises(InputError, match=r"set data.source: the clips are those of .*; leave this out"):
        chosen("data.source=other")
    with pytest.raises(DatasetError, match="no story of several scenes for stage sft"):
        chosen("stage=sft")


def test_an_unknown_stage_is_refused_before_the_clips_are_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"stage finetune: allowed: base, pretrain, sft"):
        choose(OwnClips(data=tmp_path, stage="finetune"), SilentReporter())


def test_data_that_is_not_here_yet_is_not_checked(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "recipes" / "training"
    for name in ("puppet-sft.yaml", "cogvideox-5b-sft.yaml"):
        assert check_data(load_training_recipe(folder / name), SilentReporter(), cache=tmp_path) is None


def test_a_missing_recipe_or_a_dataset_in_its_place_names_what_helps(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nothere.yaml: no such file") as missing:
        load_training_recipe(tmp_path / "nothere.yaml")
    with pytest.raises(InputError, match=r"is a dataset, not a training recipe") as dataset:
        load_training_recipe(tmp_path)
    assert missing.value.remedy is dataset.value.remedy is Remedy.TRAIN_ON_CLIPS

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from m2d.data.dataset_text import Shot, ShotGroup
from m2d.data.decode import Broken, VideoFacts
from m2d.data.scan import Scanned, ScannedData
from m2d.errors import DatasetError, InputError
from m2d.families.source import ModelSource, resolve_model
from m2d.recipe.loader import parse_document
from m2d.training.defaults import ChosenRecipe, choose_recipe, data_of_clips, fit_to_memory
from m2d.training.machine import Machine
from m2d.training.needs import training_needs
from m2d.training.recipe import TrainingRecipe
from m2d.training.recipe_text import recipe_text
from tests.m2d.model.tiny_model import build_tiny_model

LAPTOP = Machine(device="cpu", memory_bytes=8 << 30, num_cores=4)
FACTS = VideoFacts(
    sha256="0", num_frames=48, fps=24.0, times_s=(), width=640, height=480, shape=4 / 3, notes=()
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("model"))))


def _choose(
    model: ModelSource,
    counts: Sequence[int],
    *,
    facts: Sequence[VideoFacts | Broken] = (),
    machine: Machine = LAPTOP,
    **options: Any,
) -> ChosenRecipe:
    """Choose for groups of `counts` clips; `facts` are those of the first clips, FACTS of the others."""
    names = [[Path(f"clips/{group}-{shot}.mp4") for shot in range(n)] for group, n in enumerate(counts)]
    groups = [
        ShotGroup(shots=tuple(Shot(video=path, caption="x", place=str(path)) for path in paths), place="g")
        for paths in names
    ]
    videos = [path for paths in names for path in paths]
    found = [*facts, *[FACTS] * (len(videos) - len(facts))]
    scanned = {path: Scanned(identity="1", found=each) for path, each in zip(videos, found, strict=True)}
    options.setdefault("stage", None)
    found = ScannedData(groups=groups, scanned=scanned)
    data = data_of_clips(Path("clips"), (), machine)
    return choose_recipe(found, model=model, machine=machine, data=data, **options)


def test_products_are_in_bfloat16_where_the_processor_has_them(model: ModelSource) -> None:
    assert _choose(model, [3] * 5).recipe.precision == "float32"
    quick = replace(LAPTOP, has_bfloat16=True)
    assert _choose(model, [3] * 5, machine=quick).recipe.precision == "bfloat16"


@pytest.mark.parametrize(
    ("counts", "stage", "num_scenes", "held_out"),
    [
        ([3] * 20, "sft", 3, 2),
        ([3] * 5, "sft", 3, 0),
        ([2] * 8 + [3], "sft", 2, 0),
        ([1] * 30, "pretrain", 3, 3),
        ([1] * 6, "pretrain", 3, 0),
        ([1] * 2, "pretrain", 2, 0),
        ([1], "base", 1, 0),
    ],
)
def test_stories_are_fine_tuned_on_and_single_clips_are_pretrained_on(
    model: ModelSource, counts: list[int], stage: str, num_scenes: int, held_out: int
) -> None:
    recipe = _choose(model, counts).recipe
    found = (recipe.stage, recipe.num_scenes, recipe.data.held_out)
    assert found == (stage, num_scenes, held_out)
    assert recipe.batch_size <= sum(counts)


def test_the_stage_that_is_asked_for_is_taken(model: ModelSource) -> None:
    assert _choose(model, [3] * 5, stage="base").recipe.num_scenes == 1
    with pytest.raises(DatasetError, match=r"clips: no story of several scenes for stage sft"):
        _choose(model, [1] * 5, stage="sft")


def test_stories_need_the_scenes_that_are_asked_for(model: ModelSource) -> None:
    two = _choose(model, [3] * 5, given={"num_scenes": 2})
    assert two.reasons[1].startswith("stage sft: 5 stories of at least 2 scenes")
    with pytest.raises(DatasetError, match="no story of 4 scenes for stage sft"):
        _choose(model, [3] * 5, stage="sft", given={"num_scenes": 4})


def test_size_rate_and_length_are_the_models_own(model: ModelSource) -> None:
    video = _choose(model, [1] * 4).recipe.video
    assert (video.width, video.height, video.num_frames, video.fps) == (32, 32, 9, 8)


def test_slow_or_short_clips_lower_rate_and_length(model: ModelSource) -> None:
    slow = replace(FACTS, fps=6.0)
    assert _choose(model, [1] * 4, facts=[slow] * 4).recipe.video.fps == 6
    short = replace(FACTS, num_frames=16)
    assert _choose(model, [1] * 4, facts=[short] * 4).recipe.video.num_frames == 5
    # One clip in twelve does not decide for the others: it is left out.
    video = _choose(model, [1] * 12, facts=[replace(short, fps=6.0)]).recipe.video
    assert (video.num_frames, video.fps) == (9, 8)


def test_broken_clips_decide_nothing_and_end_nothing(model: ModelSource) -> None:
    broken = Broken(reason="is cut off")
    chosen = _choose(model, [3] * 3, facts=[FACTS, broken])
    assert (chosen.recipe.stage, chosen.recipe.num_scenes) == ("sft", 3)
    assert "8 clips can be read" in chosen.reasons
    with pytest.raises(DatasetError, match=r"no clip of 2 can be read; .*0-0.mp4: is cut off"):
        _choose(model, [1, 1], facts=[broken, broken])
    brief = replace(FACTS, num_frames=4)
    with pytest.raises(DatasetError, match=r"no clip can be used; .*0-0.mp4: has 4 frames at 24"):
        _choose(model, [1, 1], facts=[brief, brief])


def test_little_memory_divides_the_batch_and_recomputes(model: ModelSource) -> None:
    whole = _choose(model, [1] * 8).recipe
    assert (whole.accumulate, whole.gradient_checkpointing) == (1, False)
    needed = training_needs(whole).memory.total
    small = fit_to_memory(whole, replace(LAPTOP, memory_bytes=needed))
    assert small.accumulate > 1
    # The embedded models are small, too, and take a higher rate than CogVideoX.
    assert small.optimizer.lr > whole.optimizer.lr


def test_a_given_batch_that_is_smaller_than_the_processes_need_is_refused(model: ModelSource) -> None:
    two = replace(LAPTOP, num_processes=2)
    chosen = _choose(model, [1] * 8, machine=two, given={"batch_size": 1})
    with pytest.raises(InputError, match=r"batch_size: 1 samples cannot be shared evenly by 2 devices"):
        fit_to_memory(chosen.recipe, two)


def test_every_process_gets_a_share_of_the_batch(model: ModelSource) -> None:
    recipe = _choose(model, [1] * 20, machine=replace(LAPTOP, num_processes=3)).recipe
    assert recipe.batch_size % 3 == 0


@pytest.mark.parametrize("name", ["clips", "my clips, 'new'", "123", "\u0442\u0438\u0433", "a: b", "no"])
def test_the_written_recipe_is_read_back_as_it_is(model: ModelSource, name: str) -> None:
    recipe = _choose(model, [3] * 20).recipe
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": name})})
    text = recipe_text(recipe, header="Chosen.\nBecause.")
    assert text.startswith("# Chosen.\n# Because.\ntitle: clips\nstage: sft\n")
    assert parse_document(text, TrainingRecipe, name="text").value == recipe

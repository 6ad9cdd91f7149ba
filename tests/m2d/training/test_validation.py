"""Films in the middle of a training are those that the exported weights would make."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from m2d.errors import RecipeError
from m2d.families.loading import load_transformer
from m2d.families.source import ModelSource
from m2d.progress import SilentReporter
from m2d.training.validation import SourceInTraining, make_validation_films, plan_validation
from m2d.video.run_folder import read_run
from tests.m2d.tasks.studio import Studio, open_studio


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def story_file(folder: Path, **changes: object) -> str:
    document = {
        "title": "Some balls",
        "model": "a model that is not here",
        "scenes": ["a red ball", "a blue ball"],
        "sampling": {"num_inference_steps": 2, "guidance_scale": 2.0, "seed": 5},
        "video": {"num_frames": 5, "height": 16, "width": 16},
        **changes,
    }
    path = folder / "balls.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return str(path)


def in_training(source: ModelSource, *, factor: float = 1.0) -> SourceInTraining:
    """The source's own weights, each times `factor`."""
    transformer = load_transformer(source, device="cpu", dtype=torch.float32).eval().requires_grad_(False)
    for weight in transformer.parameters():
        weight.mul_(factor)
    return SourceInTraining(
        choice=source.choice,
        opened=source.opened,
        geometry=source.geometry,
        family=source.family,
        is_puppet=source.is_puppet,
        sampling=source.sampling,
        mask=source.mask,
        transformer=transformer,
    )


def test_a_film_in_training_is_the_film_of_the_same_weights(studio: Studio, tmp_path: Path) -> None:
    story = story_file(tmp_path)
    folder = tmp_path / "validation" / "step-7"
    source = in_training(studio.source)
    plans = plan_validation(source, [story], folder=folder, device="cpu")
    sheets = make_validation_films(plans, is_mixed=False, reporter=SilentReporter())
    assert sheets == {"balls": folder / "balls.m2d" / "sheet.png"}
    assert sheets["balls"].stat().st_size > 0
    expected = studio.generate(2).provenance
    made = read_run(folder / "balls.mp4").provenance
    assert made.frames_sha256 == expected.frames_sha256


def test_films_of_other_weights_say_so_and_take_the_place_of_earlier_ones(
    studio: Studio, tmp_path: Path
) -> None:
    story = story_file(tmp_path)
    digests = set()
    for factor in (1.0, 1.5):
        source = in_training(studio.source, factor=factor)
        plans = plan_validation(source, [story], folder=tmp_path, device="cpu")
        make_validation_films(plans, is_mixed=False, reporter=SilentReporter())
        digests.add(read_run(tmp_path / "balls.mp4").provenance.runs[0].model.digest)
    assert len(digests) == 2


def test_a_story_that_the_model_cannot_make_is_refused_before_training(
    studio: Studio, tmp_path: Path
) -> None:
    story = story_file(tmp_path, video={"num_frames": 6, "height": 16, "width": 16})
    with pytest.raises(RecipeError, match="num_frames: 6"):
        plan_validation(studio.source, [story], folder=tmp_path, device="cpu")

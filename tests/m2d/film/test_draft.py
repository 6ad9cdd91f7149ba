"""What can be seen before a film is made and while it is: a draft's sheet, and previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from m2d.diffusion.stepper import SceneStepper
from m2d.errors import BackendUnavailable, OutputError
from m2d.film.make import RunOptions
from m2d.registry import get_backend
from m2d.tasks import generate
from tests.m2d.tasks.studio import PROMPTS, Stopping, Studio, contents, frames_of, open_studio

DRAFT = RunOptions(draft=True)
COMPLETE = ["latents.safetensors", "run.json", "sheet.png"]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def two(studio: Studio) -> Path:
    return studio.generate(2, name="two").film


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_a_draft_is_drawn_first_and_changes_nothing(studio: Studio) -> None:
    plan = studio.plan(2, name="drafted", sampling={"num_inference_steps": 12})
    reporter = Stopping()
    result = generate.run(plan, get_backend("eager"), reporter=reporter, options=DRAFT)
    draft = result.run_folder / "draft.png"
    assert reporter.notes == [f"draft: {draft}"]
    assert (reporter.done["draft"], reporter.done["denoise"]) == (7, 12)
    assert size_of(draft) == size_of(result.run_folder / "sheet.png")
    assert sorted(contents(result.run_folder)) == ["draft.png", *COMPLETE]
    without = studio.generate(2, name="undrafted", sampling={"num_inference_steps": 12})
    assert frames_of(result.provenance) == frames_of(without.provenance)


def test_the_steps_of_a_draft_are_taken_once(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    step = SceneStepper.step

    def counted(stepper: SceneStepper, *latents: Tensor, index: int) -> Tensor:
        taken.append(index)
        return step(stepper, *latents, index=index)

    monkeypatch.setattr(SceneStepper, "step", counted)
    studio.generate(1, name="once", sampling={"num_inference_steps": 5}, options={"draft": True})
    assert taken == [0, 1, 2, 3, 4]


def test_a_draft_of_several_windows_changes_nothing(studio: Studio) -> None:
    sampling = {"num_inference_steps": 5, "speed": "fast", "scheduler": "dpm"}
    drafted = studio.generate(5, name="windows", sampling=sampling, options={"draft": True})
    without = studio.generate(5, name="windows without", sampling=sampling)
    assert frames_of(drafted.provenance) == frames_of(without.provenance)


def test_the_transformer_makes_room_before_anything_is_decoded(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, reporter, released = get_backend("eager"), Stopping(), []
    monkeypatch.setattr(type(backend), "release", lambda _: released.append(reporter.done.get("decode", 0)))
    generate.run(studio.plan(2, name="room"), backend, reporter=reporter, options=DRAFT)
    # Both times before the two scenes of the draft, and of the film, are decoded.
    assert released == [0, 2]


@pytest.mark.parametrize("only_new", [False, True])
def test_the_draft_of_an_extension_shows_what_will_be_written(
    only_new: bool, studio: Studio, two: Path
) -> None:
    out = studio.path(f"extended {only_new}")
    result = studio.extend(two, "a fish", draft=True, only_new=only_new, out=out)
    assert size_of(result.run_folder / "draft.png") == size_of(result.run_folder / "sheet.png")


def test_a_reroll_has_a_draft_and_previews_too(studio: Studio, two: Path) -> None:
    result = studio.reroll(two, 1, draft=True, save_previews=True)
    names = sorted(contents(result.run_folder))
    assert names == [
        "draft.png",
        "latents.safetensors",
        "previews/scenes-1-2/step-0001.png",
        "previews/scenes-1-2/step-0002.png",
        "run.json",
        "sheet.png",
    ]


@pytest.mark.parametrize("stage", ["draft", "decode", "denoise"])
def test_a_run_that_is_stopped_during_or_after_its_draft_is_resumed(stage: str, studio: Studio) -> None:
    sampling = {"num_inference_steps": 20}
    plan = studio.plan(2, name=f"stopped {stage}", sampling=sampling)
    reporter = Stopping(stage_to_stop=stage, after=6 if stage == "draft" else 1, raises=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        generate.run(plan, get_backend("eager"), reporter=reporter, options=DRAFT)
    assert (plan.output.with_suffix(".m2d") / "draft.png").exists() == (stage == "denoise")
    again = Stopping()
    resumed = generate.run(
        plan, get_backend("eager"), reporter=again, options=RunOptions(draft=True, resume=True)
    )
    assert ("draft" in again.done) == (stage != "denoise")
    assert (resumed.run_folder / "draft.png").exists()
    without = studio.generate(2, name=f"never stopped {stage}", sampling=sampling)
    assert frames_of(resumed.provenance) == frames_of(without.provenance)


def test_the_draft_of_a_film_that_is_replaced_is_removed(studio: Studio) -> None:
    old = studio.generate(1, name="old draft", options={"draft": True})
    assert (old.run_folder / "draft.png").exists()
    studio.generate(2, name="old draft", options={"force": True})
    assert not (old.run_folder / "draft.png").exists()


def test_what_is_in_the_way_is_told_before_a_draft_is_drawn(studio: Studio, two: Path) -> None:
    reporter = Stopping()
    with pytest.raises(OutputError, match=r"two\.mp4: exists already"):
        generate.run(studio.plan(2, name="two"), get_backend("eager"), reporter=reporter, options=DRAFT)
    with pytest.raises(BackendUnavailable, match="cuda:7"):
        studio.extend(two, "a fish", draft=True, out=studio.path("never"), overrides={"device": "cuda:7"})
    assert reporter.done == {}


@pytest.mark.long
def test_previews_are_drawn_of_every_window_about_ten_times(studio: Studio) -> None:
    result = studio.generate(
        4,
        name="watched",
        options={"save_previews": True},
        sampling={"num_inference_steps": 25, "guidance_scale": 1.0},
    )
    steps = [f"step-{step:04d}.png" for step in [*range(2, 25, 2), 25]]
    folder = result.run_folder / "previews"
    assert sorted(path.name for path in folder.iterdir()) == ["scenes-1-3", "scenes-2-4"]
    for window in folder.iterdir():
        assert sorted(path.name for path in window.iterdir()) == steps
    # The last one is what the film begins with.
    first_HWC = np.asarray(Image.open(folder / "scenes-1-3" / steps[0]))
    last_HWC = np.asarray(Image.open(folder / "scenes-1-3" / steps[-1]))
    assert first_HWC.shape == last_HWC.shape
    assert not np.array_equal(first_HWC, last_HWC)
    without = studio.generate(
        4, name="unwatched", sampling={"num_inference_steps": 25, "guidance_scale": 1.0}
    )
    assert frames_of(result.provenance) == frames_of(without.provenance)


def test_previews_of_a_film_that_is_replaced_are_removed(studio: Studio) -> None:
    old = studio.generate(1, name="replaced", options={"save_previews": True})
    mine = old.run_folder / "previews" / "mine.txt"
    mine.write_text("mine")
    studio.generate(2, name="replaced", options={"save_previews": True, "force": True})
    folders = sorted(path.name for path in (old.run_folder / "previews").iterdir())
    assert folders == ["mine.txt", "scenes-1-2"]


def test_a_resumed_run_goes_on_with_its_previews(studio: Studio) -> None:
    plan = studio.plan(name="resumed", scenes=PROMPTS[:2], sampling={"num_inference_steps": 6})
    reporter = Stopping(stage_to_stop="denoise", after=5, raises=KeyboardInterrupt)
    options = RunOptions(save_previews=True)
    with pytest.raises(KeyboardInterrupt):
        generate.run(plan, get_backend("eager"), reporter=reporter, options=options)
    again = RunOptions(save_previews=True, resume=True)
    result = generate.run(plan, get_backend("eager"), reporter=Stopping(), options=again)
    names = [path.name for path in sorted((result.run_folder / "previews" / "scenes-1-2").iterdir())]
    assert names == [f"step-000{step}.png" for step in range(1, 7)]

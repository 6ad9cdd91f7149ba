"""Films with step caching: what is reported and recorded, and that an interruption changes no bit."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from m2d.backend import BackendOptions, Denoiser
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import Interrupted, RecipeError
from m2d.families.loading import load_scheduler
from m2d.families.source import ModelSource
from m2d.film.inherit import plan_on
from m2d.film.make import FilmResult, RunOptions
from m2d.layout import SceneLayout
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan
from m2d.recipe.schema import Recipe
from m2d.tasks import generate
from tests.m2d.diffusion.known_denoisers import GaussianDenoiser
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Stopping, Studio, open_studio

SAMPLING = {"num_inference_steps": 12, "speed": "fast", "guidance_scale": 1.0}
RECORDED = ("num_steps_foretold", "foretold_error_mean", "foretold_error_max")


class SmoothBackend:
    """Denoises to blurred noise along a smooth path, as a trained model does and random weights do not."""

    name: ClassVar[str] = "smooth"

    def __init__(self) -> None:
        self.denoisers: list[GaussianDenoiser] = []

    @property
    def num_calls(self) -> int:
        return sum(len(denoiser.calls) for denoiser in self.denoisers)

    def unavailable_reason(self, device: str | None = None) -> None:
        del device

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        schedule = VelocitySchedule.from_scheduler(load_scheduler(source))
        mean_BFCHW = torch.zeros(1, sum(layout.latent_frames), source.geometry.latent_channels, 4, 4)
        self.denoisers.append(
            GaussianDenoiser(
                layout=layout,
                schedule=schedule,
                mean_BFCHW=mean_BFCHW,
                spread=0.5,
                targets=options.targets or (),
            )
        )
        return self.denoisers[-1]

    def release(self) -> None:
        pass


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


def run(plan: RunPlan, backend: SmoothBackend, reporter: Any = None, **options: bool) -> FilmResult:
    return generate.run(
        plan, backend, reporter=reporter or RecordingReporter(), options=RunOptions(**options)
    )


def test_a_faster_film_runs_the_model_less_and_reports_the_estimated_error(studio: Studio) -> None:
    backend, told = SmoothBackend(), RecordingReporter()
    result = run(studio.plan(1, name="fast", sampling=SAMPLING), backend, told)
    parameters = result.provenance.last_run.parameters
    skipped, mean, largest = (parameters[name] for name in RECORDED)
    assert parameters["speed"] == "fast"
    assert isinstance(skipped, int)
    assert isinstance(mean, float)
    assert isinstance(largest, float)
    assert backend.num_calls == 12 - skipped < 12
    assert 0 < mean <= largest
    (note,) = told.notes
    assert note == f"skipped {skipped} of 12 steps; estimated error {mean:.1%}, at most {largest:.1%}"


def test_an_exact_film_skips_no_step_and_reports_none(studio: Studio) -> None:
    backend, told = SmoothBackend(), RecordingReporter()
    result = run(studio.plan(1, name="exact", sampling=SAMPLING | {"speed": "exact"}), backend, told)
    assert (backend.num_calls, told.notes) == (12, [])
    assert not set(RECORDED) & set(result.provenance.last_run.parameters)


@pytest.mark.parametrize("after", [7, 19], ids=["first window", "second window"])
def test_an_interrupted_film_ends_with_the_bits_and_the_record_of_the_straight_one(
    studio: Studio, after: int
) -> None:
    straight = run(studio.plan(4, name=f"straight-{after}", sampling=SAMPLING), SmoothBackend())
    plan = studio.plan(4, name=f"stopped-{after}", sampling=SAMPLING)
    with pytest.raises(Interrupted, match="finished work is kept"):
        run(plan, SmoothBackend(), Stopping(stage_to_stop="denoise", after=after))
    resumed = run(plan, SmoothBackend(), resume=True)
    assert resumed.frames_sha256 == straight.frames_sha256
    assert resumed.provenance.last_run.parameters == straight.provenance.last_run.parameters
    assert all(straight.provenance.last_run.parameters[name] for name in RECORDED)


def test_an_unknown_speed_is_rejected_with_the_fields_name(studio: Studio) -> None:
    recipe = Recipe.model_validate({"title": "A ball", "model": studio.source.name, "scenes": ("a ball",)})
    with pytest.raises(
        RecipeError, match=r"sampling\.speed: 'warp' is not known; use one of 'exact', 'balanced', 'fast'"
    ):
        plan_on(recipe, studio.source, None, overrides=Overrides(speed="warp"))

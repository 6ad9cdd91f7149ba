"""Backends that are known to be right or wrong, compared with eager on a tiny film."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from m2d_backends.eager import EagerBackend, EagerDenoiser
from torch import Tensor

from m2d.backend import Backend, BackendOptions, Denoiser, StoredArtifact
from m2d.errors import ArtifactMissing, BackendUnavailable
from m2d.families.source import ModelSource
from m2d.layout import SceneLayout
from m2d.pipeline.comparison import film_difference, step_difference
from m2d.pipeline.graphs import MissingGraphs
from m2d.progress import SilentReporter
from m2d.registry import get_backend
from m2d.tasks import verify
from m2d.tasks.verify import BackendVerdict, VerifyReport
from tests.m2d.tasks.studio import Studio, open_studio

Change = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


class ChangedBackend:
    """Eager, with something done to every velocity."""

    name: ClassVar[str] = "changed"

    def __init__(self, change: Change, *, reason: str | None = None) -> None:
        self._eager, self._change, self._reason = get_backend("eager"), change, reason

    def unavailable_reason(self, device: str | None = None) -> str | None:
        del device
        return self._reason

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        return ChangedDenoiser(self._eager.prepare(source, layout, options), self._change)

    def release(self) -> None:
        self._eager.release()


@dataclass(kw_only=True)
class ExportedBackend(ChangedBackend):
    """Runs nothing that was not exported before."""

    exported: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(lambda velocity: velocity)

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        self.find(source, layout, options)
        return super().prepare(source, layout, options)

    def find(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Path:
        del source, options
        if layout.digest() not in self.exported:
            raise ArtifactMissing("no graph")
        return Path()

    def export(self, source: ModelSource, layout: SceneLayout, options: Any, *, out: Any = None) -> Any:
        del source, options, out
        self.exported.append(layout.digest())

    def stored(self, folder: Path | None = None) -> tuple[StoredArtifact, ...]:
        del folder
        return ()


class ChangedDenoiser:
    def __init__(self, denoiser: Denoiser, change: Change) -> None:
        self.layout, self.targets = denoiser.layout, denoiser.targets
        self._denoiser, self._change = denoiser, change

    def predict(self, *inputs: Tensor) -> Tensor:
        return self._change(self._denoiser.predict(*inputs))


def compare(
    studio: Studio, backend: Backend, *, num_scenes: int = 1, required: bool = False, **options: Any
) -> VerifyReport:
    plan = studio.plan(num_scenes, **options.pop("story", {}))
    find = {"eager": get_backend("eager"), "changed": backend}.__getitem__
    reporter = SilentReporter()
    return verify.run(plan, ["changed"], find_backend=find, reporter=reporter, required=required, **options)


def test_a_backend_that_computes_the_same_is_the_same_in_every_window(studio: Studio) -> None:
    report = compare(studio, ChangedBackend(lambda velocity: velocity), num_scenes=4)
    (verdict,) = report.verdicts
    assert (verdict.state, report.all_same) == ("same", True)
    assert [(step.window, step.step) for step in verdict.steps] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert {step.relative_error for step in verdict.steps} == {0.0}
    assert verdict.film is not None
    assert (verdict.film.max_pixel_difference, verdict.film.psnr_db) == (0, float("inf"))


@pytest.mark.parametrize(("factor", "state"), [(1 + 4e-6, "same"), (1 + 4e-5, "different")])
def test_a_step_may_be_off_by_one_in_a_hundred_thousand(studio: Studio, factor: float, state: str) -> None:
    report = compare(studio, ChangedBackend(lambda velocity: velocity * factor))
    (verdict,) = report.verdicts
    assert verdict.state == state
    assert verdict.worst_step is not None
    # Measured in float32, whose unit is 1.2e-7.
    assert verdict.worst_step.relative_error == pytest.approx(factor - 1, abs=1.2e-7)
    assert verdict.worst_step.cosine == pytest.approx(1)


def test_half_precision_is_allowed_its_own_rounding_and_its_frames_are_not_judged(studio: Studio) -> None:
    story = {"backend": {"dtype": "bfloat16"}}
    report = compare(studio, ChangedBackend(lambda velocity: velocity * 1.02), story=story)
    assert (report.step_tolerance, report.pixel_tolerance) == (2**-5, None)
    assert report.verdicts[0].state == "same"
    report = compare(studio, ChangedBackend(lambda velocity: velocity * 1.05), story=story)
    assert report.verdicts[0].state == "different"


def test_guidance_in_two_passes_counts_the_worse_of_both(studio: Studio) -> None:
    calls: list[int] = []

    def every_second_is_wrong(velocity: Tensor) -> Tensor:
        calls.append(len(calls))
        return velocity * (1.5 if calls[-1] % 2 else 1.0)

    story = {"sampling": {"cfg": "sequential"}}
    report = compare(studio, ChangedBackend(every_second_is_wrong), story=story)
    assert [step.relative_error for step in report.verdicts[0].steps] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("wrong", [lambda v: v[:, 1:], lambda v: v * torch.nan], ids=["shape", "not finite"])
def test_an_answer_of_another_shape_or_without_numbers_is_infinitely_wrong(wrong: Change) -> None:
    velocity = torch.ones(1, 3, 4, 2, 2)
    step = step_difference(velocity, wrong(velocity), window=0, step=1)
    assert (step.relative_error, step.cosine) == (float("inf"), 0.0)


def test_a_backend_that_cannot_run_here_is_an_error_only_when_it_was_asked_for(studio: Studio) -> None:
    backend = ChangedBackend(lambda velocity: velocity, reason="the package foo is not installed")
    with pytest.raises(BackendUnavailable, match="backend 'changed': the package foo is not installed"):
        compare(studio, backend, required=True)


def test_a_missing_graph_is_told_or_exported(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    (verdict,) = compare(studio, ExportedBackend()).verdicts
    told = "no graph; export this story for changed first, or add --export here"
    assert (verdict.state, verdict.problem) == ("not run", told)
    with monkeypatch.context() as patch:
        # A graph that is asked for is looked for before eager runs.
        patch.setattr(verify, "RecordingBackend", None)
        with pytest.raises(MissingGraphs, match="no graph"):
            compare(studio, ExportedBackend(), required=True)
    backend = ExportedBackend()
    assert compare(studio, backend, export=True).verdicts[0].state == "same"
    assert len(backend.exported) == 1


def test_speeds_are_compared_with_the_exact_film_whatever_the_storys_own(studio: Studio) -> None:
    plan = studio.plan(1, sampling={"num_inference_steps": 4, "speed": "fast"})
    options: Any = {"find_backend": get_backend, "reporter": SilentReporter(), "required": False}
    report = verify.run(plan, ["eager"], speeds=("fast",), **options)
    # All steps are compared, though the story would leave some out.
    assert [step.step for step in report.verdicts[0].steps] == [1, 2, 3, 4]
    assert report.all_same
    assert list(report.speeds) == ["fast"]


def test_frames_are_compared_without_wrapping_around() -> None:
    black, almost_white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 250, np.uint8)
    difference = film_difference(black, almost_white)
    assert (difference.max_pixel_difference, difference.differing_share) == (250, 1.0)
    assert difference.psnr_db == pytest.approx(20 * np.log10(255 / 250))


def verified(studio: Studio, num_scenes: int, name: str = "eager", **story: Any) -> BackendVerdict:
    plan = studio.plan(num_scenes, **story)
    options: Any = {"find_backend": get_backend, "reporter": SilentReporter(), "required": True}
    (verdict,) = verify.run(plan, [name], **options).verdicts
    return verdict


@pytest.mark.parametrize("cfg", ["batched", "sequential"])
def test_context_that_is_computed_once_is_compared_with_context_that_is_computed_anew(
    studio: Studio, cfg: str
) -> None:
    verdict = verified(studio, 4, mask="causal", sampling={"cfg": cfg})
    assert verdict.state == "same"
    # Two scenes; blocks, keys and values, both predictions, tokens of a scene, width, bytes.
    assert verdict.context_bytes == 2 * 2 * 2 * 2 * (2 * 2 * 2) * 32 * 4
    errors = {step.window: step.relative_error for step in verdict.steps}
    # What is kept was summed in another order: the comparison really is of two ways.
    assert errors[0] == 0.0
    assert 0.0 < errors[1] <= 1e-6


@pytest.mark.parametrize(
    "story", [{"mask": "mask2dit"}, {"mask": "causal", "sampling": {"keep_context": False}}]
)
def test_context_is_computed_anew_where_it_has_to_be_or_is_wanted(
    studio: Studio, story: dict[str, Any]
) -> None:
    verdict = verified(studio, 4, **story)
    assert (verdict.state, verdict.context_bytes) == ("same", 0)
    assert {step.relative_error for step in verdict.steps} == {0.0}


class Forgetful(EagerBackend):
    """Keeps the context of other prompts than it was given."""

    name: ClassVar[str] = "changed"

    def prepare(self, *asked: Any) -> EagerDenoiser:
        class Denoiser(EagerDenoiser):
            def keep_context(self, latents: Tensor, prompts: Tensor, *, targets: Any) -> EagerDenoiser:
                return super().keep_context(latents, torch.zeros_like(prompts), targets=targets)

        right = super().prepare(*asked)
        return Denoiser(right._transformer, right.layout, right.targets)


def test_context_that_is_kept_wrongly_is_noticed(studio: Studio) -> None:
    (verdict,) = compare(studio, Forgetful(), num_scenes=4, story={"mask": "causal"}).verdicts
    assert verdict.state == "different"
    assert [step.relative_error > 1e-5 for step in verdict.steps] == [False, False, True, True]


def test_a_backend_has_the_recipe_s_options_and_the_reference_and_others_have_not(studio: Studio) -> None:
    tables = {"name": "eager", "options": {"timestep_tables": True}}
    assert verified(studio, 4, backend=tables).state == "same"
    unknown = {"name": "changed", "options": {"warp": 9}}
    asked: list[BackendOptions] = []

    class Listening(ChangedBackend):
        def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
            asked.append(options)
            return super().prepare(source, layout, dataclasses.replace(options, extra={}))

    report = compare(studio, Listening(lambda velocity: velocity), story={"backend": unknown})
    assert report.all_same
    assert {options.extra["warp"] for options in asked} == {"9"}

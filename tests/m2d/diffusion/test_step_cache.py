"""Step caching: where it is exact, that skipped steps run no model, and that resuming changes no bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from m2d.diffusion.denoise import DenoiseReport, DenoiseState, StepEvent, denoise
from m2d.diffusion.schedulers import scheduler_from_config
from m2d.diffusion.step_cache import STEP_CACHE_RULES, StepCache, StepCacheRule
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import UnusableState
from tests.m2d.diffusion.test_denoise import MEAN, denoiser_for, given, request_for

STEPS = 20


@pytest.fixture
def scheduler(scheduler_config: dict[str, Any]) -> Any:
    return scheduler_from_config(scheduler_config, "ddim")


@pytest.fixture
def schedule(scheduler: Any) -> VelocitySchedule:
    return VelocitySchedule.from_scheduler(scheduler)


def run(
    scheduler: Any, speed: str, *, spread: float = 0.5, **changes: Any
) -> tuple[Tensor, DenoiseReport, int]:
    """Return the latents, the report and the number of model calls."""
    reports: list[DenoiseReport] = []
    denoiser = denoiser_for(scheduler, spread=spread)
    request = request_for(num_inference_steps=STEPS, speed=speed, **changes)
    latents = denoise(denoiser, scheduler, request, on_report=reports.append)
    return latents, reports[0], len(denoiser.calls)


def test_every_step_is_computed_unless_another_speed_is_asked_for(scheduler):
    _, report, num_calls = run(scheduler, "exact")
    assert (num_calls, report.speed) == (STEPS, None)
    assert request_for().speed == "exact"


@pytest.mark.parametrize("speed", ["balanced", "fast"])
def test_a_model_that_knows_the_one_true_film_is_extrapolated_exactly(scheduler, speed):
    latents, report, num_calls = run(scheduler, speed, spread=0.0)
    torch.testing.assert_close(latents, MEAN, rtol=0, atol=1e-4)
    assert report.speed is not None
    # Two computed steps to extrapolate from, a third to measure the error; then the most that may be skipped.
    most = STEP_CACHE_RULES[speed].max_in_a_row
    assert num_calls == STEPS - report.speed.num_skipped
    assert report.speed.num_skipped >= (STEPS - 4) * most // (most + 1) - 1
    assert max(report.speed.errors) < 1e-4


def test_a_faster_speed_runs_the_model_less_and_errs_more(scheduler):
    exact = run(scheduler, "exact")[0]
    balanced, of_balanced, calls_balanced = run(scheduler, "balanced")
    fast, of_fast, calls_fast = run(scheduler, "fast")
    assert calls_fast < calls_balanced < STEPS
    assert 0 < (balanced - exact).norm() < (fast - exact).norm() < 0.1 * exact.norm()
    for report, calls in ((of_balanced, calls_balanced), (of_fast, calls_fast)):
        assert report.speed is not None
        assert report.speed.num_steps - report.speed.num_skipped == calls


@pytest.mark.parametrize("changes", [{}, given(1)], ids=["all scenes", "with context"])
@pytest.mark.parametrize("name", ["ddim", "dpm", "unipc"])
def test_a_resumed_run_gives_the_bits_and_the_report_of_the_straight_one(scheduler_config, name, changes):
    scheduler = scheduler_from_config(scheduler_config, name)
    request = request_for(num_inference_steps=12, speed="fast", **changes)
    states: list[DenoiseState] = []
    reports: list[DenoiseReport] = []

    def keep(event: StepEvent) -> None:
        states.append(event.state())

    def denoised(**options: Any) -> Tensor:
        denoiser = denoiser_for(scheduler, spread=0.5)
        return denoise(denoiser, scheduler, request, on_report=reports.append, **options)

    straight = denoised(on_step=keep)
    for state in states:
        assert torch.equal(denoised(resume=state), straight)
    assert reports[0].speed is not None
    assert reports[0].speed.num_skipped > 0
    assert all(report == reports[0] for report in reports)


def test_the_state_of_an_exact_run_is_refused_by_a_faster_one(scheduler):
    states: list[DenoiseState] = []
    request = request_for()
    denoise(denoiser_for(scheduler), scheduler, request, on_step=lambda event: states.append(event.state()))
    fast = dataclasses.replace(request, speed="fast")
    with pytest.raises(UnusableState, match=r"the state is of a run without step caching \(speed exact\)"):
        denoise(denoiser_for(scheduler), scheduler, fast, resume=states[3])


OTHER_TENSORS: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda tensor: torch.full_like(tensor.double(), float("nan")).to(
        tensor.dtype if tensor.is_floating_point() else torch.float32
    ),
    "type": lambda tensor: tensor.to(torch.float16),
    "shape": lambda tensor: torch.cat([tensor.reshape(-1), tensor.reshape(-1)]),
}


@pytest.mark.parametrize("name", ["dpm", "unipc"])
def test_a_state_with_any_other_tensor_is_refused(scheduler_config, name):
    scheduler = scheduler_from_config(scheduler_config, name)
    request = request_for(num_inference_steps=6, speed="fast")
    states: list[DenoiseState] = []
    denoiser = denoiser_for(scheduler, spread=0.5)
    denoise(denoiser, scheduler, request, on_step=lambda event: states.append(event.state()))
    state = states[3]

    def refused(steps_done: int = state.steps_done, **tensors: Tensor | None) -> None:
        changed = {key: value for key, value in {**state.tensors, **tensors}.items() if value is not None}
        with pytest.raises(UnusableState):
            denoise(denoiser, scheduler, request, resume=DenoiseState(steps_done=steps_done, tensors=changed))

    for key, tensor in state.tensors.items():
        for change in OTHER_TENSORS.values():
            refused(**{key: change(tensor)})
        refused(**{key: None})
        if not tensor.is_floating_point():
            refused(**{key: tensor + 1})
    refused(**{"scene_000.x.0": torch.zeros(1)})
    for steps_done in (-1, 3, 5, 7, 2**70):
        refused(steps_done)
    numbers = state.tensors["step_cache.numbers"]
    for place in range(1, 4):
        for value in (-1.0, 1e18, 99.0):
            changed = numbers.clone()
            changed[place] = value
            refused(**{"step_cache.numbers": changed})


def test_clean_estimates_are_continued_in_a_straight_line(schedule):
    line = {t: torch.full((1, 1, 1, 1, 1), 2.0 - t / 500) for t in (900, 800, 750, 700, 600)}
    noisy = torch.full((1, 1, 1, 1, 1), 0.3)
    cache = StepCache(StepCacheRule(tolerance=0.01, max_in_a_row=9), schedule)

    def velocity(timestep: int) -> Tensor:
        return schedule.velocity_of(noisy, line[timestep], torch.tensor([timestep]))

    def ask(timestep: int) -> Tensor:
        return cache.velocity(noisy, timestep, compute=lambda: velocity(timestep), is_last=False)

    for timestep in (900, 800, 750):
        assert torch.equal(ask(timestep), velocity(timestep))
    for timestep in (700, 600):
        torch.testing.assert_close(ask(timestep), velocity(timestep))
    assert (cache.report().num_skipped, cache.report().num_steps) == (2, 5)


def test_an_error_above_the_tolerance_has_the_next_step_computed(schedule):
    noisy = torch.ones(1, 1, 1, 1, 1)
    cache = StepCache(StepCacheRule(tolerance=0.05, max_in_a_row=9), schedule)
    answers = {900: 1.0, 850: 1.0, 800: 3.0, 750: 1.0, 700: 2.0}
    for timestep, answer in answers.items():
        cache.velocity(
            noisy, timestep, compute=lambda answer=answer: torch.full_like(noisy, answer), is_last=False
        )
    assert cache.report().num_skipped == 0
    assert min(cache.report().errors) > 0.05


def test_no_more_steps_in_a_row_are_skipped_than_the_rule_allows_and_never_the_last(schedule):
    noisy = torch.zeros(1, 1, 1, 1, 1)
    cache = StepCache(StepCacheRule(tolerance=0.5, max_in_a_row=2), schedule)
    computed: list[int] = []
    for timestep in range(950, 0, -50):

        def compute(timestep: int = timestep) -> Tensor:
            computed.append(timestep)
            return schedule.velocity_of(noisy, torch.ones_like(noisy), torch.tensor([timestep]))

        cache.velocity(noisy, timestep, compute=compute, is_last=timestep == 50)
    assert computed == [950, 900, 850, 700, 550, 400, 250, 100, 50]

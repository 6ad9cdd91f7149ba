"""The loop against denoisers whose answer is known, and the promises it makes about scenes.

Every test runs with the noise levels of CogVideoX-5B and of CogVideoX-2B.
"""

import dataclasses
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, DenoiseState, StepEvent, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.noise import draw_noise
from m2d.diffusion.schedulers import SCHEDULERS, SchedulerError, scheduler_from_config
from m2d.diffusion.velocity import VelocitySchedule
from m2d.errors import BackendError, LayoutMismatch, UnusableState
from m2d.layout import SceneLayout
from tests.m2d.diffusion.known_denoisers import GaussianDenoiser

LAYOUT = SceneLayout.build("mask2dit", text_tokens=(2, 2, 2), latent_frames=(2, 3, 1), tokens_per_frame=4)
FRAMES = [slice(0, 2), slice(2, 5), slice(5, 6)]
SHAPE = (3, 4, 4)
DETERMINISTIC = [name for name in SCHEDULERS if name != "dpm"]


def latents_of(seed: int) -> Tensor:
    return torch.randn(1, 6, *SHAPE, generator=torch.Generator().manual_seed(seed))


MEAN = latents_of(100)


def embeds_of(*shifts: float) -> Tensor:
    """Prompts that move scene i's mean by `shifts[i]`."""
    embeds_BLD = torch.zeros(1, 6, 5)
    embeds_BLD[0, ::2, 0] = torch.tensor(shifts)
    return embeds_BLD


def request_for(**changes: Any) -> DenoiseRequest:
    settings: dict[str, Any] = {
        "layout": LAYOUT,
        "scene_seeds": (1, 2, 3),
        "latent_shape": SHAPE,
        "prompt_embeds_BLD": embeds_of(0.0, 0.0, 0.0),
        "conditioning": Conditioning(num_scenes=3),
        "guidance": GuidanceRule(scales=(1.0, 1.0, 1.0)),
        "num_inference_steps": 8,
    }
    return DenoiseRequest(**(settings | changes))


def given(*scenes: int) -> dict[str, Any]:
    """The request settings that make `scenes` clean context."""
    return {
        "conditioning": Conditioning(num_scenes=3, context=frozenset(scenes)),
        "context_latents_BFCHW": latents_of(200),
    }


def denoiser_for(scheduler: Any, **changes: Any) -> GaussianDenoiser:
    schedule = VelocitySchedule.from_scheduler(scheduler)
    return GaussianDenoiser(**({"layout": LAYOUT, "schedule": schedule, "mean_BFCHW": MEAN} | changes))


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest, scheduler_config: dict[str, Any]) -> Any:
    return scheduler_from_config(scheduler_config, request.param)


@pytest.mark.parametrize("num_inference_steps", [1, 2, 8, 30, 60, 61])
def test_a_model_that_knows_the_one_true_film_leads_every_scheduler_to_it(scheduler, num_inference_steps):
    request = request_for(num_inference_steps=num_inference_steps)
    latents = denoise(denoiser_for(scheduler), scheduler, request)
    # The last step returns the model's own x0, read from float32 latents of a few units. Only a single Euler
    # step subtracts noise of 4096 times the signal: 4096 * eps = 5e-4.
    single_euler = hasattr(scheduler, "is_scale_input_called") and num_inference_steps == 1
    torch.testing.assert_close(latents, MEAN, rtol=0, atol=2e-3 if single_euler else 1e-5)


def initial_noise(*, seeds: tuple[int, int, int] = (1, 2, 3)) -> Tensor:
    counts = [frames.stop - frames.start for frames in FRAMES]
    parts = [
        draw_noise((1, count, *SHAPE), seed=seed, purpose="initial noise", scene=scene)
        for scene, (count, seed) in enumerate(zip(counts, seeds, strict=True))
    ]
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("name", ["ddim", "euler"])
@pytest.mark.parametrize("num_inference_steps", [7, 30, 50])
def test_first_order_schedulers_equal_ddim_written_out_in_float64(
    scheduler_config, name, num_inference_steps
):
    scheduler = scheduler_from_config(scheduler_config, name)
    denoiser = denoiser_for(scheduler, spread=0.5)
    latents = denoise(denoiser, scheduler, request_for(num_inference_steps=num_inference_steps))
    # DDIM (arXiv 2010.02502, Eq. 12 with sigma = 0) for Gaussian data, deviations from the mean only.
    cumprod_T = scheduler_from_config(scheduler_config).alphas_cumprod.double()
    steps = [round(1000 - k * 1000 / num_inference_steps) - 1 for k in range(num_inference_steps)]
    deviation = initial_noise().double() - cumprod_T[999].sqrt() * MEAN
    for timestep, following in zip(steps, [*steps[1:], -1], strict=True):
        signal = cumprod_T[timestep]
        x0 = signal.sqrt() * 0.25 / (signal * 0.25 + 1 - signal) * deviation
        noise = (deviation - signal.sqrt() * x0) / (1 - signal).sqrt()
        signal = cumprod_T[following] if following >= 0 else torch.tensor(1.0, dtype=torch.float64)
        deviation = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
    # Euler begins with noise 4096 times the signal and subtracts it in float32: 4096 * eps = 5e-4.
    tolerance = 1e-5 if name == "ddim" else 1e-3
    torch.testing.assert_close(latents.double(), MEAN + deviation, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_a_scene_is_stepped_as_diffusers_own_pipelines_would(scheduler_config, name):
    scheduler = scheduler_from_config(scheduler_config, name)
    denoiser = denoiser_for(scheduler, spread=0.5)
    latents = denoise(denoiser, scheduler, request_for(**given(1, 2)))

    scheduler.set_timesteps(8)
    noisy = draw_noise((1, 2, *SHAPE), seed=1, purpose="initial noise") * scheduler.init_noise_sigma
    rest = latents_of(200)[:, 2:]
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(noisy, timestep)
        timesteps = torch.tensor([[int(timestep), 0, 0]])
        velocity = denoiser.predict(torch.cat([scaled, rest], dim=1), embeds_of(0.0, 0.0, 0.0), timesteps)
        noisy = scheduler.step(velocity[:, :2], timestep, noisy).prev_sample
    assert torch.equal(latents[:, :2], noisy)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_schedulers_converge_to_the_flow_of_gaussian_data(scheduler_config, name):
    scheduler = scheduler_from_config(scheduler_config, name)
    # The probability flow keeps quantiles, so noise z must end at mean + spread * z.
    exact = MEAN + 0.5 * initial_noise()
    errors = []
    for num_inference_steps in (40, 80):
        request = request_for(num_inference_steps=num_inference_steps)
        latents = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request)
        errors.append((latents - exact).abs().max().item())
    assert errors[0] < 0.3
    assert errors[1] < 0.65 * errors[0]


def test_the_stochastic_scheduler_keeps_the_spread_of_gaussian_data(scheduler_config):
    scheduler = scheduler_from_config(scheduler_config, "dpm")
    shape = (3, 32, 32)
    mean = torch.zeros(1, 6, *shape)
    denoiser = denoiser_for(scheduler, mean_BFCHW=mean, spread=0.5)
    latents = denoise(denoiser, scheduler, request_for(latent_shape=shape, num_inference_steps=100))
    # 18432 samples estimate a spread to 0.5 %, the solver adds its own error.
    assert latents.std().item() == pytest.approx(0.5, rel=0.05)
    assert latents.mean().item() == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("context", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
def test_context_scenes_stay_bit_identical_and_targets_are_denoised(scheduler, context):
    request = request_for(**given(*context))
    latents = denoise(denoiser_for(scheduler), scheduler, request)
    for scene, frames in enumerate(FRAMES):
        if scene in context:
            assert torch.equal(latents[:, frames], latents_of(200)[:, frames])
        else:
            torch.testing.assert_close(latents[:, frames], MEAN[:, frames], rtol=0, atol=1e-5)


def test_the_model_sees_clean_context_at_timestep_0_in_every_step(scheduler):
    denoiser = denoiser_for(scheduler)
    denoise(denoiser, scheduler, request_for(**given(0, 2)))
    assert len(denoiser.calls) == 8
    for latents, _, timesteps in denoiser.calls:
        assert torch.equal(latents[:, FRAMES[0]], latents_of(200)[:, FRAMES[0]])
        assert torch.equal(latents[:, FRAMES[2]], latents_of(200)[:, FRAMES[2]])
        assert timesteps[0, [0, 2]].tolist() == [0, 0]
    assert [call[2][0, 1].item() for call in denoiser.calls] == [999, 874, 749, 624, 499, 374, 249, 124]


def test_the_models_input_has_unit_variance_at_the_start_whatever_the_schedulers_own_scale(scheduler):
    denoiser = denoiser_for(scheduler)
    denoise(denoiser, scheduler, request_for())
    first = denoiser.calls[0][0]
    expected = draw_noise((1, 2, *SHAPE), seed=1, purpose="initial noise", scene=0)
    torch.testing.assert_close(first[:, FRAMES[0]], expected, rtol=1e-6, atol=1e-6)


def test_a_denoiser_prepared_for_the_targets_alone_gives_the_same_film(scheduler):
    whole = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request_for(**given(1)))
    targets_only = denoiser_for(scheduler, spread=0.5, targets=(0, 2))
    assert torch.equal(denoise(targets_only, scheduler, request_for(**given(1))), whole)


def test_another_seed_for_one_scene_leaves_the_others_as_they_were(scheduler):
    before = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request_for())
    changed = request_for(scene_seeds=(1, 77, 3))
    after = denoise(denoiser_for(scheduler, spread=0.5), scheduler, changed)
    assert torch.equal(after[:, FRAMES[0]], before[:, FRAMES[0]])
    assert torch.equal(after[:, FRAMES[2]], before[:, FRAMES[2]])
    assert not torch.allclose(after[:, FRAMES[1]], before[:, FRAMES[1]], atol=0.1)


def test_giving_one_scene_as_context_leaves_the_randomness_of_the_others_as_it_was(scheduler):
    free = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request_for())
    fixed = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request_for(**given(0)))
    assert torch.equal(fixed[:, FRAMES[1]], free[:, FRAMES[1]])


def test_scenes_with_equal_seeds_still_start_from_different_noise(scheduler):
    denoiser = denoiser_for(scheduler)
    denoise(denoiser, scheduler, request_for(scene_seeds=(5, 5, 5)))
    start = denoiser.calls[0][0]
    assert not torch.allclose(start[:, 0], start[:, 2])


def test_the_same_request_twice_gives_the_same_bits_and_leaves_the_scheduler_alone(scheduler):
    first = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request_for())
    torch.randn(10)
    second = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request_for())
    assert torch.equal(first, second)
    assert scheduler.num_inference_steps is None


def test_batched_and_sequential_guidance_give_the_same_film(scheduler):
    films, calls = [], []
    for mode in ("batched", "sequential"):
        denoiser = denoiser_for(scheduler, spread=0.5)
        request = request_for(
            guidance=GuidanceRule(scales=(3.0, 1.0, 6.0), mode=mode),
            prompt_embeds_BLD=embeds_of(1.0, 2.0, 3.0),
            negative_embeds_BLD=embeds_of(-1.0, 0.0, 0.5),
        )
        films.append(denoise(denoiser, scheduler, request))
        calls.append([tuple(call[0].shape) for call in denoiser.calls])
    # The known denoiser works value by value, so batching cannot round differently.
    assert torch.equal(films[0], films[1])
    assert calls[0] == [(2, 6, *SHAPE)] * 8
    assert calls[1] == [(1, 6, *SHAPE)] * 16


def test_each_scene_is_guided_away_from_its_own_negative_prompt_by_its_own_scale(scheduler):
    request = request_for(
        guidance=GuidanceRule(scales=(3.0, 1.0, 0.0)),
        prompt_embeds_BLD=embeds_of(1.0, 1.0, 1.0),
        negative_embeds_BLD=embeds_of(0.5, 0.5, 0.25),
    )
    latents = denoise(denoiser_for(scheduler), scheduler, request)
    # Two delta distributions at mean + c and mean + u: guidance leads to mean + u + scale * (c - u).
    for frames, shift in zip(FRAMES, (2.0, 1.0, 0.25), strict=True):
        torch.testing.assert_close(latents[:, frames], MEAN[:, frames] + shift, rtol=0, atol=3e-5)


def test_scale_1_everywhere_never_runs_the_negative_prompt(scheduler):
    denoiser = denoiser_for(scheduler)
    denoise(denoiser, scheduler, request_for(negative_embeds_BLD=embeds_of(9.0, 9.0, 9.0)))
    assert [call[0].shape[0] for call in denoiser.calls] == [1] * 8
    assert all(torch.equal(call[1], embeds_of(0.0, 0.0, 0.0)) for call in denoiser.calls)


def test_the_guidance_scale_of_context_scenes_costs_nothing(scheduler):
    denoiser = denoiser_for(scheduler)
    guidance = GuidanceRule(scales=(6.0, 1.0, 1.0))
    denoise(denoiser, scheduler, request_for(guidance=guidance, **given(0)))
    assert [call[0].shape[0] for call in denoiser.calls] == [1] * 8


def test_steps_are_reported_with_the_current_estimate_of_the_clean_film(scheduler):
    events: list[StepEvent] = []
    estimates: list[Tensor] = []

    def keep(event: StepEvent) -> None:
        events.append(event)
        estimates.append(event.x0())

    denoise(denoiser_for(scheduler), scheduler, request_for(**given(1)), on_step=keep)
    assert [(event.step, event.total) for event in events] == [(step, 8) for step in range(1, 9)]
    assert events[0].timestep == 999
    for estimate in estimates:
        assert torch.equal(estimate[:, FRAMES[1]], latents_of(200)[:, FRAMES[1]])
        # Euler's latents carry noise of 4096 times the signal at first, in float32.
        torch.testing.assert_close(estimate[:, FRAMES[0]], MEAN[:, FRAMES[0]], rtol=0, atol=2e-3)


@pytest.mark.parametrize("steps_done", [1, 2, 5, 8])
def test_a_run_continued_from_a_stored_state_gives_the_same_bits(scheduler, steps_done):
    request = request_for(**given(1))
    stored: list[bytes] = []

    def store(event: StepEvent) -> None:
        if event.step == steps_done:
            state = event.state()
            assert state.steps_done == steps_done
            stored.append(safetensors.torch.save(dict(state.tensors)))

    straight = denoise(denoiser_for(scheduler, spread=0.5), scheduler, request, on_step=store)
    state = DenoiseState(steps_done=steps_done, tensors=safetensors.torch.load(stored[0]))
    rest = denoiser_for(scheduler, spread=0.5)
    assert torch.equal(denoise(rest, scheduler, request, resume=state), straight)
    assert len(rest.calls) == 8 - steps_done


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (DenoiseState(steps_done=1, tensors={}), "the latents after step 1: latents_BFCHW is missing"),
        (DenoiseState(steps_done=9, tensors={"latents_BFCHW": MEAN}), "step 9 is done, the request has 8"),
    ],
)
def test_a_state_of_another_request_is_refused(scheduler_config, state, message):
    scheduler = scheduler_from_config(scheduler_config)
    with pytest.raises(UnusableState, match=message):
        denoise(denoiser_for(scheduler), scheduler, request_for(), resume=state)


def test_what_a_step_callback_raises_ends_the_run(scheduler):
    def stop(event: StepEvent) -> None:
        if event.step == 3:
            raise KeyboardInterrupt

    denoiser = denoiser_for(scheduler)
    with pytest.raises(KeyboardInterrupt):
        denoise(denoiser, scheduler, request_for(), on_step=stop)
    assert len(denoiser.calls) == 3


def test_the_model_runs_in_the_requested_dtype_and_latents_stay_float32(scheduler):
    denoiser = denoiser_for(scheduler)
    context = latents_of(200).double() / 3
    request = dataclasses.replace(
        request_for(**given(0)), dtype=torch.bfloat16, context_latents_BFCHW=context.float()
    )
    latents = denoise(denoiser, scheduler, request)
    assert denoiser.calls[0][0].dtype == denoiser.calls[0][1].dtype == torch.bfloat16
    assert latents.dtype == torch.float32
    assert torch.equal(latents[:, FRAMES[0]], context.float()[:, FRAMES[0]])


def test_a_prediction_that_is_not_finite_is_refused_at_its_step(scheduler_config):
    scheduler = scheduler_from_config(scheduler_config)
    denoiser = denoiser_for(scheduler, mean_BFCHW=torch.full_like(MEAN, float("nan")))
    with pytest.raises(
        BackendError, match=r"step 1 of 8: the predicted velocity is not finite in torch.float32; check the"
    ):
        denoise(denoiser, scheduler, request_for())
    with pytest.raises(
        BackendError, match=r"not finite in torch.float16; use bfloat16 or float32, and check"
    ):
        denoise(denoiser, scheduler, dataclasses.replace(request_for(), dtype=torch.float16))


def test_a_denoiser_for_another_layout_is_refused(scheduler_config):
    scheduler = scheduler_from_config(scheduler_config)
    foreign = dataclasses.replace(LAYOUT, mask="isolated")
    with pytest.raises(LayoutMismatch, match=r"prepared for layout \w{12} \(isolated, 3 scenes\)"):
        denoise(denoiser_for(scheduler, layout=foreign), scheduler, request_for())


def test_a_denoiser_for_other_targets_is_refused(scheduler_config):
    scheduler = scheduler_from_config(scheduler_config)
    with pytest.raises(LayoutMismatch, match=r"target scenes \[2\], the request also denoises \[0, 1\]"):
        denoise(denoiser_for(scheduler, targets=(2,)), scheduler, request_for())


def test_a_scheduler_that_would_sample_wrongly_is_refused(scheduler_config):
    scheduler = scheduler_from_config(scheduler_config)
    scheduler.register_to_config(timestep_spacing="leading")
    with pytest.raises(SchedulerError, match="timestep_spacing: got 'leading'"):
        denoise(denoiser_for(scheduler), scheduler, request_for())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scene_seeds": (1, 2)}, "scene_seeds is for 2 scenes, the layout has 3"),
        ({"guidance": GuidanceRule(scales=(1.0,))}, "guidance.scales is for 1 scenes, the layout has 3"),
        (
            {"conditioning": Conditioning(num_scenes=3, context=frozenset({1}))},
            r"scenes \[1\] are context but",
        ),
        ({"guidance": GuidanceRule(scales=(2.0, 1.0, 1.0))}, "need negative_embeds_BLD"),
        (
            {"context_latents_BFCHW": torch.zeros(1, 5, *SHAPE)},
            r"\(1, 5, 3, 4, 4\), the layout needs \(1, 6,",
        ),
        ({"prompt_embeds_BLD": torch.zeros(1, 5, 5)}, r"prompt_embeds_BLD has shape \(1, 5, 5\)"),
    ],
)
def test_requests_whose_parts_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        request_for(**changes)

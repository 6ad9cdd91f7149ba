"""What a window of a long film asks of the loop: the film's own noise, and first frames that are kept.

The known denoiser works value by value, so whatever differs between two runs comes from the loop.
"""

from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from m2d.diffusion.conditioning import Conditioning
from m2d.diffusion.denoise import DenoiseRequest, DenoiseState, StepEvent, denoise
from m2d.diffusion.guidance import GuidanceRule
from m2d.diffusion.noise import draw_noise
from m2d.diffusion.schedulers import SCHEDULERS, scheduler_from_config
from m2d.diffusion.velocity import VelocitySchedule
from m2d.layout import SceneLayout
from tests.m2d.diffusion.known_denoisers import GaussianDenoiser

FRAMES = (2, 3, 1)
SPANS = [slice(0, 2), slice(2, 5), slice(5, 6)]
SHAPE = (3, 4, 4)
STEPS = 6


def layout_of(*latent_frames: int) -> SceneLayout:
    return SceneLayout.build(
        "mask2dit", text_tokens=(2,) * len(latent_frames), latent_frames=latent_frames, tokens_per_frame=4
    )


def latents_of(seed: int, frames: int = 6) -> Tensor:
    return torch.randn(1, frames, *SHAPE, generator=torch.Generator().manual_seed(seed))


MEAN = latents_of(100)
GIVEN = latents_of(300, frames=1)[0]


def request_for(**changes: Any) -> DenoiseRequest:
    layout = changes.get("layout", layout_of(*FRAMES))
    settings: dict[str, Any] = {
        "layout": layout,
        "scene_seeds": (1, 2, 3),
        "latent_shape": SHAPE,
        "prompt_embeds_BLD": torch.zeros(1, layout.num_text_tokens, 5),
        "conditioning": Conditioning(num_scenes=layout.num_scenes),
        "guidance": GuidanceRule(scales=(1.0,) * layout.num_scenes),
        "num_inference_steps": STEPS,
    }
    return DenoiseRequest(**(settings | changes))


def denoiser_for(scheduler: Any, **changes: Any) -> GaussianDenoiser:
    settings: dict[str, Any] = {
        "layout": layout_of(*FRAMES),
        "schedule": VelocitySchedule.from_scheduler(scheduler),
        "mean_BFCHW": MEAN,
        "spread": 0.5,
    }
    return GaussianDenoiser(**(settings | changes))


@pytest.fixture(params=SCHEDULERS)
def scheduler(request: pytest.FixtureRequest, scheduler_config: dict[str, Any]) -> Any:
    return scheduler_from_config(scheduler_config, request.param)


def test_a_scene_has_the_same_noise_in_every_window_of_its_film(scheduler):
    film = denoise(denoiser_for(scheduler), scheduler, request_for())
    alone = request_for(layout=layout_of(3), scene_seeds=(2,), scene_numbers=(1,))
    window = denoiser_for(scheduler, layout=layout_of(3), mean_BFCHW=MEAN[:, SPANS[1]])
    assert torch.equal(denoise(window, scheduler, alone), film[:, SPANS[1]])


def test_scenes_are_numbered_from_0_unless_the_request_says_otherwise(scheduler):
    film = denoise(denoiser_for(scheduler), scheduler, request_for())
    counted = denoise(denoiser_for(scheduler), scheduler, request_for(scene_numbers=(0, 1, 2)))
    assert torch.equal(counted, film)
    later = denoiser_for(scheduler)
    denoise(later, scheduler, request_for(scene_numbers=(4, 5, 8)))
    expected = draw_noise((1, 1, *SHAPE), seed=3, purpose="initial noise", scene=8)
    torch.testing.assert_close(later.calls[0][0][:, SPANS[2]], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scene", [0, 1, 2])
def test_a_given_first_frame_ends_as_it_was_given_and_no_other_value_feels_it(scheduler, scene):
    free = denoise(denoiser_for(scheduler), scheduler, request_for())
    latents = denoise(denoiser_for(scheduler), scheduler, request_for(first_frames={scene: GIVEN}))
    first = SPANS[scene].start
    others = [frame for frame in range(6) if frame != first]
    assert torch.equal(latents[:, first], GIVEN)
    assert torch.equal(latents[:, others], free[:, others])


def test_the_model_finds_a_given_first_frame_at_every_steps_level(scheduler):
    denoiser = denoiser_for(scheduler)
    denoise(denoiser, scheduler, request_for(first_frames={1: GIVEN}, scene_numbers=(2, 5, 6)))
    noise = draw_noise((1, 3, *SHAPE), seed=2, purpose="initial noise", scene=5)[:, :1]
    assert len(denoiser.calls) == STEPS
    for latents, _, timesteps in denoiser.calls:
        expected = denoiser.schedule.add_noise(GIVEN[None], noise, timesteps[:, 1])
        # At the last timestep alpha is 1/4096 for schedulers with sigmas and 0 for the others.
        atol = GIVEN.abs().max().item() / 4096 if timesteps[0, 1] == 999 else 1e-5
        torch.testing.assert_close(latents[:, 2:3], expected, rtol=0, atol=atol)


def test_a_model_that_was_trained_for_it_finds_the_first_frame_clean(scheduler):
    denoiser = denoiser_for(scheduler)
    request = request_for(first_frames={1: GIVEN}, first_frames_are_clean=True)
    latents = denoise(denoiser, scheduler, request)
    assert all(torch.equal(seen[:, 2], GIVEN) for seen, _, _ in denoiser.calls)
    assert torch.equal(latents[:, 2], GIVEN)


def test_the_estimate_of_the_clean_film_shows_a_given_first_frame_as_given(scheduler):
    shown: list[Tensor] = []
    request = request_for(first_frames={1: GIVEN})
    denoise(denoiser_for(scheduler), scheduler, request, on_step=lambda event: shown.append(event.x0()))
    assert all(torch.equal(estimate[:, 2], GIVEN) for estimate in shown)


@pytest.mark.parametrize("cfg", ["batched", "sequential"])
@pytest.mark.parametrize("steps_done", [1, 3, STEPS])
def test_a_window_continued_from_a_stored_state_gives_the_same_bits(scheduler, steps_done, cfg):
    request = request_for(
        scene_numbers=(3, 4, 7),
        conditioning=Conditioning(num_scenes=3, context=frozenset({0})),
        context_latents_BFCHW=latents_of(200),
        first_frames={1: GIVEN, 2: -GIVEN},
        guidance=GuidanceRule(scales=(1.0, 3.0, 1.0), mode=cfg),
        prompt_embeds_BLD=torch.ones(1, 6, 5),
        negative_embeds_BLD=torch.zeros(1, 6, 5),
    )
    stored: list[bytes] = []

    def store(event: StepEvent) -> None:
        if event.step == steps_done:
            stored.append(safetensors.torch.save(dict(event.state().tensors)))

    straight = denoise(denoiser_for(scheduler), scheduler, request, on_step=store)
    state = DenoiseState(steps_done=steps_done, tensors=safetensors.torch.load(stored[0]))
    rest = denoiser_for(scheduler)
    assert torch.equal(denoise(rest, scheduler, request, resume=state), straight)
    assert len(rest.calls) == (STEPS - steps_done) * (2 if cfg == "sequential" else 1)
    assert torch.equal(straight[:, 2], GIVEN)
    assert torch.equal(straight[:, 5], -GIVEN)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scene_numbers": (0, 1)}, "scene_numbers is for 2 scenes, the layout has 3"),
        ({"scene_numbers": (0, 2, 1)}, r"scene_numbers: got \(0, 2, 1\); give each .* ascending"),
        ({"scene_numbers": (0, 1, 1)}, r"scene_numbers: got \(0, 1, 1\)"),
        ({"scene_numbers": (-1, 0, 1)}, r"scene_numbers: got \(-1, 0, 1\)"),
        ({"first_frames": {3: GIVEN}}, r"first_frames: scene 3 is not a target; only \[0, 1, 2\]"),
        (
            {
                "first_frames": {1: GIVEN},
                "conditioning": Conditioning(num_scenes=3, context=frozenset({1})),
                "context_latents_BFCHW": MEAN,
            },
            r"first_frames: scene 1 is not a target; only \[0, 2\] are denoised",
        ),
        (
            {"first_frames": {0: GIVEN[None]}},
            r"first_frames\[0\] has shape \(1, 1, 3, 4, 4\), one latent frame is \(1, 3, 4, 4\)",
        ),
    ],
)
def test_numbers_and_first_frames_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        request_for(**changes)

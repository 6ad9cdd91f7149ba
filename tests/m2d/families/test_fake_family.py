"""A story walks through the pipeline with a family of thirty lines: a family is data plus adapters."""

# ruff: noqa: ARG005

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from m2d import Story, StoryPipeline
from m2d.families.family import ModelFamily
from m2d.families.places import OpenedFolder
from m2d.families.source import ModelSource
from m2d.geometry import ModelGeometry
from m2d.model.scene_model import SceneModel
from m2d.model.settings import SamplingDefaults
from m2d.pipeline.observer import WindowStep
from m2d.progress import SilentReporter
from m2d.recipe.model_choice import ModelChoice
from m2d.registry import get_backend

GEOMETRY = ModelGeometry(
    **{"spatial_compression": 2, "temporal_compression": 1, "patch_size": 1, "latent_channels": 3},
    **{"max_text_tokens": 4, "default_height": 8, "default_width": 8, "default_num_frames": 2},
    **{"default_fps": 4, "num_scenes": 2},
)


# The family: a transformer that paints every scene in the grey that its prompt names, and what goes with it.
class FakeTransformer(SceneModel):
    config = SimpleNamespace(patch_size=1, attention_head_dim=8)
    device, dtype, timestep_rows = torch.device("cpu"), torch.float32, None

    def forward(self, latents, embeds, timesteps, *, layout, targets=None, **_):
        velocities = []
        for scene in targets or range(layout.num_scenes):
            noisy = latents[:, layout.frame_span(scene).as_slice]
            alpha = SCHEDULER.alphas_cumprod[timesteps[0, scene]]
            grey = embeds[:, layout.text_span(scene).as_slice].mean()
            velocities.append((alpha.sqrt() * noisy - grey) / (1 - alpha).sqrt())
        return torch.cat(velocities, dim=1)


class FakeVae:
    module, device = None, torch.device("cpu")
    encode = staticmethod(lambda frames: torch.from_numpy(frames[:, ::2, ::2]).permute(0, 3, 1, 2) / 255)
    decoding = staticmethod(lambda strategy, latents: nullcontext())

    def decode(self, latents):
        pixels = (latents.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8)
        frames = pixels.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2).numpy()
        # A scene of one colour would be refused.
        frames[:, -1, -1] = 0
        return frames


SCHEDULER = CogVideoXDDIMScheduler(
    prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
)
ENCODER = SimpleNamespace(
    encode=lambda prompts: torch.full((1, 4, 2), float(prompts[0] or 0) / 255), release=lambda: None
)
FAKE = ModelFamily(
    name="fake",
    load_transformer=lambda path, **where: FakeTransformer(),
    load_vae=lambda path, **where: FakeVae(),
    load_text=lambda path, tokenizer, **where: ENCODER,
    load_tokenizer=lambda path, max_tokens: SimpleNamespace(count_tokens=lambda prompt: 1),
    scheduler=lambda path, name: SCHEDULER,
    # What reads model folders and what trains; a model that is at hand needs neither.
    **dict.fromkeys(("classes", "default_settings", "default_sampling", "read_geometry")),
    check_parts=lambda path, names: None,
    **dict.fromkeys(
        ("check_shapes", "build_transformer", "geometry_of", "compression", "empty_part", "vae_costs")
    ),
)
# The end of the family.


class Source(ModelSource):
    """A model without a folder."""

    digest = "fake"


@pytest.fixture
def pipe(tmp_path: Path) -> StoryPipeline:
    sampling = SamplingDefaults(num_inference_steps=4, guidance_scale=1.0)
    source = Source(
        choice=ModelChoice(model="fake"),
        opened=OpenedFolder(path=tmp_path),
        geometry=GEOMETRY,
        family=FAKE,
        is_puppet=False,
        sampling=sampling,
    )
    backend = get_backend("eager")
    return StoryPipeline(source, backend, device="cpu", dtype="float32", reporter=SilentReporter())


def test_a_story_walks_through_the_pipeline(pipe: StoryPipeline) -> None:
    scenes = ["50", "100", {"prompt": "200", "join": "continue"}]
    sampling = {"num_inference_steps": 4, "guidance_scale": 1.0}
    seen: list[WindowStep] = []
    output = pipe(Story(title="Greys", scenes=scenes, sampling=sampling), callback=seen.append)
    assert output.frames.shape == (6, 8, 8, 3)
    # The first frame of a scene that continues is the last frame of the scene before it.
    assert [sorted({int(value) for value in np.unique(frame)} - {0}) for frame in output.frames] == [
        [50],
        [50],
        [100],
        [100],
        [100],
        [200],
    ]
    # Two scenes jointly, then the third with the second as context.
    assert [(step.part.window.scenes, step.event.step) for step in seen[3:5]] == [((0, 1), 4), ((1, 2), 1)]
    assert output.latents[0].shape == (2, 3, 4, 4)

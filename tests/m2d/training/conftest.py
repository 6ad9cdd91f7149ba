"""A training small enough to run in a test: two layers, eight-pixel latents, stories out of a generator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.progress import SilentReporter
from m2d.stop import StopRequest
from m2d.training.cache import EncodedStories, encode_stories
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.processes import ALONE, Processes
from m2d.training.recipe import TrainingRecipe
from m2d.training.sharding import place
from m2d.training.state import TrainState
from m2d.training.step import TrainingSetup
from m2d.training.trainer import Trainer
from m2d.training.unprompted_heads import UnpromptedHeads
from m2d.training.zero import ZeroOptimizer

TEXT_TOKENS, TEXT_WIDTH, CHANNELS, FRAMES, SIDE = 4, 8, 4, 2, 4


@dataclass(frozen=True)
class FakeClips:
    frames_NPCHW: Tensor
    prompts: tuple[str, ...]


class FakeStories:
    """Stories of flat grey frames; the prompt says which grey."""

    def __init__(self, num_stories: int = 24, num_scenes: int = 3) -> None:
        self.num_stories, self.num_scenes = num_stories, num_scenes
        self.digest = f"fake {num_scenes}"
        self.rendered: list[int] = []

    def render(self, index: int) -> FakeClips:
        self.rendered.append(index)
        greys = [((index * 3 + scene) % 16) / 8 - 1 for scene in range(self.num_scenes)]
        frames = torch.stack([torch.full((FRAMES, 3, SIDE, SIDE), grey) for grey in greys])
        return FakeClips(frames_NPCHW=frames, prompts=tuple(f"grey {grey}" for grey in greys))

    def render_batch(self, indices: Sequence[int]) -> list[FakeClips]:
        return [self.render(index) for index in indices]


class FakeEncoder:
    """Repeats channels as a codec and hashes prompts as a text encoder."""

    digest = "fake encoder"

    def encode_frames(self, frames_BPCHW: Tensor) -> Tensor:
        return frames_BPCHW[:, :, :1].repeat(1, 1, CHANNELS, 1, 1)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        seeds = [int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") for prompt in prompts]
        shape = (TEXT_TOKENS, TEXT_WIDTH)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds])


def tiny_recipe(**changes: Any) -> TrainingRecipe:
    document: dict[str, Any] = {
        "title": "tiny",
        "stage": "sft",
        "model": "none",
        "init": "random",
        "transformer": {
            "num_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "patch_size": 2,
            "time_embed_dim": 16,
            "max_text_tokens": TEXT_TOKENS,
        },
        "data": {"source": "builtin:puppet", "num_stories": 24, "held_out": 4},
        "video": {"num_frames": 2, "height": 4, "width": 4},
        "num_scenes": 3,
        "objective": {"conditional_probability": 0.5},
        "steps": 8,
        "batch_size": 4,
        "optimizer": {"name": "muon", "lr": 1e-3, "matrix_lr": 3e-3, "weight_decay": 0.01},
        "schedule": {"name": "wsd", "warmup_steps": 2},
        "seed": 5,
        "evaluation": {"every_steps": 4, "num_samples": 4},
        "log_every_steps": 2,
    }
    return TrainingRecipe.model_validate({**document, **changes})


def tiny_model() -> SceneTransformer:
    torch.manual_seed(0)
    model: SceneTransformer = SceneTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        time_embed_dim=16,
        text_embed_dim=TEXT_WIDTH,
        num_layers=2,
        sample_width=SIDE,
        sample_height=SIDE,
        sample_frames=5,
        patch_size=2,
        max_text_seq_length=TEXT_TOKENS,
        use_rotary_positional_embeddings=True,
    )
    return model


def tiny_stories(root: Path) -> EncodedStories:
    return encode_stories(
        FakeStories(), FakeEncoder(), root=root, reporter=SilentReporter(), stop=StopRequest()
    )


def tiny_state(recipe: TrainingRecipe, processes: Processes = ALONE) -> TrainState:
    model, average = tiny_model(), tiny_model()
    place(model, processes)
    place(average, processes)
    return TrainState(
        model=model,
        average=AveragedModel(model, decay=recipe.ema_decay, average=average),
        optimizer=ZeroOptimizer(model, average, recipe, processes=processes)
        if processes.uses_deepspeed
        else ModelOptimizer(model, recipe.optimizer),
        heads=UnpromptedHeads(model, torch.ones(24, 2)) if recipe.objective.unprompted_weight else None,
    )


def tiny_setup(
    recipe: TrainingRecipe, stories: EncodedStories, *, run: Path, processes: Processes = ALONE
) -> TrainingSetup:
    run.mkdir(exist_ok=True, parents=True)
    return TrainingSetup(
        recipe=recipe,
        stories=stories,
        schedule=VelocitySchedule.from_scheduler(
            CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
        ),
        layouts={
            (FRAMES, SIDE, SIDE): SceneLayout.build(
                recipe.mask,
                text_tokens=[TEXT_TOKENS] * recipe.num_scenes,
                latent_frames=[FRAMES] * recipe.num_scenes,
                tokens_per_frame=4,
            )
        },
        run=run,
        facts={"recipe": recipe.model_dump(mode="json")},
        processes=processes,
    )


@pytest.fixture
def fake_stories() -> FakeStories:
    return FakeStories()


@pytest.fixture
def fake_encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
def make_recipe() -> Callable[..., TrainingRecipe]:
    return tiny_recipe


@pytest.fixture
def make_model() -> Callable[[], SceneTransformer]:
    return tiny_model


@pytest.fixture
def encoded(tmp_path: Path) -> EncodedStories:
    return tiny_stories(tmp_path / "cache")


@pytest.fixture
def make_trainer(tmp_path: Path, encoded: EncodedStories) -> Callable[..., Trainer]:
    """Return a maker of trainers: `make(recipe, run name)`, with a fresh state."""

    def make(recipe: TrainingRecipe, run: str = "run", *, stop: StopRequest | None = None) -> Trainer:
        setup = tiny_setup(recipe, encoded, run=tmp_path / run)
        return Trainer(setup, tiny_state(recipe), reporter=SilentReporter(), stop=stop or StopRequest())

    return make

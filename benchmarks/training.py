"""A training step of the puppet transformer against a plain hand-written loop over the same model.

Run: `python -m benchmarks.training [--pairs N]`, on an idle machine. Writes
`benchmarks/results/training.json` and fails if our step is slower than the plain one by more than the noise
of the run, or spends more than 5 % on collecting the batch.

Both do the same work: AdamW, clipped gradients, a running average, conditional samples, caption dropout. The
plain loop is the simplest one: a tensor of latents in memory, batches by random indices, torch's own classes.
Stories are random numbers in the puppet model's sizes, because the time of a step does not depend on their
content.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import CogVideoXDDIMScheduler
from torch import Tensor
from torch.optim.swa_utils import AveragedModel as PlainAverage
from torch.optim.swa_utils import get_ema_multi_avg_fn

from m2d.diffusion.velocity import VelocitySchedule
from m2d.families.cogvideox.family import COGVIDEOX
from m2d.files import write_json
from m2d.layout import SceneLayout
from m2d.model.scene_model import SceneModel
from m2d.tasks.pairing import compare
from m2d.training.cache import STORIES_PER_SHARD, EncodedStories
from m2d.training.log import LossMeter
from m2d.training.optim import AveragedModel, ModelOptimizer
from m2d.training.recipe import TrainingRecipe
from m2d.training.speed import flops_per_sample, matrix_rate
from m2d.training.state import TrainState
from m2d.training.step import Stepper, TrainingSetup

RESULTS = Path(__file__).parent / "results" / "training.json"
MOST_DATA_SHARE = 0.05
DROPOUT, DECAY, CLIP = 0.1, 0.997, 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """Sizes of the model and a batch; the defaults are those of the embedded model.

    Attributes:
        latent_shape: Latent frames, channels, height and width of a scene.
        text_shape: Tokens and width of a prompt.
    """

    num_layers: int = 6
    num_heads: int = 4
    patch_size: int = 4
    num_scenes: int = 3
    batch_size: int = 12
    num_stories: int = 256
    latent_shape: tuple[int, int, int, int] = (5, 8, 16, 16)
    text_shape: tuple[int, int] = (36, 128)

    def layout(self) -> SceneLayout:
        """Return the layout of every sample."""
        frames, _, height, width = self.latent_shape
        return SceneLayout.build(
            "mask2dit",
            text_tokens=[self.text_shape[0]] * self.num_scenes,
            latent_frames=[frames] * self.num_scenes,
            tokens_per_frame=height * width // self.patch_size**2,
        )

    def model(self) -> SceneModel:
        """Return a model with the same random weights every time."""
        torch.manual_seed(0)
        frames, channels, height, width = self.latent_shape
        model = COGVIDEOX.build_transformer(
            num_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            attention_head_dim=64,
            patch_size=self.patch_size,
            time_embed_dim=256,
            max_text_seq_length=self.text_shape[0],
            text_embed_dim=self.text_shape[1],
            in_channels=channels,
            out_channels=channels,
            sample_height=height,
            sample_width=width,
            sample_frames=2 * frames - 1,
            temporal_compression_ratio=2,
            use_rotary_positional_embeddings=True,
        )
        model.train()
        return model

    def stories(self) -> EncodedStories:
        """Return random latents and prompts, in float16 as in the cache."""
        shards = []
        for first in range(0, self.num_stories, STORIES_PER_SHARD):
            shape = (min(STORIES_PER_SHARD, self.num_stories - first), self.num_scenes)
            latents, embeds = (torch.randn(*shape, *each) for each in (self.latent_shape, self.text_shape))
            shards.append((latents.half(), embeds.half()))
        return EncodedStories(
            digest="random",
            shards=tuple(shards),
            empty_embeds_LD=torch.zeros(self.text_shape),
            num_stories=self.num_stories,
            num_scenes=self.num_scenes,
        )

    def recipe(self) -> TrainingRecipe:
        """Return the recipe that both loops follow."""
        return TrainingRecipe.model_validate(
            {
                "title": "training speed",
                "stage": "sft",
                "model": "builtin:puppet",
                "init": "builtin:puppet",
                "data": {"source": "builtin:puppet", "num_stories": self.num_stories, "held_out": 16},
                "video": {"num_frames": 9, "height": 64, "width": 64},
                "num_scenes": self.num_scenes,
                "objective": {"caption_dropout": DROPOUT, "conditional_probability": 0.5},
                "steps": 10_000,
                "batch_size": self.batch_size,
                "optimizer": {"name": "adamw", "lr": 1e-4, "grad_clip": CLIP},
                "schedule": {"name": "constant", "warmup_steps": 0},
                "ema_decay": DECAY,
            }
        )


def our_step(sizes: Sizes, run: Path, data_s: list[float]) -> Callable[[], object]:
    """Return a function that trains one step as `m2d train` does; it appends the seconds of its batch."""
    model, recipe = sizes.model(), sizes.recipe()
    frames, _, height, width = sizes.latent_shape
    setup = TrainingSetup(
        recipe=recipe,
        stories=sizes.stories(),
        schedule=_schedule(),
        layouts={(frames, height, width): sizes.layout()},
        run=run,
        facts={},
    )
    state = TrainState(
        model=model,
        average=AveragedModel(model, decay=DECAY),
        optimizer=ModelOptimizer(model, recipe.optimizer),
    )
    stepper, meter = Stepper(setup, state), LossMeter(num_timesteps=setup.schedule.num_timesteps)
    return lambda: data_s.append(stepper.step(meter).data_s)


def plain_step(sizes: Sizes) -> Callable[[], object]:
    """Return a function that trains one step of the plain loop."""
    model, layout, schedule, stories = sizes.model(), sizes.layout(), _schedule(), sizes.stories()
    latents_SNFCHW = torch.cat([shard[0] for shard in stories.shards]).float()
    embeds_SNLD = torch.cat([shard[1] for shard in stories.shards]).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.99), fused=True)
    ema = get_ema_multi_avg_fn(DECAY)  # type: ignore[no-untyped-call]  # torch leaves it unannotated
    average = PlainAverage(model, multi_avg_fn=ema)
    batch, scenes, frames = sizes.batch_size, sizes.num_scenes, sizes.latent_shape[0]

    def step() -> None:
        picked_B = torch.randint(sizes.num_stories, (batch,))
        latents = latents_SNFCHW[picked_B].flatten(1, 2)
        embeds = embeds_SNLD[picked_B].flatten(1, 2)
        embeds[torch.rand(batch) < DROPOUT] = 0
        is_target_BN = torch.rand(batch, 1).expand(-1, scenes) < 0.5
        is_target_BN = is_target_BN | (torch.arange(scenes) == scenes - 1)
        times_BN = torch.where(is_target_BN, torch.randint(schedule.num_timesteps, (batch, 1)), 0)
        loss = _plain_loss(model, latents, embeds, (times_BN, is_target_BN), (schedule, layout, frames))
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(model)
        loss.item()

    return step


def _plain_loss(
    model: SceneModel,
    latents: Tensor,
    embeds: Tensor,
    draws: tuple[Tensor, Tensor],
    fixed: tuple[VelocitySchedule, SceneLayout, int],
) -> Tensor:
    (times_BN, _), (schedule, layout, frames) = draws, fixed
    noise = torch.randn_like(latents)
    times_BF, is_target_BF = (each.repeat_interleave(frames, dim=1) for each in draws)
    noisy = schedule.add_noise(latents, noise, times_BF)
    noisy = torch.where(is_target_BF[:, :, None, None, None], noisy, latents)
    velocity = schedule.velocity(latents, noise, times_BF)
    predicted = model(noisy, embeds, times_BN, layout=layout)
    errors_BF = (predicted - velocity).square().mean(dim=(2, 3, 4))
    loss: Tensor = (errors_BF * is_target_BF).sum() / is_target_BF.sum()
    return loss


def measure(sizes: Sizes, *, num_pairs: int) -> dict[str, Any]:
    """Time both steps in turn."""
    data_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        ours = our_step(sizes, Path(folder), data_s)
        comparison = compare(ours, plain_step(sizes), num_pairs=num_pairs)
        data_s.clear()
        started_s = time.perf_counter()
        for _ in range(num_pairs):
            ours()
        seconds = time.perf_counter() - started_s
    flops = flops_per_sample(copy.deepcopy(sizes.model()), sizes.layout()) * sizes.batch_size
    step_s = comparison.seconds[0]
    return {
        "plain_over_ours": 1 / comparison.ratios.median,
        "noise_floor": comparison.noise_floor,
        "verdict": comparison.verdict,
        "pairs": dataclasses.asdict(comparison),
        "data_share": sum(data_s) / seconds,
        "tokens_per_s": sizes.layout().num_tokens * sizes.batch_size / step_s,
        "mfu": flops / step_s / matrix_rate(torch.device("cpu"), torch.float32),
    }


def _schedule() -> VelocitySchedule:
    return VelocitySchedule.from_scheduler(
        CogVideoXDDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    )


def main() -> int:
    """Measure, write the results and report whether the targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    torch.set_num_threads(words.threads)
    sizes = Sizes()
    found = measure(sizes, num_pairs=words.pairs)
    machine = f"{platform.system()} {platform.machine()}, {words.threads} thread(s)"
    report = {**found, "sizes": dataclasses.asdict(sizes), "machine": machine, "torch": torch.__version__}
    write_json(words.out, report)
    is_fast = found["plain_over_ours"] >= 1 - found["noise_floor"]
    is_fed = found["data_share"] < MOST_DATA_SHARE
    sys.stdout.write(
        f"{words.out}: plain / ours {found['plain_over_ours']:.3f} (noise {found['noise_floor']:.3f}), "
        f"data {found['data_share']:.1%}, {found['tokens_per_s']:.0f} tokens/s, MFU {found['mfu']:.1%}\n"
    )
    return 0 if is_fast and is_fed else 1


if __name__ == "__main__":
    sys.exit(main())

"""Training of the attribute classifier, which reads the properties of puppet scenes from their frames.

Training frames are slightly blurred, noised and recoloured, so that the classifier is as accurate on decoded
films as on rendered ones. Shapes: B clips, P frames, H W pixels.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor
from torch.nn import functional

from m2d.diffusion.noise import generator
from m2d.puppet.attribute_classifier import AttributeClassifier, Reading, reading_errors
from m2d.puppet.clips import draw_clips
from m2d.puppet.labels import ABSENT, class_labels, unprompted_numbers
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.training.fitting import Fit, FitRecipe

_HELD_OUT_SEED = 990_003
_NUM_HELD_OUT = 600
# Held-out clips that show the same moments.
_SAME_MOMENTS = 20
# The shortest part of an action that a clip shows, and how many poses the whole action has.
_SHORTEST_PART, _NUM_POSES = 0.3, (5, 24)
_NUMBER_WEIGHT = 20.0


class ClipSize(BaseModel):
    """Frames P of H x W pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    num_frames: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)


class ClassifierRecipe(FitRecipe):
    """Sizes of the clips and of the batches.

    Attributes:
        films: Size of the films to classify, if larger than the classifier's own clips: training clips are
            rendered at this size and shrunk. None if both sizes are equal.
        other_moments: Share of each batch whose frames show other moments of an action than the embedded
            models' scenes, as scenes of other lengths, rates and starts do.
    """

    num_frames: int = Field(ge=1)
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    films: ClipSize | None = None
    batch_size: int = Field(ge=1)
    other_moments: float = Field(default=0.0, ge=0, le=1)

    @property
    def film_size(self) -> ClipSize:
        """Size of the clips that are rendered."""
        return self.films or ClipSize(num_frames=self.num_frames, height=self.height, width=self.width)

    def make_classifier(self) -> AttributeClassifier:
        """Return a classifier with random weights."""
        return AttributeClassifier(num_frames=self.num_frames, height=self.height, width=self.width)

    @model_validator(mode="after")
    def _check_films(self) -> Self:
        own, films = f"{self.num_frames} frames of {self.width}x{self.height}", self.film_size
        if not self.make_classifier().can_read(**films.model_dump()):
            raise ValueError(
                f"films: {films.num_frames} frames of {films.width}x{films.height} cannot be shrunk to {own};"
                " use films of the same shape, as large or larger, with a multiple of the frame steps"
            )
        return self


def classifier_fit(recipe: ClassifierRecipe, run: Path) -> Fit:
    """Return the classifier's training, for `run_fit`."""
    torch.manual_seed(recipe.seed)
    reader = recipe.make_classifier()

    def loss_at(step: int) -> Tensor:
        clips = draw_clips(seed=recipe.seed, step=step, count=recipe.batch_size)
        draw = generator(recipe.seed, purpose="reader augmentation", step=step)
        frames_BPCHW = _render_any(recipe, clips, draw=draw)
        scores, numbers_BV = reader(_weather(reader.shrunk(frames_BPCHW), draw=draw))
        losses = [
            functional.cross_entropy(scores[name], label)
            for name, label in class_labels(clips).items()
            if bool((label != ABSENT).any())
        ]
        wrong_numbers = (numbers_BV - unprompted_numbers(clips)).square().mean()
        loss: Tensor = torch.stack(losses).mean() + _NUMBER_WEIGHT * wrong_numbers
        return loss

    evaluate = partial(classifier_accuracy, recipe=recipe)
    return Fit(name="attribute classifier", model=reader, loss_at=loss_at, evaluate=evaluate, run=run)


@torch.no_grad()
def classifier_accuracy(reader: AttributeClassifier, recipe: ClassifierRecipe) -> dict[str, float]:
    """Return each property's accuracy on held-out clips, and each number's mean error (0..1)."""
    was_training = reader.training
    reader.eval()
    clips = draw_clips(seed=_HELD_OUT_SEED, step=0, count=_NUM_HELD_OUT)
    figures = _figures(clips, reader.read(_render(recipe, clips)))
    if recipe.other_moments:
        draw, films = generator(_HELD_OUT_SEED, purpose="other moments"), []
        for first in range(0, _NUM_HELD_OUT, _SAME_MOMENTS):
            films.append(_render_other(recipe, clips[first : first + _SAME_MOMENTS], draw=draw))
        other = _figures(clips, reader.read(torch.cat(films)))
        figures |= {f"other_moments.{name}": figure for name, figure in other.items()}
    reader.train(was_training)
    return figures


def _figures(clips: list[Clip], reading: Reading) -> dict[str, float]:
    figures = {}
    for name, label in class_labels(clips).items():
        is_shown = label != ABSENT
        figures[name] = round(float((reading.classes[name] == label)[is_shown].float().mean()), 4)
    errors = reading_errors(clips, reading)
    return figures | {f"{name}.error": round(error, 4) for name, error in errors.items()}


def _render(recipe: ClassifierRecipe, clips: list[Clip]) -> Tensor:
    return render_clips(clips, **recipe.film_size.model_dump())


def _render_any(recipe: ClassifierRecipe, clips: list[Clip], *, draw: torch.Generator) -> Tensor:
    """Render a batch, of which the recipe's share shows other moments."""
    num_other = round(recipe.other_moments * len(clips))
    other, whole = clips[:num_other], clips[num_other:]
    parts = [_render_other(recipe, other, draw=draw)] if other else []
    return torch.cat([*parts, _render(recipe, whole)] if whole else parts)


def _render_other(recipe: ClassifierRecipe, clips: list[Clip], *, draw: torch.Generator) -> Tensor:
    """Render clips that all show some part of their actions, in some number of poses."""
    size = recipe.film_size
    part = float(torch.empty(()).uniform_(_SHORTEST_PART, 1.0, generator=draw))
    start = float(torch.empty(()).uniform_(0.0, 1.0 - part, generator=draw))
    steps = int(torch.randint(_NUM_POSES[0], _NUM_POSES[1] + 1, (), generator=draw)) - 1
    moments_P = np.round(np.linspace(start, start + part, size.num_frames) * steps) / steps
    return render_clips(clips, **size.model_dump(), moments_P=moments_P)


def _weather(frames_BPCHW: Tensor, *, draw: torch.Generator) -> Tensor:
    """Blur, recolour and noise each clip by a random amount, like the errors of a VAE and a sampler."""
    count = len(frames_BPCHW)

    def amount(low: float, high: float) -> Tensor:
        return torch.empty(count, 1, 1, 1, 1).uniform_(low, high, generator=draw)

    flat = frames_BPCHW.flatten(0, 1)
    blurred = functional.avg_pool2d(functional.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    soft = frames_BPCHW.lerp(blurred.view_as(frames_BPCHW), amount(0.0, 1.0))
    colour_B1C11 = torch.empty(count, 1, 3, 1, 1).uniform_(-0.05, 0.05, generator=draw)
    noise = torch.randn(soft.shape, generator=draw) * amount(0.0, 0.06)
    return (soft * amount(0.93, 1.07) + colour_B1C11 + noise).clamp(0.0, 1.0)

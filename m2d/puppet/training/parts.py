"""The parts of the embedded model that have trainings of their own, by the names in `m2d puppet train`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from m2d.puppet.training.attribute_classifier import ClassifierRecipe, classifier_fit
from m2d.puppet.training.fitting import Fit, FitRecipe
from m2d.puppet.training.text_encoder import TextEncoderRecipe, text_encoder_fit
from m2d.puppet.training.vae import VaeRecipe, vae_fit
from m2d.puppet.training.vae_decoder import VaeDecoderRecipe, vae_decoder_fit

Part = Literal["codec", "decoder", "text", "reader"]


class PartTraining(NamedTuple):
    """A part's recipe, and what makes a training of a recipe and a run folder."""

    recipe: type[FitRecipe]
    make_fit: Callable[[Any, Path], Fit]


PARTS: Mapping[Part, PartTraining] = {
    "codec": PartTraining(VaeRecipe, vae_fit),
    "decoder": PartTraining(VaeDecoderRecipe, vae_decoder_fit),
    "text": PartTraining(TextEncoderRecipe, text_encoder_fit),
    "reader": PartTraining(ClassifierRecipe, classifier_fit),
}

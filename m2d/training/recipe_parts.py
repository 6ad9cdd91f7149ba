"""The parts of a training recipe that say how weights learn: objective, optimizer, adapters, schedule."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from m2d.model.lora_parts import LoraPart

# The optimizers compute in float32, whose numbers end at 3e38: these bounds keep their products in it.
Rate = Annotated[float, Field(gt=0, le=1000)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Part(BaseModel):
    """A part of a recipe: checked and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ObjectiveRecipe(Part):
    """Which timesteps and scenes the loss is taken over.

    Attributes:
        timesteps: Distribution of the timestep, which all target scenes of a sample share.
        uniform_share: With `logit_normal`, probability that a sample's timestep is uniform instead: a
            logit-normal distribution has almost no samples at the highest noise levels.
        caption_dropout: Probability that all captions of a sample are replaced by the empty prompt.
        conditional_probability: Probability that a sample has clean context (Eq. 2); SFT only.
        targets: The target scene of such a sample: the `last` (as in the paper) or a `random` one.
        image_probability: Probability that a target scene's first latent frame is clean and does not count in
            the loss: the model learns to start from a picture.
        scene_guidance: How much of the difference that other scenes make to the prediction is added to what
            is learned; 0.5 doubles it, for a pass more in every step. arXiv 2502.12154 does so with prompts.
        unprompted_weight: Weight of a second loss, for the stories of `builtin:puppet`: linear heads, which
            are not exported, predict the actors' size and eyes from every video token after half of the
            blocks.
    """

    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    uniform_share: float = Field(default=0.0, ge=0, le=1)
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    conditional_probability: float = Field(default=0.0, ge=0, le=1)
    targets: Literal["last", "random"] = "last"
    image_probability: float = Field(default=0.0, ge=0, le=1)
    scene_guidance: float = Field(default=0.0, ge=0, le=0.9)
    unprompted_weight: float = Field(default=0.0, ge=0, le=1000)

    @model_validator(mode="after")
    def _mixes_two_distributions(self) -> Self:
        if self.uniform_share and self.timesteps == "uniform":
            raise ValueError(
                "uniform_share: is for timesteps: logit_normal; uniform ones are uniform already"
            )
        return self


class OptimizerRecipe(Part):
    """The optimizer and its settings.

    Attributes:
        name: `muon` orthogonalises the updates of the blocks' attention and feed-forward matrices and uses
            AdamW for all other weights; `adamw` uses AdamW for all; `adamw8bit` keeps its moments in 8 bits.
        lr: Learning rate of AdamW.
        matrix_lr: Learning rate of Muon, on AdamW's scale (updates are scaled to AdamW's usual RMS).
    """

    name: Literal["adamw", "adamw8bit", "muon"]
    lr: Rate
    matrix_lr: Rate | None = None
    weight_decay: float = Field(default=0.0, ge=0, le=1000)
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: float = Field(default=1e-8, ge=1e-30, le=1)
    momentum: Beta = 0.95
    grad_clip: float = Field(default=1.0, ge=1e-30, le=1e30)

    @model_validator(mode="after")
    def _has_the_rates_it_uses(self) -> Self:
        if (self.name == "muon") != (self.matrix_lr is not None):
            raise ValueError(
                f"matrix_lr: {self.matrix_lr} with optimizer {self.name!r}; muon needs one and adamw has none"
            )
        return self


class LoraRecipe(Part):
    """Low-rank adapters, trained while the transformer's own weights are frozen.

    Attributes:
        alpha: Updates are scaled by `alpha / rank`, or by 1 if None.
        parts: Matrices of a block that get an adapter.
        dropout: Dropout rate of the adapters' input.
    """

    rank: int = Field(default=16, ge=1, le=65_536)
    alpha: float | None = Field(default=None, gt=0, le=1e6)
    parts: tuple[LoraPart, ...] = Field(default=("attention",), min_length=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class ScheduleRecipe(Part):
    """How the learning rates change over `steps`.

    Attributes:
        name: `constant`; `cosine` to `final_fraction`; `wsd`: constant, then linear to `final_fraction` over
            the last `decay_fraction` of the steps.
        warmup_steps: Steps of linear warm-up from zero, with every schedule.
    """

    name: Literal["constant", "cosine", "wsd"] = "wsd"
    warmup_steps: int = Field(default=100, ge=0, le=1_000_000_000)
    decay_fraction: float = Field(default=0.25, gt=0, le=1)
    final_fraction: float = Field(default=0.02, ge=0, le=1)

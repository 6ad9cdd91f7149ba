"""The training recipe: every setting of `m2d train` as a checked, frozen document.

Owns the form of `recipes/training/*.yaml` and the rules between fields; does not look at files or devices.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from m2d.errors import InputError
from m2d.limits import FASTEST_FPS, LARGEST_SEED, LARGEST_SIDE, MOST_SCENES
from m2d.model.lora_parts import LoraPart
from m2d.recipe.fields import MaskName

Stage = Literal["base", "pretrain", "sft"]
Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
TrackerName = Literal["tensorboard", "wandb"]
BUILTIN_PUPPET = "builtin:puppet"
# The optimizers compute in float32, whose numbers end at 3e38: these bounds keep their products in it.
Rate = Annotated[float, Field(gt=0, le=1000)]
Beta = Annotated[float, Field(ge=0, lt=1)]
_PUPPET_FIELDS = frozenset({"source", "num_stories", "seed", "held_out", "hats", "changing"})


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataRecipe(_Part):
    """Where the stories come from.

    Attributes:
        source: `builtin:puppet` renders stories of the embedded world; anything else is the path of a
            dataset's description (`docs/data.md`).
        num_stories: Total number of stories, including held-out ones; required for rendered stories. From a
            dataset, the first `num_stories` groups are taken; by default all.
        seed: Seed of rendered stories, or of the choice of a dataset's clips.
        held_out: Number of stories at the end that are not trained on; the held-out loss is measured on them.
            0 measures none.
        hats: For rendered stories: hats that are drawn as another hat, such as `{party hat: crown}`.
        changing: For rendered stories: share of the stories whose scenes change place or time.
        format: `csv`, `json` or `jsonl`; by default chosen by the file's suffix.
        root: Folder that the dataset's paths start from; by default the description's folder.
        caption_field: Column or key of the captions.
        sampling: `fps` takes frames at `video.fps`; `official` takes frames by stride, as Mask2DiT's script.
        fit: `cover` fills the picture and crops the rest; `official` pads narrow videos with black.
        variants: Clips per shot, encoded before the training and stored; epochs cycle through them. 0 takes a
            new clip in every epoch, encoded on demand.
        workers: Processes that decode the next batches; 0 decodes in one process, on demand.
        time_limit_s: A video that takes longer to decode is rejected.
        max_rejected: Largest share of broken videos; a larger one ends the training, with 1 only if all are.
    """

    source: str = Field(min_length=1)
    num_stories: int | None = Field(default=None, ge=2, le=1_000_000_000)
    seed: int = Field(default=1, ge=0, le=LARGEST_SEED)
    held_out: int = Field(default=64, ge=0, le=1_000_000_000)
    hats: dict[str, str] = Field(default_factory=dict)
    changing: float = Field(default=0.0, ge=0, le=1)
    format: Literal["csv", "json", "jsonl"] | None = None
    root: str | None = None
    caption_field: str = Field(default="caption", min_length=1)
    sampling: Literal["fps", "official"] = "fps"
    fit: Literal["cover", "official"] = "cover"
    variants: int = Field(default=1, ge=0, le=1_000_000)
    workers: int = Field(default=0, ge=0, le=64)
    time_limit_s: float = Field(default=20.0, gt=0, le=1e6)
    max_rejected: float = Field(default=1.0, ge=0, le=1)

    @property
    def is_puppet(self) -> bool:
        """Whether the stories are rendered by the embedded world instead of read from a dataset."""
        return self.source == BUILTIN_PUPPET

    @property
    def world(self) -> str | None:
        """The world that a model trained on these stories knows, as `ModelSettings` has it."""
        return "puppet" if self.is_puppet else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_stories is not None and self.held_out >= self.num_stories:
            raise ValueError(
                f"held_out: {self.held_out} leaves nothing of {self.num_stories} stories; use less"
            )
        if self.source.startswith("builtin:") and not self.is_puppet:
            raise ValueError(f"source: {self.source!r} is not known; use {BUILTIN_PUPPET} or a path")
        if self.is_puppet and self.num_stories is None:
            raise ValueError("num_stories: missing; say how many stories of the puppet theatre to render")
        # Fields at their default are allowed, because checkpoints store recipes with all fields.
        others = [
            name
            for name, field in type(self).model_fields.items()
            if name not in _PUPPET_FIELDS and getattr(self, name) != field.default
        ]
        if self.is_puppet and others:
            raise ValueError(f"{others[0]}: is for datasets of videos; remove it from {BUILTIN_PUPPET}")
        if not self.is_puppet and self.hats:
            raise ValueError(f"hats: are those of {BUILTIN_PUPPET}; remove it")
        if not self.is_puppet and self.changing:
            raise ValueError(f"changing: is for the stories of {BUILTIN_PUPPET}; remove it")
        return self


class SizeRecipe(_Part):
    """Size of one scene: frames, and pixels."""

    num_frames: int = Field(ge=1, le=1_000_000)
    height: int = Field(ge=1, le=LARGEST_SIDE)
    width: int = Field(ge=1, le=LARGEST_SIDE)


class VideoRecipe(SizeRecipe):
    """Size of one scene, the one that the model makes by default.

    Attributes:
        buckets: Further sizes. A story of a dataset is trained at the size whose shape is nearest to that of
            its videos, with as many frames as its shots have; all samples of a batch have one size.
    """

    fps: int = Field(default=8, ge=1, le=FASTEST_FPS)
    buckets: tuple[SizeRecipe, ...] = Field(default=(), max_length=64)

    @property
    def sizes(self) -> tuple[SizeRecipe, ...]:
        """All sizes, the default one first."""
        return (self, *self.buckets)


class TransformerRecipe(_Part):
    """Sizes of a transformer that starts from random weights.

    VAE, text encoder and `video` decide channels, text width and latent sizes.
    """

    num_layers: int = Field(ge=1, le=1000)
    num_attention_heads: int = Field(ge=1, le=1000)
    attention_head_dim: int = Field(ge=16, le=4096, multiple_of=16)
    patch_size: int = Field(ge=1, le=64)
    time_embed_dim: int = Field(ge=2, le=65_536)
    max_text_tokens: int = Field(ge=1, le=65_536)


class ObjectiveRecipe(_Part):
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
    """

    timesteps: Literal["uniform", "logit_normal"] = "uniform"
    uniform_share: float = Field(default=0.0, ge=0, le=1)
    caption_dropout: float = Field(default=0.1, ge=0, lt=1)
    conditional_probability: float = Field(default=0.0, ge=0, le=1)
    targets: Literal["last", "random"] = "last"
    image_probability: float = Field(default=0.0, ge=0, le=1)
    scene_guidance: float = Field(default=0.0, ge=0, le=0.9)

    @model_validator(mode="after")
    def _mixes_two_distributions(self) -> Self:
        if self.uniform_share and self.timesteps == "uniform":
            raise ValueError(
                "uniform_share: is for timesteps: logit_normal; uniform ones are uniform already"
            )
        return self


class OptimizerRecipe(_Part):
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


class LoraRecipe(_Part):
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


class ScheduleRecipe(_Part):
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


class CheckpointRecipe(_Part):
    """When to save checkpoints, and how many to keep. `every_steps: 0` saves by time alone."""

    every_s: float = Field(default=300.0, gt=0)
    every_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    keep: int = Field(default=3, ge=1, le=1_000_000)


class EvaluationRecipe(_Part):
    """How often, and on how many samples, the held-out loss of the averaged weights is measured."""

    every_steps: int = Field(default=500, ge=1, le=1_000_000_000)
    num_samples: int = Field(default=128, ge=1, le=1_000_000)


class ValidationRecipe(_Part):
    """Films of some story recipes, made with the averaged weights during the training, for viewing."""

    stories: tuple[str, ...] = Field(min_length=1)
    every_steps: int = Field(default=1000, ge=1, le=1_000_000_000)


class TrainingRecipe(_Part):
    """One stage of training.

    Attributes:
        model: Model folder whose VAE, text encoder, tokenizer and scheduler are used, frozen.
        init: `random`, or the run folder or model folder whose transformer the training starts from.
        num_scenes: Scenes per sample, the paper's n; 1 in the base stage.
        precision: Dtype of matrix products and attention, forward and backward, and of the text encoder;
            trained weights, optimizer state and losses are always float32. bfloat16 is fast on hardware that
            multiplies bfloat16 matrices (GPUs, CPUs with AMX) and slower than float32 elsewhere.
        compile: Compile each block with torch.compile; takes a minute at the start.
        batch_size: Samples of a step, over all processes and microbatches: a recipe trains on the same
            samples with any number of devices.
        accumulate: Microbatches that a process computes one after the other in a step; saves memory.
        gradient_checkpointing: Keep only the tokens between blocks for the backward pass and recompute the
            rest; saves most of the activations' memory and adds a third of the work.
        lora: Train low-rank adapters instead of the transformer's own weights, which are frozen and whose
            matrices are kept in `precision`.
        trackers: Trackers that receive the figures of the log.
    """

    title: str
    stage: Stage
    model: str
    init: str = Field(min_length=1)
    transformer: TransformerRecipe | None = None
    data: DataRecipe
    video: VideoRecipe
    num_scenes: int = Field(ge=1, le=MOST_SCENES)
    mask: MaskName = "mask2dit"
    objective: ObjectiveRecipe = ObjectiveRecipe()
    steps: int = Field(ge=1, le=1_000_000_000)
    batch_size: int = Field(ge=1, le=65_536)
    accumulate: int = Field(default=1, ge=1, le=65_536)
    optimizer: OptimizerRecipe
    lora: LoraRecipe | None = None
    schedule: ScheduleRecipe = ScheduleRecipe()
    ema_decay: Beta = 0.999
    seed: int = Field(default=0, ge=0, le=LARGEST_SEED)
    device: Device = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    gradient_checkpointing: bool = False
    checkpoint: CheckpointRecipe = CheckpointRecipe()
    evaluation: EvaluationRecipe = EvaluationRecipe()
    log_every_steps: int = Field(default=50, ge=1, le=1_000_000_000)
    validation: ValidationRecipe | None = None
    trackers: tuple[TrackerName, ...] = ()
    export_dtype: Literal["float16", "bfloat16", "float32"] = "float16"

    def microbatch(self, num_processes: int) -> int:
        """Return the samples that each of some processes (one per device) computes at once.

        Raises:
            InputError: The batch does not divide.
        """
        num_parts = num_processes * self.accumulate
        if self.batch_size % num_parts:
            raise InputError(
                f"batch_size: {self.batch_size} samples cannot be shared evenly by {num_processes} devices "
                f"with accumulate {self.accumulate}; use a multiple of {num_parts}"
            )
        return self.batch_size // num_parts

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.stage == "base") != (self.num_scenes == 1):
            raise ValueError(
                f"num_scenes: {self.num_scenes} in stage {self.stage!r}; base trains single scenes (1), "
                "pretrain and sft at least 2"
            )
        if self.video.buckets and self.data.is_puppet:
            raise ValueError(f"video.buckets: are for datasets of videos; remove them from {BUILTIN_PUPPET}")
        if self.num_scenes == 1 and self.objective.scene_guidance:
            raise ValueError("objective.scene_guidance: a single scene sees no other; remove it")
        if self.stage != "sft" and self.objective.conditional_probability:
            raise ValueError("objective.conditional_probability: only sft has clean context; remove it")
        if self.batch_size % self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} does not divide batch_size {self.batch_size}")
        if self.lora is not None and self.optimizer.name == "muon":
            raise ValueError(
                "optimizer.name: muon moves whole matrices, and lora trains two thin ones for each; use adamw"
            )
        if self.init == "random" and self.transformer is None:
            raise ValueError("transformer: missing, but init is 'random'; give the transformer's sizes")
        if self.init != "random" and self.transformer is not None:
            raise ValueError(
                f"transformer: given together with init {self.init!r}, whose sizes hold; remove one of them"
            )
        return self

"""The training recipe: every setting of `m2d train` as a checked, frozen document.

Owns the form of `recipes/training/*.yaml` and the rules between fields; does not look at files or devices.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from m2d.errors import InputError
from m2d.limits import FASTEST_FPS, LARGEST_SEED, LARGEST_SIDE, MOST_SCENES
from m2d.recipe.fields import MaskName
from m2d.training.recipe_parts import (
    Beta,
    LoraRecipe,
    ObjectiveRecipe,
    OptimizerRecipe,
    Part,
    ScheduleRecipe,
)

Stage = Literal["base", "pretrain", "sft"]
Device = Literal["cpu", "cuda"]
Precision = Literal["float32", "bfloat16"]
TrackerName = Literal["tensorboard", "wandb"]
BUILTIN_PUPPET = "builtin:puppet"
_PUPPET_FIELDS = frozenset({"source", "num_stories", "seed", "held_out", "hats", "changing"})


class DataRecipe(Part):
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


class SizeRecipe(Part):
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


class TransformerRecipe(Part):
    """Sizes of a transformer that starts from random weights.

    VAE, text encoder and `video` decide channels, text width and latent sizes.
    """

    num_layers: int = Field(ge=1, le=1000)
    num_attention_heads: int = Field(ge=1, le=1000)
    attention_head_dim: int = Field(ge=16, le=4096, multiple_of=16)
    patch_size: int = Field(ge=1, le=64)
    time_embed_dim: int = Field(ge=2, le=65_536)
    max_text_tokens: int = Field(ge=1, le=65_536)


class CheckpointRecipe(Part):
    """When to save checkpoints, and how many to keep. `every_steps: 0` saves by time alone."""

    every_s: float = Field(default=300.0, gt=0)
    every_steps: int = Field(default=0, ge=0, le=1_000_000_000)
    keep: int = Field(default=3, ge=1, le=1_000_000)


class EvaluationRecipe(Part):
    """How often, and on how many samples, the held-out loss of the averaged weights is measured."""

    every_steps: int = Field(default=500, ge=1, le=1_000_000_000)
    num_samples: int = Field(default=128, ge=1, le=1_000_000)


class ValidationRecipe(Part):
    """Films of some story recipes, made with the averaged weights during the training, for viewing."""

    stories: tuple[str, ...] = Field(min_length=1)
    every_steps: int = Field(default=1000, ge=1, le=1_000_000_000)


class TrainingRecipe(Part):
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
            InputError: The batch does not divide, or the objective is for one process.
        """
        if num_processes > 1 and self.objective.unprompted_weight:
            raise InputError("objective.unprompted_weight: is for a training in one process; remove it")
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
        if self.objective.unprompted_weight and not self.data.is_puppet:
            raise ValueError(
                f"objective.unprompted_weight: only {BUILTIN_PUPPET} says actors' size and eyes; remove it"
            )
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

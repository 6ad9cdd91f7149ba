"""The story recipe: every setting of a film as a validated, frozen document.

Owns the fields of `recipes/stories/*.yaml` and the rules between them; does not look at files, devices or
weights, and does not know the limits of a model: `plan` checks those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from m2d.enlarging import LARGEST_UPSCALE, UpscaleFilter
from m2d.joins import CUT, Join
from m2d.limits import FASTEST_FPS, LARGEST_SIDE
from m2d.recipe.backend_choice import BackendChoice
from m2d.recipe.cast import scene_prompt, unknown_actors
from m2d.recipe.fields import (
    MAX_SEED,
    ActorName,
    ImagePath,
    LoraPath,
    MaskName,
    NegativePrompt,
    OutputName,
    Phrase,
    Prompt,
    Title,
)
from m2d.recipe.model_choice import ModelChoice
from m2d.recipe.places import KeyPath, show

SchedulerName = Literal["ddim", "dpm", "dpm++", "euler", "unipc"]
GuidanceMode = Literal["batched", "sequential"]
Speed = Literal["exact", "balanced", "fast"]

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
NumSteps = Annotated[int, Field(ge=1, le=1000)]
SceneNumber = Annotated[int, Field(ge=1, le=500)]
GuidanceScale = Annotated[FiniteFloat, Field(ge=0, le=100)]
MAX_NUM_FRAMES = 10_000
MAX_JOINT_SCENES = 100
NumFrames = Annotated[int, Field(ge=1, le=MAX_NUM_FRAMES)]
# Films of older versions have no such field.
_UNRECORDED_IF_NONE = Field(exclude_if=lambda value: value is None)


class FieldProblem(NamedTuple):
    """A violated rule between fields, and the field to report."""

    key_path: KeyPath
    message: str


class CrossFieldError(ValueError):
    """Rules between fields are violated."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Crossfade(_Part):
    """A transition in which two scenes share frames."""

    crossfade: NumFrames


def _join_choice(data: object) -> object:
    if data in ("cut", "continue") or isinstance(data, Crossfade):
        return data
    if isinstance(data, Mapping) and list(data) == ["crossfade"]:
        num_frames = data["crossfade"]
        if type(num_frames) is int and 1 <= num_frames <= MAX_NUM_FRAMES:
            return data
        raise ValueError(f"crossfade: expected a number of frames from 1, got {show(num_frames)}")
    raise ValueError(f"expected cut, continue or {{crossfade: 4}}, got {show(data)}")


JoinChoice = Annotated[Literal["cut", "continue"] | Crossfade, BeforeValidator(_join_choice)]


def _as_tuple(data: object) -> object:
    # Pydantic takes a list for a tuple only in JSON that no validator has touched before.
    return tuple(data) if isinstance(data, list) else data


SceneNumbers = Annotated[
    tuple[SceneNumber, ...], Field(min_length=1, max_length=500), BeforeValidator(_as_tuple)
]


class LoraChoice(_Part):
    """A LoRA of the transformer; in YAML a plain string is a path.

    Attributes:
        path: A safetensors file.
        scale: Multiplies the strength that it was trained with.
        scenes: Numbers of the scenes that it holds for, from 1; None for all.
        sha256: What the file's SHA-256 has to be; a film records it.
    """

    path: LoraPath
    scale: Annotated[FiniteFloat, Field(ge=-100, le=100)] = 1.0
    scenes: SceneNumbers | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    def __str__(self) -> str:
        """Describe it in short: `style.safetensors at 0.8 in scenes 1, 3`."""
        scenes = "" if self.scenes is None else f" in scene{'s' * (len(self.scenes) > 1)} "
        return f"{PurePath(self.path).name} at {self.scale:g}{scenes}{', '.join(map(str, self.scenes or ()))}"

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, data: object) -> object:
        if isinstance(data, str):
            return {"path": data}
        if not isinstance(data, Mapping | LoraChoice):
            raise ValueError(f"expected a file, or `path:` with more keys, got {show(data)}")
        return data


class Scene(_Part):
    """One scene: a prompt and its own settings; in YAML a plain string is a scene with only a prompt.

    Every field but `prompt` and `join` defaults to the story's value.

    Attributes:
        setting: First sentence of the scene's prompt, instead of the story's setting.
        prompt: What happens in the scene; it refers to actors by their names in the cast.
        guidance_scale: 1 means no guidance.
        join: Transition from the scene before it: `cut` (default), `continue` or `{crossfade: 4}`.
        match_colour: Whether the scene's colours are matched to the scene before it.
        image: Picture that the scene starts from, for image-to-video models; relative to the recipe.
        image_sha256: Digest of the picture, which a film records; another picture is rejected.
    """

    setting: Phrase | None = None
    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    guidance_scale: GuidanceScale | None = None
    seed: Seed | None = None
    frames: NumFrames | None = None
    join: JoinChoice | None = None
    match_colour: bool | None = None
    image: Annotated[ImagePath | None, _UNRECORDED_IF_NONE] = None
    image_sha256: Annotated[str | None, Field(pattern="^[0-9a-f]{64}$"), _UNRECORDED_IF_NONE] = None

    @property
    def joined(self) -> Join:
        """The transition as a `Join`; a cut by default."""
        if isinstance(self.join, Crossfade):
            return Join(kind="crossfade", num_frames=self.join.crossfade)
        return CUT if self.join is None else Join(kind=self.join)

    @model_validator(mode="before")
    @classmethod
    def _from_shorthand(cls, data: object) -> object:
        if isinstance(data, str):
            return {"prompt": data}
        if not isinstance(data, Mapping | Scene):
            raise ValueError(f"expected a prompt, or `prompt:` with more keys, got {show(data)}")
        return data


class Sampling(_Part):
    """Settings of the denoising loop.

    Attributes:
        scheduler: None, like every other None here, selects the model's default.
        dynamic_guidance: Vary the guidance scale over the steps as the CogVideoX code does.
        cfg: Run the two predictions of guidance in one batch, or one after the other to save memory.
        speed: Step caching: `balanced` and `fast` extrapolate some steps, which changes the film slightly.
        keep_context: Compute clean context scenes once where the mask allows it (`causal` and `window:k`);
            takes memory.
    """

    scheduler: SchedulerName | None = None
    num_inference_steps: NumSteps | None = None
    guidance_scale: GuidanceScale | None = None
    dynamic_guidance: Annotated[bool | None, _UNRECORDED_IF_NONE] = None
    negative_prompt: NegativePrompt = ""
    seed: Seed = 0
    cfg: GuidanceMode = "batched"
    speed: Speed = "exact"
    keep_context: bool = True


class ResolvedSampling(Sampling):
    """Settings of the denoising loop with the model's defaults filled in.

    Attributes:
        scheduler: None is the scheduler of the model folder.
    """

    num_inference_steps: NumSteps
    guidance_scale: GuidanceScale
    dynamic_guidance: bool

    def as_recorded(self) -> Sampling:
        """Return the same settings as a recipe; constant guidance is left out, as by older versions."""
        fields = self.model_dump()
        return Sampling(**fields | {"dynamic_guidance": self.dynamic_guidance or None})


class Upscale(_Part):
    """How written frames are enlarged; in YAML a plain number is a factor."""

    factor: Annotated[int, Field(ge=1, le=LARGEST_UPSCALE)]
    filter: UpscaleFilter = "lanczos"


def _upscale_choice(data: object) -> object:
    if isinstance(data, Mapping | Upscale):
        return data
    if type(data) is not int:
        raise ValueError(f"expected a factor such as 5, or {{factor: 5, filter: nearest}}, got {show(data)}")
    if not 1 <= data <= LARGEST_UPSCALE:
        bound = "at least 1" if data < 1 else f"at most {LARGEST_UPSCALE}"
        raise ValueError(f"must be {bound}, got {data}")
    return {"factor": data}


class Video(_Part):
    """Sizes of the film, in pixels; None selects the model's default.

    Attributes:
        num_frames: Number of frames of every scene.
        upscale: How the written frames are enlarged.
        match_colour: Whether the colours of every scene are matched to the scene before it.
    """

    num_frames: NumFrames | None = None
    height: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = None
    width: Annotated[int, Field(ge=1, le=LARGEST_SIDE)] | None = None
    fps: Annotated[int, Field(ge=1, le=FASTEST_FPS)] | None = None
    upscale: Annotated[Upscale, BeforeValidator(_upscale_choice)] = Upscale(factor=1)
    match_colour: bool = False


class _Titled(_Part):
    # A base of its own keeps the reading order: the title, then the fields of the model.
    title: Title


class Recipe(ModelChoice, _Titled):
    """A story, and the model that makes it.

    Attributes:
        loras: LoRAs of the transformer, for all scenes or for some.
        cast: Description of each actor by name; every mention in a prompt is followed by it in brackets.
        setting: First sentence of every prompt whose scene has no setting of its own.
        output: File name of the film; None derives it from the title.
        jointly: Scenes that are made together; None is the number that the model was trained on.
        context: What a scene made after the joint ones follows: the first scene and the last ones, or the
            last ones alone.
        image: Picture that every scene without an image of its own starts from, unless it continues another.
    """

    loras: Annotated[tuple[LoraChoice, ...], Field(max_length=20, exclude_if=lambda value: not value)] = ()
    cast: Annotated[Mapping[ActorName, Phrase], Field(max_length=50)] = {}
    setting: Phrase | None = None
    scenes: Annotated[tuple[Scene, ...], Field(min_length=1, max_length=500)]
    sampling: Sampling = Sampling()
    video: Video = Video()
    mask: MaskName = "mask2dit"
    backend: BackendChoice = BackendChoice()
    output: OutputName | None = None
    image: Annotated[ImagePath | None, _UNRECORDED_IF_NONE] = None
    jointly: Annotated[int | None, Field(ge=1, le=MAX_JOINT_SCENES), _UNRECORDED_IF_NONE] = None
    context: Literal["first", "recent"] = "first"

    def full_prompts(self) -> list[str]:
        """Return the prompts of all scenes as the model is given them, with cast and setting."""
        return [
            scene_prompt(scene.prompt, cast=self.cast, setting=scene.setting or self.setting)
            for scene in self.scenes
        ]

    @classmethod
    def cross_field_problems(cls, data: object) -> list[FieldProblem]:
        """Return the violated rules between fields of a raw document; single fields may be invalid."""
        if not isinstance(data, Mapping):
            return []
        cast = data.get("cast")
        if not isinstance(cast, Mapping | None):
            return _lora_problems(data)
        return _lora_problems(data) + [
            FieldProblem(key_path, _unknown_actor_message(name, cast or {}))
            for key_path, text in _texts(data, cast or {})
            for name in unknown_actors(text, cast or {})
        ]

    @model_validator(mode="after")
    def _follows_cross_field_rules(self) -> Self:
        problems = self.cross_field_problems(self.model_dump())
        if problems:
            raise CrossFieldError(problems)
        return self


def _lora_problems(data: Mapping[str, object]) -> list[FieldProblem]:
    """Return the LoRAs of scenes that are not in the story."""
    loras, scenes = data.get("loras"), data.get("scenes")
    if not isinstance(loras, list | tuple) or not isinstance(scenes, list | tuple):
        return []
    numbers = [
        (index, lora["scenes"])
        for index, lora in enumerate(loras)
        if isinstance(lora, Mapping) and isinstance(lora.get("scenes"), list | tuple)
    ]
    return [
        FieldProblem(("loras", index, "scenes"), f"{number}; the recipe has {len(scenes)} scenes, from 1")
        for index, wanted in numbers
        for number in wanted
        if type(number) is int and number > len(scenes)
    ]


def _texts(data: Mapping[str, object], cast: Mapping[str, object]) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text of a raw document that may mention actors."""
    found: list[tuple[KeyPath, object]] = [(("cast", name), text) for name, text in cast.items()]
    found.append((("setting",), data.get("setting")))
    scenes = data.get("scenes")
    for index, scene in enumerate(scenes if isinstance(scenes, list | tuple) else ()):
        fields = scene if isinstance(scene, Mapping) else {"prompt": scene}
        found += [(("scenes", index, name), fields.get(name)) for name in ("setting", "prompt")]
    yield from ((key_path, text) for key_path, text in found if isinstance(text, str))


def _unknown_actor_message(name: str, cast: Mapping[str, object]) -> str:
    if not cast:
        return f"{name} is named, but there is no cast; add `cast: {{{name}: ...}}` with a description"
    spelled = {known.lower(): known for known in cast}
    hint = f"write {spelled[name.lower()]}" if name.lower() in spelled else f"add {name} to it"
    known = ", ".join(show(known)[1:-1] for known in list(cast)[:8])
    return f"{name} is not in the cast ({known}); {hint}"

"""The story recipe: every knob of `m2d generate` as a checked, frozen document.

Owns the form of `recipes/stories/*.yaml` and the rules between its fields; does not look at files, devices or
weights, and does not know what a model can do: that is `plan`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, model_validator

from m2d.joins import CUT, Join
from m2d.recipe.cast import unknown_actors
from m2d.recipe.fields import (
    MAX_SEED,
    ActorName,
    BackendName,
    DeviceName,
    MaskName,
    ModelName,
    NegativePrompt,
    OutputName,
    Phrase,
    Prompt,
    Title,
)
from m2d.recipe.text_tree import KeyPath, show

SchedulerName = Literal["ddim", "dpm", "dpm++", "euler", "unipc"]
GuidanceMode = Literal["batched", "sequential"]
Speed = Literal["exact", "balanced", "fast"]
DtypeName = Literal["float32", "bfloat16", "float16"]

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
GuidanceScale = Annotated[FiniteFloat, Field(ge=0, le=100)]
MAX_NUM_FRAMES = 10_000
NumFrames = Annotated[int, Field(ge=1, le=MAX_NUM_FRAMES)]
OptionName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
OptionValue = bool | int | FiniteFloat | Annotated[str, Field(max_length=200)]


class FieldProblem(NamedTuple):
    """A broken rule between fields, with the field to blame."""

    key_path: KeyPath
    message: str


class CrossFieldError(ValueError):
    """Rules between fields are broken."""

    def __init__(self, problems: Sequence[FieldProblem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Crossfade(_Part):
    """A join in which two scenes share frames."""

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


class Scene(_Part):
    """One prompt and what differs for its clip; in YAML a plain string is a scene with just a prompt.

    Attributes:
        prompt: What happens, naming actors by their names in the cast.
        negative_prompt: What to steer away from; None takes the story's.
        guidance_scale: 1 is no guidance; None takes the story's.
        seed: Seed of this scene's noise; None takes the story's.
        frames: Length of this scene; None takes the story's.
        join: How it follows the scene before it: `cut`, `continue` or `{crossfade: 4}`; None is a cut.
        match_colour: Whether its colours are corrected towards the scene before it; None takes the story's.
    """

    prompt: Prompt
    negative_prompt: NegativePrompt | None = None
    guidance_scale: GuidanceScale | None = None
    seed: Seed | None = None
    frames: NumFrames | None = None
    join: JoinChoice | None = None
    match_colour: bool | None = None

    @property
    def joined(self) -> Join:
        """The join as m2d's other parts know it."""
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
    """How noise becomes a film.

    Attributes:
        scheduler: None takes the model folder's own.
        cfg: Whether guidance's two predictions run in one batch or one after the other (less memory).
        speed: How many steps are foretold instead of computed; all but `exact` change the film a little.
        keep_context: Whether scenes that are given, and that no step changes (masks `causal` and `window:k`),
            are computed once; it takes memory.
    """

    scheduler: SchedulerName | None = None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    guidance_scale: GuidanceScale = 6.0
    negative_prompt: NegativePrompt = ""
    seed: Seed = 0
    cfg: GuidanceMode = "batched"
    speed: Speed = "exact"
    keep_context: bool = True


class Video(_Part):
    """The film's size; None takes the model's default.

    Attributes:
        num_frames: Frames of every scene.
        height: Pixels.
        width: Pixels.
        fps: Frames per second.
        upscale: Whole-number enlargement when the file is written, without smoothing.
        match_colour: Whether every scene's colours are corrected towards the scene before it.
    """

    num_frames: NumFrames | None = None
    height: Annotated[int, Field(ge=1, le=8192)] | None = None
    width: Annotated[int, Field(ge=1, le=8192)] | None = None
    fps: Annotated[int, Field(ge=1, le=240)] | None = None
    upscale: Annotated[int, Field(ge=1, le=64)] = 1
    match_colour: bool = False


class BackendChoice(_Part):
    """What runs the transformer, and where.

    Attributes:
        options: What only this backend knows, by name; the backend says what it does not know.
    """

    name: BackendName = "eager"
    device: DeviceName = "cpu"
    dtype: DtypeName = "float32"
    options: Annotated[Mapping[OptionName, OptionValue], Field(max_length=20)] = {}


class Recipe(_Part):
    """A story.

    Attributes:
        model: `builtin:puppet`, `builtin:puppet-large` or a model folder.
        cast: Description of each actor, by name; put in brackets behind every mention in a prompt.
        setting: Opens every scene's prompt.
        output: File name of the film; None makes one from the title.
    """

    title: Title
    model: ModelName = "builtin:puppet"
    cast: Annotated[Mapping[ActorName, Phrase], Field(max_length=50)] = {}
    setting: Phrase | None = None
    scenes: Annotated[tuple[Scene, ...], Field(min_length=1, max_length=500)]
    sampling: Sampling = Sampling()
    video: Video = Video()
    mask: MaskName = "mask2dit"
    backend: BackendChoice = BackendChoice()
    output: OutputName | None = None

    @classmethod
    def cross_field_problems(cls, data: object) -> list[FieldProblem]:
        """Return the broken rules between fields of a raw document, whose fields may be wrong themselves."""
        if not isinstance(data, Mapping):
            return []
        cast = data.get("cast")
        if not isinstance(cast, Mapping | None):
            return []
        return [
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


def _texts(data: Mapping[str, object], cast: Mapping[str, object]) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text of a raw document in which actors may be named."""
    found: list[tuple[KeyPath, object]] = [(("cast", name), text) for name, text in cast.items()]
    found.append((("setting",), data.get("setting")))
    scenes = data.get("scenes")
    for index, scene in enumerate(scenes if isinstance(scenes, list | tuple) else ()):
        prompt = scene.get("prompt") if isinstance(scene, Mapping) else scene
        found.append((("scenes", index, "prompt"), prompt))
    yield from ((key_path, text) for key_path, text in found if isinstance(text, str))


def _unknown_actor_message(name: str, cast: Mapping[str, object]) -> str:
    if not cast:
        return f"{name} is named, but there is no cast; add `cast: {{{name}: ...}}` with a description"
    spelled = {known.lower(): known for known in cast}
    hint = f"write {spelled[name.lower()]}" if name.lower() in spelled else f"add {name} to it"
    known = ", ".join(show(known)[1:-1] for known in list(cast)[:8])
    return f"{name} is not in the cast ({known}); {hint}"

"""The layouts in which other systems write stories of several scenes, and what m2d takes from each.

Owns their fields; `story_import` reads files and makes recipes. Other fields are named as not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator

from m2d.recipe.fields import NegativePrompt, Prompt

_GLOBAL, _PER_SHOT, _CUT = "[global caption]", "[per shot caption]", "[shot cut]"
_NUM_SHOTS = re.compile(r"\s*This scene contains \d+ shots?\.?")
_CHARACTER = re.compile(r"\[(character ?\d+)\]", re.IGNORECASE)
# "Shot 1 [0-3s]", "Shot 2 (3-5 s):", and the same in Chinese.
_SHOT = re.compile(
    r"(?:\bShot\s*\d+|\u7b2c\s*\d+\s*\u4e2a?\s*\u955c\u5934)\s*[\[(\uff08\u3010][^\])\uff09\u3011]*[\])\uff09\u3011]\s*[:\uff1a,\uff0c]?",
    re.IGNORECASE,
)
_Prompts = Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=500)]


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedStory:
    """What m2d takes from a story in another layout.

    Attributes:
        scenes: Fields of each scene, as in a recipe.
        name: Its title, where it has one.
        shared: Text that holds for all scenes.
        dropped: What stands in its texts and has no counterpart in a recipe.
    """

    scenes: tuple[Mapping[str, Any], ...]
    name: str = ""
    shared: str = ""
    negative_prompt: str = ""
    seed: int | None = None
    dropped: tuple[str, ...] = ()


class _Layout(BaseModel):
    model_config = ConfigDict(extra="allow", frozen=True, strict=True, allow_inf_nan=False)

    def stories(self) -> list[SharedStory]:
        """Return the stories of the file, in order."""
        raise NotImplementedError


class HoloCine(_Layout):
    """A global caption, and a caption for each shot."""

    global_caption: Prompt
    shot_captions: _Prompts
    negative_prompt: NegativePrompt = ""

    def stories(self) -> list[SharedStory]:
        """The global caption holds for all scenes; each shot is a scene."""
        shared = _CHARACTER.sub(r"\1", _NUM_SHOTS.sub("", self.global_caption))
        scenes = tuple({"prompt": _CHARACTER.sub(r"\1", text)} for text in self.shot_captions)
        return [
            SharedStory(
                scenes=scenes,
                shared=shared,
                negative_prompt=self.negative_prompt,
            )
        ]


class HoloCineText(_Layout):
    """HoloCine's single prompt: `[global caption] .. [per shot caption] .. [shot cut] ..`."""

    prompt: Prompt
    negative_prompt: NegativePrompt = ""

    def stories(self) -> list[SharedStory]:
        """The same as in separate fields."""
        before, _, shots = self.prompt.partition(_PER_SHOT)
        captions = tuple(text for part in shots.split(_CUT) if (text := part.strip(" |\n\t")))
        shared = before.replace(_GLOBAL, "").strip()
        parts = {"global_caption": shared, "shot_captions": captions, "negative_prompt": self.negative_prompt}
        return HoloCine.model_validate(parts).stories()


# StoryMem writes them as texts, too.
_Cut = Annotated[bool, BeforeValidator(lambda data: {"True": True, "False": False}.get(str(data), data))]


class _StoryMemScene(_Layout):
    video_prompts: _Prompts
    cut: tuple[_Cut, ...] | None = None

    @model_validator(mode="after")
    def _has_a_cut_for_each_prompt(self) -> _StoryMemScene:
        if self.cut is not None and len(self.cut) != len(self.video_prompts):
            raise ValueError(f"cut has {len(self.cut)} entries for {len(self.video_prompts)} video_prompts")
        return self


class StoryMem(_Layout):
    """Scenes of several prompts each, with a cut or without one before each prompt."""

    scenes: Annotated[tuple[_StoryMemScene, ...], Field(min_length=1)]
    story_name: str | None = None
    story_overview: str | None = None

    def stories(self) -> list[SharedStory]:
        """Every prompt is a scene; one without a cut continues the scene before it."""
        scenes = [
            _joined(prompt, continues=not cut)
            for scene in self.scenes
            for prompt, cut in zip(
                scene.video_prompts, scene.cut or (True,) * len(scene.video_prompts), strict=True
            )
        ]
        return [SharedStory(scenes=_from_cut(scenes), name=self.story_name or self.story_overview or "")]


class _TttScene(_Layout):
    text: Prompt
    requires_scene_transition: bool = False
    neg_text: NegativePrompt | None = None


class TttVideo(RootModel[Annotated[tuple[tuple[_TttScene, ...], ...], Field(min_length=1)]]):
    """Stories, each a list of segments with a transition or without one before each."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _one_story_or_several(cls, data: object) -> object:
        return (data,) if isinstance(data, tuple) and not isinstance(data[0], tuple) else data

    def stories(self) -> list[SharedStory]:
        """Every segment is a scene; one without a transition continues the scene before it."""
        return [
            SharedStory(
                scenes=_from_cut(
                    _joined(scene.text, continues=not scene.requires_scene_transition)
                    | ({"negative_prompt": scene.neg_text} if scene.neg_text else {})
                    for scene in story
                )
            )
            for story in self.root
        ]


class Talc(RootModel[Mapping[str, _Prompts]]):
    """Captions of scenes: of one story, or of several stories by name."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _one_story_or_several(cls, data: object) -> object:
        return {"captions": data} if isinstance(data, tuple) else data

    def stories(self) -> list[SharedStory]:
        """Every caption is a scene."""
        return [
            SharedStory(
                name="" if name == "captions" else name.replace("_", " "),
                scenes=tuple({"prompt": caption} for caption in captions),
            )
            for name, captions in self.root.items()
        ]


class PromptRelay(_Layout):
    """A prompt for the whole clip, and prompts for its spans."""

    local_prompts: _Prompts
    global_prompt: NegativePrompt = ""

    def stories(self) -> list[SharedStory]:
        """Every span is a scene that continues the one before it."""
        scenes = _from_cut(_joined(text, continues=True) for text in self.local_prompts)
        return [SharedStory(scenes=scenes, shared=self.global_prompt)]


class _KlingShot(_Layout):
    prompt: Prompt


class Kling(_Layout):
    """A request with `multi_prompt`: a prompt for each shot."""

    multi_prompt: Annotated[tuple[_KlingShot, ...], Field(min_length=1)]
    negative_prompt: NegativePrompt = ""

    def stories(self) -> list[SharedStory]:
        """Every shot is a scene."""
        scenes = tuple({"prompt": shot.prompt} for shot in self.multi_prompt)
        return [SharedStory(scenes=scenes, negative_prompt=self.negative_prompt)]


class Wan(_Layout):
    """A request with `shot_type`, whose prompt names its shots: `Shot 1 [0-3s] ..`."""

    prompt: Prompt
    shot_type: Literal["single", "multi"]
    negative_prompt: NegativePrompt = ""
    seed: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _names_its_shots(self) -> Wan:
        if self.shot_type == "multi" and len(_SHOT.split(self.prompt)) < 2:
            raise ValueError("prompt names no shots, such as `Shot 1 [0-3s] ..`; write a scene for each")
        return self

    def stories(self) -> list[SharedStory]:
        """Every shot is a scene; what stands before the first one holds for all."""
        is_multi = self.shot_type == "multi"
        shared, *shots = _SHOT.split(self.prompt) if is_multi else ("", self.prompt)
        return [
            SharedStory(
                scenes=tuple({"prompt": text.strip()} for text in shots),
                shared=shared.strip(),
                negative_prompt=self.negative_prompt,
                seed=self.seed,
                dropped=("the times of the shots",) if is_multi else (),
            )
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """A layout: its name, the fields that show it, and how it is recognized and read."""

    name: str
    fields: str
    is_of: Callable[[object], bool]
    model: type[BaseModel]


LAYOUTS = (
    Layout(
        name="HoloCine",
        fields="global_caption, shot_captions",
        is_of=lambda data: _has(data, "shot_captions"),
        model=HoloCine,
    ),
    Layout(
        name="HoloCine",
        fields=f"a prompt with {_PER_SHOT}",
        is_of=lambda data: _has(data, "prompt") and _PER_SHOT in str(_get(data, "prompt")),
        model=HoloCineText,
    ),
    Layout(
        name="StoryMem",
        fields="scenes with video_prompts",
        is_of=lambda data: any(_has(scene, "video_prompts") for scene in _items(_get(data, "scenes"))),
        model=StoryMem,
    ),
    Layout(
        name="Prompt Relay",
        fields="global_prompt, local_prompts",
        is_of=lambda data: _has(data, "local_prompts"),
        model=PromptRelay,
    ),
    Layout(
        name="Kling", fields="multi_prompt", is_of=lambda data: bool(_get(data, "multi_prompt")), model=Kling
    ),
    Layout(name="Wan", fields="prompt, shot_type", is_of=lambda data: _has(data, "shot_type"), model=Wan),
    Layout(
        name="TTT-Video",
        fields="a list with text and requires_scene_transition",
        is_of=lambda data: any(_has(scene, "text") for scene in (*_items(data), *_items(_first(data)))),
        model=TttVideo,
    ),
    Layout(
        name="TALC",
        fields="captions, or names with lists of captions",
        is_of=lambda data: (
            _are_texts(data)
            or (isinstance(data, Mapping) and bool(data) and all(map(_are_texts, data.values())))
        ),
        model=Talc,
    ),
)
"""All layouts, the first that fits is taken."""


def unread_fields(layout: BaseModel) -> list[str]:
    """Return the names of the fields that a layout does not know, in order, without those that are null."""
    names = [name for name, value in (layout.model_extra or {}).items() if value is not None]
    for field in type(layout).model_fields:
        for item in _models(getattr(layout, field)):
            names += unread_fields(item)
    return list(dict.fromkeys(names))


def _models(value: object) -> Iterable[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _models(item)


def _joined(prompt: str, *, continues: bool) -> dict[str, Any]:
    return {"prompt": prompt} | ({"join": "continue"} if continues else {})


def _from_cut(scenes: Iterable[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """Return scenes of which the first continues nothing."""
    first, *rest = scenes
    return ({name: value for name, value in first.items() if name != "join"}, *rest)


def _has(data: object, key: str) -> bool:
    return isinstance(data, Mapping) and key in data


def _get(data: object, key: str) -> object:
    return data.get(key) if isinstance(data, Mapping) else None


def _items(data: object) -> Sequence[object]:
    return data if isinstance(data, tuple) else ()


def _first(data: object) -> object:
    return data[0] if isinstance(data, tuple) and data else None


def _are_texts(data: object) -> bool:
    return isinstance(data, tuple) and bool(data) and all(isinstance(item, str) for item in data)

"""Which stories a set of videos holds, and which frames of which file each scene has.

A film of m2d is a story whose scenes are in its provenance. Any other video has a scene per chapter, or as
many equal parts as it has prompts. Files named `NAME-scene-1.mp4` and so on are the scenes of one story.
Owns finding and prompts; `measure` decodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from m2d.data.dataset_text import first_few
from m2d.errors import InputError
from m2d.folders import is_folder
from m2d.recipe.fields import default_output
from m2d.recipe.figure5 import load_figure5
from m2d.recipe.loader import load_recipe
from m2d.recipe.schema import Recipe
from m2d.video.film_frames import film_frames
from m2d.video.formats import VIDEO_SUFFIXES
from m2d.video.open_film import FilmError
from m2d.video.printable import counted, printable
from m2d.video.provenance import ProvenanceError
from m2d.video.read import FilmInfo, probe

_RUN_FOLDER = ".m2d"
_SCENE_FILE = re.compile(r"(?P<story>.+)-scene-(?P<number>[0-9]{1,6})")
_SEED = re.compile(r"-seed-[0-9]+$")
_LONGEST_REASON = 300
_FEWEST_FRAMES = 2
# In place of the number of a scene, for a file that is a whole story.
_WHOLE = -1

Prompts = Mapping[str, tuple[str, ...]]
"""Per story name, the prompts of its scenes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneSpan:
    """Where one scene is: frames `start` to `stop` of a file, in the file's own numbering."""

    film: Path
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoStory:
    """One story to evaluate.

    Attributes:
        prompts: Of every scene; None if nothing holds them.
        cuts: Numbers of scenes, from 1 on, that begin with a cut inside one file.
        continued: Numbers of scenes that continue the take of the scene before.
        upscale: Side, in pixels of the file, of the block that becomes one pixel.
        width, height: Size of the frames in pixels after that.
        is_puppet: Whether an embedded model made the film.
    """

    name: str
    scenes: tuple[SceneSpan, ...]
    prompts: tuple[str, ...] | None
    cuts: tuple[int, ...]
    continued: tuple[int, ...]
    upscale: int
    width: int
    height: int
    is_puppet: bool

    @property
    def films(self) -> tuple[Path, ...]:
        """The files, each once, in the order of the scenes."""
        return tuple(dict.fromkeys(scene.film for scene in self.scenes))


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """A file or story that is not evaluated, and the reason."""

    name: str
    reason: str


def find_stories(
    paths: Sequence[Path], prompts: Prompts | None, *, needs_all_scenes: bool = True
) -> tuple[list[VideoStory], list[LeftOut]]:
    """Return the stories of films, folders of videos and run folders, and what cannot be evaluated.

    Args:
        prompts: Prompts that replace those in the films; None keeps the films' own.
        needs_all_scenes: Whether a story is left out if one of its numbered scenes is missing.

    Raises:
        InputError: A path holds no video, or two stories have one name.
    """
    numbered = _grouped([file for path in paths for file in _videos_of(path)])
    groups = {name: group for each in numbered.items() for name, group in _without_whole_films(*each)}
    stories: list[VideoStory] = []
    unread: list[LeftOut] = []
    for name, group in groups.items():
        own = None if prompts is None else _prompts_for(name, prompts, is_only=len(groups) == 1)
        files = [file for _, file in sorted(group.items())]
        gap = _missing_scenes(group) if needs_all_scenes else ""
        if gap:
            there = first_few([file.name for file in files])
            unread.append(LeftOut(name=printable(name), reason=printable(f"{gap}; there are {there}")))
            continue
        try:
            stories.append(_story(name, files, own))
        except (FilmError, ProvenanceError) as error:
            unread.append(left_out(name, error, files))
    return stories, unread


def check_given_prompts(stories: Sequence[VideoStory], prompts: Prompts) -> None:
    """Check that `prompts`, with which the stories were found, has one for every scene; raise InputError."""
    unknown = [story.name for story in stories if not story.prompts]
    problems = []
    if unknown:
        known = printable(first_few(sorted(prompts)))
        problems.append(f"no recipe named {first_few(unknown)}; the prompts have {known}")
    for story in stories:
        have, need = len(story.prompts or ()), len(story.scenes)
        if have and have != need:
            problems.append(f"{story.name}: {counted(need, 'scene')}, {counted(have, 'prompt')}")
    if problems:
        raise InputError("\n".join(problems), argument="prompts")


def check_own_prompts(stories: Sequence[VideoStory]) -> None:
    """Check that all stories hold prompts, or none does; raise InputError."""
    without = [story.name for story in stories if not story.prompts]
    having = [story.name for story in stories if story.prompts]
    if without and having:
        raise InputError(
            f"{first_few(without)}: without prompts; with prompts: {first_few(having)}; give a recipe of"
            " each, evaluate them apart, or choose an embedder that compares no prompts"
        )


def load_prompts(path: Path) -> Prompts:
    """Load the prompts of a recipe, of a folder of recipes, or of a JSON file in the format of Figure 5.

    Returns:
        Prompts as the model receives them, by the name of the story's film without its ending.

    Raises:
        RecipeError: A file cannot be read or is no recipe.
        InputError: The folder holds no recipe, or two stories have one name.
    """
    found: dict[str, tuple[str, ...]] = {}
    for recipe in _recipes(path):
        name = Path(recipe.output or default_output(recipe.title)).stem
        if name in found:
            raise InputError(
                f"{path}: two stories are named {name!r}; give them different titles", argument="prompts"
            )
        found[name] = tuple(recipe.full_prompts())
    return found


def left_out(name: str, error: Exception, films: Sequence[Path]) -> LeftOut:
    """Return the entry for a story that cannot be read: its file at fault, if the error names one."""
    text = str(error)
    for film in films:
        if text.startswith(f"{film}: "):
            name, text = film.name, text.removeprefix(f"{film}: ")
        text = text.replace(str(film), film.name)
    return LeftOut(name=printable(name), reason=printable(text, limit=_LONGEST_REASON))


def _recipes(path: Path) -> list[Recipe]:
    if is_folder(path):
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in (".yaml", ".yml"))
        if not files:
            raise InputError(f"{path}: holds no recipe; give a folder of .yaml files", argument="prompts")
        return [load_recipe(file) for file in files]
    return load_figure5(path) if path.suffix.lower() == ".json" else [load_recipe(path)]


def _videos_of(path: Path) -> list[Path]:
    if not is_folder(path):
        return [path]
    if path.suffix == _RUN_FOLDER:
        beside = [path.with_suffix(suffix) for suffix in VIDEO_SUFFIXES]
        films = [film for film in beside if film.is_file()]
        if not films:
            raise InputError(f"{path}: the film of this run folder is not beside it; give the film")
        return films[:1]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in VIDEO_SUFFIXES)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; give a folder you may read") from error
    files = [file for file in files if not file.name.startswith(".") and file.is_file()]
    if not files:
        raise InputError(f"{path}: holds no video; the names of videos end in {', '.join(VIDEO_SUFFIXES)}")
    return files


def _grouped(files: Sequence[Path]) -> dict[str, dict[int, Path]]:
    """Return the files of each story by its name, and of each story by the numbers of its scenes."""
    groups: dict[str, dict[int, Path]] = {}
    for file in dict.fromkeys(files):
        numbered = _SCENE_FILE.fullmatch(file.stem)
        name, number = (numbered["story"], int(numbered["number"])) if numbered else (file.stem, _WHOLE)
        group = groups.setdefault(name, {})
        others = [other for taken, other in group.items() if _WHOLE in (taken, number) or taken == number]
        if others:
            raise InputError(
                f"{file}: another video has this name, too: {others[0]}; give every story a name of its own"
            )
        group[number] = file
    return groups


def _without_whole_films(name: str, group: dict[int, Path]) -> Iterator[tuple[str, dict[int, Path]]]:
    """Yield a group of numbered scenes, and apart from it films of m2d whose titles end like `scene 2`.

    Such a film holds several scenes of its own, or is alone and not the first scene.
    """
    scenes = dict(group)
    for number, file in group.items():
        num_scenes = 0 if number == _WHOLE else _num_recorded(file)
        if num_scenes > 1 or (num_scenes == 1 and len(group) == 1 and number > 1):
            yield file.stem, {_WHOLE: scenes.pop(number)}
    if scenes:
        yield name, scenes


def _num_recorded(file: Path) -> int:
    """Return how many scenes the provenance of a file lists; 0 without one that can be read."""
    try:
        provenance = probe(file).provenance
    except (FilmError, ProvenanceError):
        return 0
    return len(provenance.scenes) if provenance else 0


def _missing_scenes(group: Mapping[int, Path]) -> str:
    """Return `scene 2 is missing` for files numbered 1 and 3; empty if all are there, from 0 or 1 on."""
    if _WHOLE in group:
        return ""
    missing = sorted({*range(min(*group, 1), max(group))} - group.keys())
    shown = first_few([str(number) for number in missing])
    return (
        f"scene{'s' * (len(missing) > 1)} {shown} {'is' if len(missing) == 1 else 'are'} missing"
        if missing
        else ""
    )


def _prompts_for(name: str, prompts: Prompts, *, is_only: bool) -> tuple[str, ...]:
    """Return the prompts of the story `name`; a film of one seed has those of its story."""
    for known in (name, _SEED.sub("", name)):
        if known in prompts:
            return prompts[known]
    return next(iter(prompts.values())) if is_only and len(prompts) == 1 else ()


def _story(name: str, files: Sequence[Path], prompts: tuple[str, ...] | None) -> VideoStory:
    infos = [probe(file) for file in files]
    first, provenance = infos[0], infos[0].provenance
    if len(files) > 1:
        scenes = tuple(
            SceneSpan(film=file, start=0, stop=_num_frames(file, info))
            for file, info in zip(files, infos, strict=True)
        )
    else:
        scenes = _spans(files[0], first, num_parts=len(prompts or ()))
    own = tuple(scene.prompt for scene in provenance.scenes) if provenance and len(files) == 1 else None
    for scene in scenes:
        if scene.stop - scene.start < _FEWEST_FRAMES:
            count = scene.stop - scene.start
            raise FilmError(
                f"{scene.film}: a scene has {count} frame; at least {_FEWEST_FRAMES} are measured"
            )
    upscale = provenance.video.upscale if provenance else 1
    joins = ["cut"] * len(scenes)
    if provenance and len(files) == 1:
        joins = [scene.join for scene in provenance.scenes]
    return VideoStory(
        name=printable(name),
        scenes=scenes,
        prompts=own if prompts is None else prompts,
        cuts=tuple(n for n in range(1, len(scenes)) if joins[n] == "cut") if len(files) == 1 else (),
        continued=tuple(n for n in range(1, len(scenes)) if joins[n] == "continue"),
        upscale=upscale,
        width=first.width // upscale,
        height=first.height // upscale,
        is_puppet=_is_puppet(first),
    )


def _spans(film: Path, info: FilmInfo, *, num_parts: int) -> tuple[SceneSpan, ...]:
    if info.provenance:
        scenes = info.provenance.scenes
        return tuple(
            SceneSpan(film=film, start=scene.first_frame, stop=scene.first_frame + scene.num_frames)
            for scene in scenes
        )
    num_frames = _num_frames(film, info)
    starts = [min(round(chapter.start_s * float(info.fps)), num_frames) for chapter in info.chapters]
    if len(starts) < 2:
        starts = [int(place) for place in np.linspace(0, num_frames, max(num_parts, 1) + 1)[:-1].round()]
    ends = [*starts[1:], num_frames]
    return tuple(SceneSpan(film=film, start=start, stop=end) for start, end in zip(starts, ends, strict=True))


def _num_frames(film: Path, info: FilmInfo) -> int:
    return info.num_frames or sum(1 for _ in film_frames(film))


def _is_puppet(info: FilmInfo) -> bool:
    models = [run.model for run in info.provenance.runs] if info.provenance else []
    return any(model is not None and model.name.startswith("builtin:puppet") for model in models)

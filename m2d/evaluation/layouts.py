"""Scenes as files in the folder layouts of other benchmarks, with the prompts and scripts that they read.

The layouts are those of VBench 0.1.5 (`--mode custom_input`), EntityBench (arXiv 2605.15199) and MSVBench
(arXiv 2602.23969). The tools themselves are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2d import disk
from m2d.errors import InputError
from m2d.evaluation.stories import VideoStory
from m2d.files import publish, write_bytes, write_json
from m2d.folders import make_folder
from m2d.progress import Reporter
from m2d.recipe.cast import described_actors, find_mentions
from m2d.video.clip_writer import ClipWriter
from m2d.video.crop_resize import Turn, shown_size, turn_of
from m2d.video.film_frames import FilmFrame, film_frames
from m2d.video.pixels import display_matrix
from m2d.video.read import FilmInfo, probe

# Other tools measure the pictures: of higher quality than those of a data set.
_CRF = 8
_SPLITS: tuple[str, ...] = ("easy", "medium", "hard")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Script:
    """What the prompts of a story say.

    Attributes:
        cast: Description of each actor by name.
        shown: Names of the actors of each scene.
    """

    name: str
    prompts: tuple[str, ...]
    cast: Mapping[str, str]
    shown: tuple[tuple[str, ...], ...]


def check_layouts(names: Sequence[str]) -> None:
    """Check that layouts are known; raises InputError for another one."""
    for name in names:
        if name not in _LAYOUTS:
            raise InputError(f"{name!r} is no layout; use {', '.join(_LAYOUTS)}", argument="export")


def export_layout(layout: str, stories: Sequence[VideoStory], folder: Path, reporter: Reporter) -> None:
    """Write the scenes of stories with prompts into `folder`, laid out for another benchmark.

    Scenes are encoded again as H.264, without sound; scripts are written last.

    Raises:
        FilmError: A video cannot be decoded to its end.
        OutputError: The disk refused.
    """
    place, finish = _LAYOUTS[layout]
    with reporter.stage(f"write {layout}", total=len(stories)) as progress:
        for story in stories:
            _write_scenes(story, [folder / place(story, number) for number in range(len(story.scenes))])
            progress.advance(detail=story.name)
    finish(folder, stories)


def _write_scenes(story: VideoStory, targets: Sequence[Path]) -> None:
    """Decode every file of a story once, and write each of its scenes to its target."""
    for parent in dict.fromkeys(target.parent for target in targets):
        make_folder(parent)
    for film in story.films:
        spans = [
            (span, target) for span, target in zip(story.scenes, targets, strict=True) if span.film == film
        ]
        info = probe(film)
        with ExitStack() as stack:
            frames = stack.enter_context(closing(film_frames(film)))
            writers: dict[Path, tuple[ClipWriter, ExitStack]] = {}
            for number, frame in enumerate(frames):
                for span, target in spans:
                    if number == span.start:
                        scene = stack.enter_context(ExitStack())
                        scene.enter_context(disk.output_errors(target))
                        part = scene.enter_context(publish(target, force=True))
                        width, height = _size_of(frame, info)
                        writer = ClipWriter(part, width=width, height=height, fps=float(info.fps), crf=_CRF)
                        writers[target] = scene.enter_context(writer), scene
                    if target in writers:
                        writer, scene = writers[target]
                        writer.add(frame.time_s, frame)
                        if number == span.stop - 1:
                            del writers[target]
                            scene.close()


def _size_of(frame: FilmFrame, info: FilmInfo) -> tuple[int, int]:
    turn = turn_of(display_matrix(frame.picture)) or Turn()
    return shown_size(frame.picture.width, frame.picture.height, float(info.pixel_aspect), turn)


def _scripts(stories: Sequence[VideoStory]) -> Iterator[_Script]:
    for story in stories:
        prompts = story.prompts or ()
        cast = described_actors(prompts)
        shown = tuple(
            tuple(dict.fromkeys(mention.name for mention in find_mentions(prompt, cast)))
            for prompt in prompts
        )
        yield _Script(name=_name(story), prompts=prompts, cast=cast, shown=shown)


def _name(story: VideoStory) -> str:
    """Return a story's name as that of a folder, which must not be `..` or hidden."""
    return story.name.lstrip(".") or "story"


def _vbench_place(story: VideoStory, number: int) -> Path:
    return Path("videos", f"{_name(story)}-scene-{number + 1}.mp4")


def _finish_vbench(folder: Path, stories: Sequence[VideoStory]) -> None:
    prompts = {
        _vbench_place(story, number).name: prompt
        for story in stories
        for number, prompt in enumerate(story.prompts or ())
    }
    write_json(folder / "prompts.json", prompts)


def _entitybench_place(story: VideoStory, number: int) -> Path:
    return Path("videos", _name(story), f"001_{number + 1:03d}.mp4")


def _finish_entitybench(folder: Path, stories: Sequence[VideoStory]) -> None:
    """All scenes are shots of one EntityBench scene: only there a shot may continue the one before."""
    make_folder(folder / "scripts")
    for story, script in zip(stories, _scripts(stories), strict=True):
        shots = [number not in story.continued for number in range(len(story.scenes))]
        document = {
            "story_name": script.name,
            "story_overview": " ".join(script.prompts),
            "scenes": [{"scene_num": 1, "video_prompts": list(script.prompts), "cut": shots}],
            "entity_schedule": {
                f"1:{number}": {"characters": list(names), "places": [], "objects": []}
                for number, names in enumerate(script.shown, start=1)
            },
            "entity_descriptions": {
                f"Character {number}": {
                    "name": name,
                    "label": f"Character {number}",
                    "description": script.cast[name],
                }
                for number, name in enumerate(script.cast, start=1)
            },
        }
        write_json(folder / "scripts" / f"{script.name}.json", document)
    names = [_name(story) for story in stories]
    write_json(folder / "split.json", {split: names if split == _SPLITS[0] else [] for split in _SPLITS})


def _msvbench_place(story: VideoStory, number: int) -> Path:
    # Its scenes are paired with prompts in alphabetical order.
    digits = max(2, len(str(len(story.scenes))))
    return Path("Evaluation/data/videos", _name(story), f"{number + 1:0{digits}d}.mp4")


def _finish_msvbench(folder: Path, stories: Sequence[VideoStory]) -> None:
    data = folder / "Dataset"
    for kind in ("prompt", "script"):
        make_folder(data / kind)
    for script in _scripts(stories):
        numbers = {name: number for number, name in enumerate(script.cast, start=1)}
        document: dict[str, Any] = {
            "characters": [
                {"id": number, "name": name, "short": script.cast[name]} for name, number in numbers.items()
            ],
            "script": [
                {"scene": scene, "clips": [{"id": scene, "characters": [numbers[name] for name in names]}]}
                for scene, names in enumerate(script.shown, start=1)
            ],
        }
        lines = "".join(f"{' '.join(prompt.split())}\n" for prompt in script.prompts)
        write_bytes(data / "prompt" / f"{script.name}.txt", lines.encode("utf-8"))
        write_json(data / "script" / f"{script.name}.json", document)


_Place = Callable[[VideoStory, int], Path]
_Finish = Callable[[Path, Sequence[VideoStory]], None]
_LAYOUTS: Mapping[str, tuple[_Place, _Finish]] = {
    "vbench": (_vbench_place, _finish_vbench),
    "entitybench": (_entitybench_place, _finish_entitybench),
    "msvbench": (_msvbench_place, _finish_msvbench),
}

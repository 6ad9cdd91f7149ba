"""What a page shows of one film, with all texts printable; the template arranges it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from m2d.video.board.drawings import GraphDrawing, MaskDrawing, draw_lineage, draw_mask
from m2d.video.board.film_pictures import FilmPictures
from m2d.video.board.pictures import FrameGrid
from m2d.video.lineage import (
    Hint,
    RunLineage,
    describe_means,
    describe_run,
    hints,
    lineage,
    name_scenes,
    stale,
)
from m2d.video.printable import counted, printable
from m2d.video.provenance import Provenance
from m2d.video.read import FilmInfo

LONGEST_TITLE, LONGEST_PROMPT = 200, 4000
MOST_WINDOWS = 24
# A colour jump that fills the scale beside its number; a cut to another place may exceed it.
LARGEST_JUMP = 50.0

Row = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneView:
    """One scene's card.

    Attributes:
        start: Where it begins and how long it is shown, as shares of the film's length.
        shared: The opening that all prompts of the film have in common.
        prompt: The rest of the prompt.
        join: Transition from the scene before it; empty for the first.
        jump: How far the colours jump there, in levels of 255; None for the first scene.
        jump_share: The jump on a scale from 0 to 1.
        stale: Why it no longer fits the others; empty when it does.
    """

    number: int
    start: float
    length: float
    grid: FrameGrid
    shared: str
    prompt: str
    negative_prompt: str
    join: str
    jump: float | None
    jump_share: float
    run: int
    kind: str
    stale: tuple[str, ...]
    facts: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """One run's part of the page.

    Attributes:
        means: Model, mask, sampling and versions, where they differ from the run before.
        same_as: Number of that run when some are the same; 0 otherwise.
        masks: For every shown window, the scenes it made and its mask; None when the mask is unknown or there
            are too many scenes.
    """

    number: int
    kind: str
    summary: str
    means: tuple[Row, ...]
    same_as: int
    mask: str
    masks: tuple[tuple[str, MaskDrawing | None], ...]
    num_hidden: int
    documents: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """The film's file and its run folder.

    Attributes:
        place: The file's path relative to the page.
        link: `place` as a URL.
        video: The player's URL: `link`, or the film as a data URI; empty for no player.
        run_folder: A sentence about its run folder.
    """

    name: str
    place: str
    link: str
    video: str
    is_embedded: bool
    written: str
    timings_s: Mapping[str, float]
    run_folder: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmView:
    """One film's part of the page."""

    title: str
    surroundings: Surroundings
    facts: tuple[str, ...]
    width: int
    height: int
    has_pixels: bool
    stripe: str
    scenes: tuple[SceneView, ...]
    runs: tuple[RunView, ...]
    graph: GraphDrawing | None
    hints: tuple[Hint, ...]
    stages: tuple[tuple[str, float], ...]
    digests: tuple[Row, ...]


def film_view(
    info: FilmInfo, provenance: Provenance, pictures: FilmPictures, surroundings: Surroundings
) -> FilmView:
    """Gather what a page says about a film."""
    return FilmView(
        title=printable(provenance.title, limit=LONGEST_TITLE) or surroundings.name,
        surroundings=surroundings,
        facts=_facts(info, provenance),
        width=info.width,
        height=info.height,
        has_pixels=provenance.video.upscale > 1 and provenance.video.upscale_filter == "nearest",
        stripe=pictures.stripe,
        scenes=_scenes(info, provenance, pictures),
        runs=_runs(provenance),
        graph=draw_lineage(provenance),
        hints=hints(provenance),
        stages=tuple(
            (printable(name, limit=LONGEST_TITLE), seconds)
            for name, seconds in sorted(surroundings.timings_s.items(), key=lambda stage: -stage[1])
        ),
        digests=_digests(provenance),
    )


def _facts(info: FilmInfo, provenance: Provenance) -> tuple[str, ...]:
    num_scenes, num_frames = len(provenance.scenes), provenance.num_frames
    size = f"{info.width}\N{MULTIPLICATION SIGN}{info.height} pixels"
    if provenance.video.upscale > 1:
        size += f", enlarged {provenance.video.upscale} times ({provenance.video.upscale_filter})"
    return (
        counted(num_scenes, "scene"),
        counted(num_frames, "frame"),
        f"{float(num_frames / info.fps):.1f} s at {float(info.fps):g} fps",
        size,
    )


def _scenes(info: FilmInfo, provenance: Provenance, pictures: FilmPictures) -> tuple[SceneView, ...]:
    prompts = [printable(scene.prompt, limit=LONGEST_PROMPT) for scene in provenance.scenes]
    shared = _shared_opening(prompts)
    return tuple(
        _scene(info, provenance, index, num_shown=num_shown, grid=grid, shared=shared, prompt=prompt)
        for index, (num_shown, grid, prompt) in enumerate(
            zip(provenance.shown_frames, pictures.grids, prompts, strict=True)
        )
    )


def _scene(
    info: FilmInfo,
    provenance: Provenance,
    index: int,
    *,
    num_shown: int,
    grid: FrameGrid,
    shared: str,
    prompt: str,
) -> SceneView:
    scene = provenance.scenes[index]
    jump = scene.colour_jump
    return SceneView(
        number=index + 1,
        start=scene.first_frame / provenance.num_frames,
        length=max(num_shown, 0) / provenance.num_frames,
        grid=grid,
        shared=shared,
        prompt=prompt.removeprefix(shared),
        negative_prompt=printable(scene.negative_prompt, limit=LONGEST_PROMPT),
        join="" if index == 0 else f"crossfade {scene.overlap}" if scene.overlap else scene.join,
        jump=jump,
        jump_share=0.0 if jump is None else min(max(jump / LARGEST_JUMP, 0.0), 1.0),
        run=scene.run + 1,
        kind=provenance.runs[scene.run].kind,
        stale=stale(provenance, index),
        facts=_scene_facts(info, provenance, index),
    )


def _scene_facts(info: FilmInfo, provenance: Provenance, index: int) -> tuple[Row, ...]:
    scene = provenance.scenes[index]
    start_s, length_s = (float(count / info.fps) for count in (scene.first_frame, scene.num_frames))
    facts = [
        ("seed", "" if scene.seed is None else str(scene.seed)),
        ("guidance", "" if scene.guidance_scale is None else f"{scene.guidance_scale:g}"),
        ("length", f"{counted(scene.num_frames, 'frame')}, {length_s:.1f} s"),
        ("begins at", f"{start_s:.1f} s"),
        ("colours", "" if scene.colour_map is None else "matched to the scene before it"),
    ]
    return tuple((name, value) for name, value in facts if value)


def _runs(provenance: Provenance) -> tuple[RunView, ...]:
    views = []
    before: RunLineage | None = None
    for run in lineage(provenance):
        views.append(_run(provenance, run, before=before))
        before = before if run.kind == "footage" else run
    return tuple(views)


def _run(provenance: Provenance, run: RunLineage, *, before: RunLineage | None) -> RunView:
    means, known = describe_means(run), describe_means(before) if before else ()
    differing = tuple(row for row in means if row not in known)
    mask = run.record.parameters.get("mask", "")
    windows = run.record.windows[:MOST_WINDOWS]
    documents = {"recipe": run.record.recipe, "parameters": run.record.parameters}
    return RunView(
        number=run.number,
        kind=run.kind,
        summary=describe_run(provenance, run),
        means=differing,
        same_as=before.number if before and len(differing) < len(means) else 0,
        mask=printable(str(mask), limit=LONGEST_TITLE),
        masks=tuple(
            (name_scenes(provenance, window.targets), draw_mask(provenance, window, mask))
            for window in windows
        ),
        num_hidden=len(run.record.windows) - len(windows),
        documents=tuple((name, json.dumps(document, indent=2)) for name, document in documents.items()),
    )


def _digests(provenance: Provenance) -> tuple[Row, ...]:
    scenes = [
        (f"scene {number}, {name}", digest)
        for number, scene in enumerate(provenance.scenes, start=1)
        for name, digest in (("latents", scene.latents_sha256), ("frames", scene.frames_sha256))
        if digest
    ]
    parents = [("continues", printable(parent, limit=64)) for parent in provenance.parents]
    return (
        ("provenance", provenance.digest()),
        ("all frames", provenance.frames_sha256),
        *parents,
        *scenes,
    )


def _shared_opening(prompts: Sequence[str]) -> str:
    """Return the sentences with which all prompts begin, such as the setting; empty for a single prompt."""
    if len(prompts) < 2:
        return ""
    first, last = min(prompts), max(prompts)
    length = next(
        (place for place, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(last)),
    )
    end = first.rfind(". ", 0, length)
    return "" if end < 0 else first[: end + 2]

"""`m2d inspect`: where a film comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from m2d.tasks.inspect import Inspection
    from m2d.video.provenance import Provenance, SceneRecord
    from m2d.video.read import FilmInfo


def inspect(
    film: Annotated[Path, typer.Argument(metavar="FILM", help="A film; MP4, MOV, MKV, WebM or AVI.")],
    as_json: Annotated[bool, typer.Option("--json", help="Write everything as JSON to stdout.")] = False,
) -> None:
    """Show where a film comes from.

    Decodes it, and compares it with what it says about itself: prompts, seeds, model, digests.
    """
    from m2d.cli.console import write_result
    from m2d.tasks.inspect import inspect_film

    inspection = inspect_film(film)
    if as_json:
        write_result(json.dumps(_document(inspection), indent=2))
        return
    _show(film, inspection)


def _show(film: Path, inspection: Inspection) -> None:
    from m2d.cli.console import format_size, show_fields, show_heading

    info, provenance = inspection.info, inspection.info.provenance
    show_heading(info.title or film.name)
    picture = f"{info.width}x{info.height} {info.codec}, {format_size(info.size_bytes)}"
    length = (
        f"{inspection.num_decoded_frames} frames, {float(inspection.num_decoded_frames / info.fps):.1f} s"
    )
    rows = [("film", f"{film}, {picture}"), ("length", f"{length} at {float(info.fps):g} fps")]
    if provenance is None:
        rows.append(("origin", "unknown: no provenance of m2d in this film"))
        rows += [("chapter", f"{chapter.start_s:.1f} s  {chapter.title}") for chapter in info.chapters]
        show_fields(rows)
        return
    show_fields(rows + _origin(inspection, provenance))
    for number, scene in enumerate(provenance.scenes, start=1):
        last_frame = scene.first_frame + scene.num_frames - 1
        show_heading(f"Scene {number}")
        show_fields(
            [
                ("prompt", scene.prompt),
                ("seed", str(scene.seed)),
                ("frames", f"{scene.first_frame} to {last_frame} ({_span(info, scene)})"),
                ("digest", f"sha256 {scene.frames_sha256[:16]}"),
            ]
        )


def _span(info: FilmInfo, scene: SceneRecord) -> str:
    start_s, stop_s = (
        float(frame / info.fps) for frame in (scene.first_frame, scene.first_frame + scene.num_frames)
    )
    return f"{start_s:.1f} to {stop_s:.1f} s"


def _origin(inspection: Inspection, provenance: Provenance) -> list[tuple[str, str]]:
    latents = {
        "present": "beside the film, and those it was decoded from",
        "absent": "not beside the film",
        "unusable": inspection.latents_problem,
    }
    parameters = provenance.parameters
    steps = (
        f"{parameters.get('num_inference_steps', '?')} steps, scheduler {parameters.get('scheduler', '?')}"
    )
    where = "{} on {} in {}".format(*(parameters.get(name, "?") for name in ("backend", "device", "dtype")))
    versions = ", ".join(f"{name} {version}" for name, version in provenance.versions.items())
    return [
        ("verified", f"all {provenance.num_frames} frames decode; provenance intact"),
        ("latents", latents[inspection.latents]),
        ("model", f"{provenance.model.name}, sha256 {provenance.model.digest[:16]}"),
        ("mask", f"{parameters.get('mask', '?')}, layout {provenance.layout_digest[:16]}"),
        ("sampling", steps),
        ("backend", where),
        ("frames", f"sha256 {provenance.frames_sha256[:16]}"),
        ("versions", versions),
    ]


def _document(inspection: Inspection) -> dict[str, Any]:
    info = inspection.info
    return {
        "title": info.title,
        "codec": info.codec,
        "width": info.width,
        "height": info.height,
        "fps": float(info.fps),
        "num_frames": inspection.num_decoded_frames,
        "size_bytes": info.size_bytes,
        "chapters": [
            {"title": chapter.title, "start_s": chapter.start_s, "end_s": chapter.end_s}
            for chapter in info.chapters
        ],
        "latents": {"state": inspection.latents, "problem": inspection.latents_problem},
        "provenance": info.provenance.model_dump(mode="json") if info.provenance else None,
    }

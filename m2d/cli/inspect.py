"""`m2d inspect`: show how a film was made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from m2d.cli.completion import film_files
from m2d.cli.results import pick
from m2d.video.formats import FORMATS_IN_WORDS
from m2d.video.printable import counted

if TYPE_CHECKING:
    from m2d.tasks.inspect import Inspection
    from m2d.video.provenance import Provenance
    from m2d.video.read import FilmInfo

_COLUMNS = ("shown", "frames", "join", "seed", "made by", "colour jump")


def inspect(
    film: Annotated[
        Path,
        typer.Argument(
            metavar="FILM",
            help=f"A film: {FORMATS_IN_WORDS}.",
            autocompletion=film_files,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Write the report as JSON to stdout.")] = False,
) -> None:
    """Show how a film was made.

    Decodes the film, compares it with its provenance, and lists its scenes, prompts, seeds and runs.
    """
    from m2d.cli.console import write_json
    from m2d.tasks.inspect import inspect_film

    inspection = inspect_film(film)
    if as_json:
        write_json(_document(inspection))
        return
    _show(film, inspection)


def _show(film: Path, inspection: Inspection) -> None:
    from m2d.cli.console import format_size, show_columns, show_fields, show_heading

    info, provenance = inspection.info, inspection.info.provenance
    show_heading(info.title or film.name)
    picture = f"{info.width}x{info.height} {info.codec}, {format_size(info.size_bytes)}"
    length = f"{counted(inspection.num_decoded_frames, 'frame')}, {inspection.duration_s:.1f} s"
    rows = [("film", f"{film}, {picture}"), ("length", f"{length} at {float(info.fps):g} fps")]
    rows += [("sound", str(track)) for track in inspection.sound]
    rows += [("reading", note) for note in inspection.notes]
    if provenance is None:
        rows.append(("origin", "unknown: no provenance of m2d in this film"))
        rows += [("chapter", f"{chapter.start_s:.1f} s  {chapter.title}") for chapter in info.chapters]
        show_fields(rows)
        return
    show_fields(rows + _checks(inspection, provenance))
    show_heading("Scenes")
    cells = [_scene_cells(info, provenance, index) for index in range(len(provenance.scenes))]
    show_columns("scene", _COLUMNS, [(str(number), row) for number, row in enumerate(cells, start=1)])
    show_heading("Lineage")
    show_fields(_lineage_rows(provenance))
    for index in range(len(provenance.scenes)):
        show_heading(f"Scene {index + 1}")
        show_fields(_scene_rows(provenance, index))


def _checks(inspection: Inspection, provenance: Provenance) -> list[tuple[str, str]]:
    latents = {
        "present": "beside the film; the film was decoded from them",
        "absent": "not beside the film",
        "unusable": inspection.run_folder.problem,
    }
    changed = ", ".join(str(number + 1) for number in inspection.changed_scenes)
    pictures = {
        "as written": "unchanged since they were written",
        "changed": f"changed or encoded again since they were written: scene {changed}",
        "unknown": "not compared: the film holds no digests of them",
    }
    return [
        ("verified", f"all {provenance.num_frames} frames decode; provenance intact"),
        ("pictures", pictures[inspection.pictures]),
        ("latents", latents[inspection.run_folder.latents]),
        ("frames", f"sha256 {provenance.frames_sha256[:16]}, as the model made them, before encoding"),
    ]


def _scene_cells(info: FilmInfo, provenance: Provenance, index: int) -> Sequence[str]:
    scene = provenance.scenes[index]
    start_s, end_s = _span_s(info, provenance, index)
    return (
        f"{start_s:.1f} to {end_s:.1f} s",
        str(scene.num_frames),
        "-" if index == 0 else f"crossfade {scene.overlap}" if scene.overlap else scene.join,
        "-" if scene.seed is None else str(scene.seed),
        f"{scene.run + 1} {provenance.runs[scene.run].kind}",
        "-" if scene.colour_jump is None else f"{scene.colour_jump:.1f}",
    )


def _span_s(info: FilmInfo, provenance: Provenance, index: int) -> tuple[float, float]:
    """Return when the film shows the scene; the frames of a crossfade count as the later scene's."""
    first = provenance.scenes[index].first_frame
    return float(first / info.fps), float((first + provenance.shown_frames[index]) / info.fps)


def _scene_rows(provenance: Provenance, index: int) -> list[tuple[str, str]]:
    from m2d.video.lineage import stale

    scene = provenance.scenes[index]
    rows = [("prompt", scene.prompt)]
    if scene.negative_prompt:
        rows.append(("negative", scene.negative_prompt))
    if scene.guidance_scale is not None:
        rows.append(("guidance", f"{scene.guidance_scale:g}"))
    rows += [("stale", reason) for reason in stale(provenance, index)]
    return [*rows, ("digest", f"sha256 {scene.frames_sha256[:16]}")]


def _lineage_rows(provenance: Provenance) -> list[tuple[str, str]]:
    from m2d.video.lineage import describe_means, describe_run, lineage

    rows = []
    known: set[tuple[str, str]] = set()
    for run in lineage(provenance):
        rows.append((f"run {run.number}", f"{run.kind}: {describe_run(provenance, run)}"))
        means = describe_means(run)
        # Many runs differ only in their scenes.
        rows += [row for row in means if row not in known]
        known = set(means) or known
    return rows + [("hint", hint) for hint in _hints(provenance)]


def _hints(provenance: Provenance) -> list[str]:
    from m2d.video.lineage import hints

    return [f"{hint.text}: m2d reroll FILM --scene {hint.scene + 1}" for hint in hints(provenance)]


def _document(inspection: Inspection) -> dict[str, Any]:
    info, provenance, run_folder = inspection.info, inspection.info.provenance, inspection.run_folder
    return {
        **pick(info, "title", "codec", "width", "height", "size_bytes", "chapters"),
        "fps": float(info.fps),
        "num_frames": inspection.num_decoded_frames,
        "sound": [
            pick(track, "codec", "channels", "sample_rate", "start_s", "duration_s", "language")
            for track in inspection.sound
        ],
        "duration_s": inspection.duration_s,
        "notes": inspection.notes,
        "frames_sha256": provenance.frames_sha256 if provenance else None,
        "pictures": {
            "state": inspection.pictures,
            "changed_scenes": [number + 1 for number in inspection.changed_scenes],
        },
        "latents": {"state": run_folder.latents, "problem": run_folder.problem},
        "timings_s": dict(run_folder.timings_s),
        "scenes": _scene_documents(info, provenance) if provenance else [],
        "lineage": _lineage_documents(provenance) if provenance else [],
        "hints": _hints(provenance) if provenance else [],
        "provenance": provenance.model_dump(mode="json") if provenance else None,
    }


def _scene_documents(info: FilmInfo, provenance: Provenance) -> list[dict[str, Any]]:
    """Return the scenes as JSON values; they are counted from 1, in provenance from 0."""
    from m2d.video.lineage import scene_origin, stale

    documents = []
    for index, scene in enumerate(provenance.scenes):
        start_s, end_s = _span_s(info, provenance, index)
        origin = scene_origin(provenance, index)
        documents.append(
            {
                "number": index + 1,
                "start_s": start_s,
                "end_s": end_s,
                **pick(scene, "num_frames", "join", "overlap", "seed", "colour_jump"),
                "run": scene.run + 1,
                "kind": provenance.runs[scene.run].kind,
                "context": _numbers(provenance, origin.context),
                "made_together_with": _numbers(provenance, origin.together),
                "outdated_context": _numbers(provenance, origin.outdated),
                "stale": list(stale(provenance, index)),
            }
        )
    return documents


def _lineage_documents(provenance: Provenance) -> list[dict[str, Any]]:
    from m2d.video.lineage import describe_means, describe_run, lineage

    return [
        {
            "run": run.number,
            "kind": run.kind,
            "made": _numbers(provenance, run.made),
            "replaced": _numbers(provenance, run.replaced),
            "summary": describe_run(provenance, run),
            "means": dict(describe_means(run)),
            "speed": run.record.parameters.get("speed"),
            "num_threads": run.record.machine.num_threads if run.record.machine else None,
        }
        for run in lineage(provenance)
    ]


def _numbers(provenance: Provenance, scenes: Sequence[int]) -> list[int]:
    """Return numbers in the film, from 1; scenes before the first one of a partial film have 0 and below."""
    return [scene - provenance.first_scene + 1 for scene in scenes]

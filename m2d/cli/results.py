"""Output of the commands that make a film: a table on stderr, a path or a JSON document on stdout."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from m2d.cli.remedies import name_flag_in
from m2d.video.printable import counted

if TYPE_CHECKING:
    from m2d.film.make import FilmResult

# More than this do not fit into a line.
_MOST_JOINS = 5


def pick(value: object, *names: str) -> dict[str, Any]:
    """Return attributes by name, for JSON documents whose keys are these names."""
    return {name: getattr(value, name) for name in names}


def show_headline(text: str, *, quiet: bool) -> None:
    """Show the headline of a run on stderr."""
    from m2d.cli.console import show_gap, show_heading

    if not quiet:
        show_heading(text, stderr=True)
        show_gap()


def report_film(result: FilmResult, *, began_s: float, quiet: bool, as_json: bool, **more: object) -> None:
    """Show a summary of the film on stderr, and write its path, or JSON with `more` entries, to stdout.

    `began_s` is the time by `time.monotonic` at which the command began.
    """
    from m2d.cli.console import write_json, write_result

    if not quiet:
        show_film(result, spent_s=time.monotonic() - began_s)
    if as_json:
        write_json(film_document(result) | more)
    else:
        write_result(result.film)


def show_film(result: FilmResult, *, spent_s: float) -> None:
    """Show a summary of the film on stderr."""
    from m2d.cli.console import format_seconds, format_size, show_fields, show_gap

    provenance = result.provenance
    video = provenance.video
    size = "{}x{}".format(*video.written_size)
    length = f"{counted(provenance.num_frames, 'frame')}, {provenance.num_frames / video.written_fps:.1f} s"
    rows = [
        ("film", f"{length}, {size}, {format_size(result.size_bytes)}"),
        ("beside it", f"{result.run_folder}/  {', '.join(_beside(result))}"),
        ("joins", _joins(result)),
        ("frames", f"sha256 {result.frames_sha256[:16]}, made in {format_seconds(spent_s)}"),
    ]
    show_gap()
    show_fields([row for row in rows if row[1]], stderr=True)


def film_document(result: FilmResult) -> dict[str, Any]:
    """Return the facts about a new film as JSON values; scenes are counted from 1."""
    provenance = result.provenance
    video = provenance.video
    return {
        **pick(result, "film", "run_folder", "size_bytes", "frames_sha256", "notes"),
        "title": provenance.title,
        "num_scenes": len(provenance.scenes),
        "made_scenes": [scene + 1 for scene in result.made],
        "num_frames": provenance.num_frames,
        "fps": video.written_fps,
        "width": video.written_size[0],
        "height": video.written_size[1],
        "scenes": [
            {"number": number} | pick(scene, "seed", "num_frames", "frames_sha256", "join", "colour_jump")
            for number, scene in enumerate(provenance.scenes, start=1)
        ],
        "timings_s": dict(result.timings_s),
        "warnings": [name_flag_in(warning) for warning in result.warnings],
    }


def _beside(result: FilmResult) -> list[str]:
    """Return the names of the files in the run folder, run.json first."""
    names = sorted(path.name for path in result.run_folder.iterdir())
    return sorted(names, key=lambda name: name != "run.json")


def _joins(result: FilmResult) -> str:
    """Return each transition with its colour jump: `cut 12.1, crossfade 3.4 levels of colour jump`."""
    scenes = [scene for scene in result.provenance.scenes[1:] if scene.colour_jump is not None]
    if len(scenes) > _MOST_JOINS:
        return _joins_at_a_glance(result)
    jumps = [f"{scene.join} {scene.colour_jump:.1f}" for scene in scenes]
    return f"{', '.join(jumps)} levels of colour jump" if jumps else ""


def _joins_at_a_glance(result: FilmResult) -> str:
    """Count the transitions of each kind and add the largest colour jump: `9 cut, 2 crossfade; ...`."""
    scenes = list(enumerate(result.provenance.scenes, start=1))[1:]
    counts = Counter(scene.join for _, scene in scenes)
    jumps = [(scene.colour_jump, number) for number, scene in scenes if scene.colour_jump is not None]
    largest, number = max(jumps)
    counted = ", ".join(f"{count} {join}" for join, count in counts.items())
    return f"{counted}; colours jump by {largest:.1f} levels at most, into scene {number}"

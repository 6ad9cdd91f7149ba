"""One picture of the films that several seeds made of a story, to choose from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from m2d.files import write_bytes
from m2d.video.provenance import Provenance
from m2d.video.read import read_spans
from m2d.video.sheet import SheetScene, sheet_png

_MOST_SCENES = 12


def draw_seed_sheet(
    path: Path,
    films: Mapping[int, tuple[Path, Provenance]],
    *,
    title: str,
    facts: Sequence[str],
    notes: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Draw a row for every seed, with the middle frame of each scene of its film, in the order of `films`.

    Args:
        path: The picture, a PNG file; an existing one is replaced.
        films: Film and record of each seed; at least one.
        facts: Short texts about all of them, for the footer.
        notes: Text after the name of a seed's film.

    Raises:
        FilmError: A film cannot be read.
        OutputError: The disk refused.
    """
    rows = [_row(seed, film, record, notes.get(seed, "")) for seed, (film, record) in films.items()]
    sheet = sheet_png(rows, title=title, facts=facts, count=f"{len(rows)} seeds", most_frames=_MOST_SCENES)
    write_bytes(path, sheet)


def _row(seed: int, film: Path, record: Provenance, note: str) -> SheetScene:
    middles = [
        scene.first_frame + shown // 2
        for scene, shown in zip(record.scenes, record.shown_frames, strict=True)
    ]

    def picked(numbers: Sequence[int]) -> list[np.ndarray]:
        wanted = [middles[number] for number in numbers]
        spans = [range(frame, frame + 1) for frame in wanted]
        return [frames_PHWC[0] for frames_PHWC in read_spans(film, spans, upscale=record.video.upscale)]

    return SheetScene(prompt=f"seed {seed}: {film.name}{note}", num_frames=len(middles), picked=picked)

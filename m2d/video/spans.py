"""Parts of a film, decoded without holding the rest. P frames, H height, W width, C channels."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m2d.video.read import FilmError, film_frames


def read_spans(path: Path, spans: Sequence[range], *, upscale: int) -> list[np.ndarray]:
    """Decode some parts of a film, holding nothing else: uint8 RGB PHWC for every span of frames.

    Args:
        path: The film.
        spans: Frames by their numbers, from 0; they may overlap.
        upscale: Pixels of the film, along a side, for one of the frames'.

    Raises:
        FilmError: Not a film, or not a complete one.
    """
    found: list[list[np.ndarray]] = [[] for _ in spans]
    end = max((span.stop for span in spans), default=0)
    with contextlib.closing(film_frames(path)) as frames:
        for index, frame in enumerate(itertools.islice(frames, end)):
            wanted = [part for part, span in zip(found, spans, strict=True) if index in span]
            if wanted:
                frame_HWC = frame.rgb(upscale=upscale)
                for part in wanted:
                    part.append(frame_HWC)
    if any(len(part) != len(span) for part, span in zip(found, spans, strict=True)):
        raise FilmError(f"{path}: has fewer frames than it tells of; use the original film")
    return [np.stack(part) for part in found]

"""The sound of a film that a run starts from, and where it goes in the new film."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2d.film.loaded_film import LoadedFilm
from m2d.video.provenance import Provenance
from m2d.video.sound import KeptSound, SoundSpan, joined_spans, sound_tracks, tracks_left_out


def sound_of(path: Path, spans_s: Sequence[tuple[float, float]]) -> tuple[KeptSound | None, tuple[str, ...]]:
    """Return the sound of a film, a span for each scene, and notes on what no new film can have.

    Args:
        spans_s: When each scene begins and ends.

    Raises:
        FilmError: As `sound_tracks`.
    """
    tracks = sound_tracks(path)
    others = tracks_left_out(path)
    left_out = (f"left out: {others}",) if others else ()
    notes = tuple(
        f"sound track {number} is left out: its codec {track.codec} cannot be in an MP4"
        for number, track in enumerate(tracks, start=1)
        if not track.is_kept
    )
    if len(notes) == len(tracks):
        return None, notes + left_out
    spans = tuple(SoundSpan(start_s, end_s, start_s) for start_s, end_s in spans_s)
    return KeptSound(path=path, spans=spans), notes + left_out


def placed_sound(film: LoadedFilm | None, provenance: Provenance, *, first_kept: int) -> KeptSound | None:
    """Return the sound of the film that a run started from, each scene's where the new film shows the scene.

    A regenerated scene has the sound of the scene that it replaces, and a scene that is added has none.

    Args:
        provenance: That of the new film.
        first_kept: Number, in the old film, of the new film's first scene.
    """
    if film is None or film.sound is None:
        return None
    frame_s = 1 / provenance.video.written_fps
    old = film.sound.spans[first_kept:]
    spans = [
        span._replace(
            end_s=min(span.end_s, span.start_s + scene.num_frames * frame_s),
            place_s=scene.first_frame * frame_s,
        )
        for span, scene in zip(old, provenance.scenes, strict=False)
    ]
    # Scenes of an external video are moved by up to half a frame.
    joined = joined_spans(spans, tolerance_s=0.51 * frame_s)
    return KeptSound(path=film.sound.path, spans=joined) if joined else None

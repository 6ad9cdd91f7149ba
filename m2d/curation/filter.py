"""Stage `filter`: which shots are kept, trimmed at their cuts; all was measured by stage `shots`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from m2d.curation.settings import FilterSettings
from m2d.curation.shots import Shot
from m2d.curation.stage_file import Outcome, key_of

_VERSION = "filter/1"
_HASH_BITS = 256


def shot_id(shot: Shot) -> str:
    """Return the identity of a shot: its film's content and its span."""
    return key_of(shot.sha256, shot.start_s, shot.end_s)


def shot_name(shot: Shot) -> str:
    """Name a shot for people."""
    return f"{shot.film} {shot.start_s:.3f}-{shot.end_s:.3f} s"


def filter_shots(shots: Sequence[Shot], settings: FilterSettings) -> list[Outcome[Shot]]:
    """Judge shots in their order; of near-duplicates the first is kept."""
    found: list[Outcome[Shot]] = []
    kept: list[tuple[int, ...]] = []
    names: list[str] = []
    for shot in shots:
        trimmed = _trimmed(shot, settings)
        reason = _unsuitable(trimmed, settings)
        if not reason:
            bits = tuple(int(text, 16) for text in trimmed.hashes)
            earlier = _duplicate(bits, kept, settings.max_duplicate)
            if earlier is None:
                kept.append(bits)
                names.append(shot_name(shot))
            else:
                reason = f"is a near-duplicate: of {names[earlier]}"
        key = key_of(_VERSION, asdict(shot), settings.model_dump())
        outputs = () if reason else (trimmed,)
        found.append(Outcome(key=key, place=shot_name(shot), outputs=outputs, reason=reason))
    return found


def _trimmed(shot: Shot, settings: FilterSettings) -> Shot:
    """Remove frames at cuts, where encoders leave traces of the neighbour, and what is too long."""
    trim_s = settings.trim_frames / shot.fps
    start_s = shot.start_s + (0.0 if shot.begins == "range" and shot.start_s == 0 else trim_s)
    end_s = min(shot.end_s - trim_s, start_s + settings.max_s)
    num_frames = max(round((end_s - start_s) * shot.fps), 0)
    return replace(shot, start_s=round(start_s, 6), end_s=round(end_s, 6), num_frames=num_frames)


def _unsuitable(shot: Shot, settings: FilterSettings) -> str:
    """Say why a trimmed shot is rejected; empty if it is kept."""
    length_s = shot.end_s - shot.start_s
    # Times are rounded to microseconds.
    rules = (
        (length_s < settings.min_s - 1e-5, f"is too short: {length_s:.2f} s of {settings.min_s:g} s"),
        (shot.brightness < settings.min_brightness, f"is black: mean level {shot.brightness:.1f}"),
        (shot.motion < settings.min_motion, f"is still: changes by {shot.motion:.2f} levels a frame"),
        (shot.border > settings.max_border, f"has a border: of {shot.border:.0%} of its side"),
        (shot.sharpness < settings.min_sharpness, f"is blurred: sharpness {shot.sharpness:.1f}"),
    )
    return next((reason for is_broken, reason in rules if is_broken), "")


def _duplicate(bits: tuple[int, ...], kept: Sequence[tuple[int, ...]], largest: float) -> int | None:
    """Return the place of an earlier shot that looks the same at its start, middle and end."""
    most = int(largest * _HASH_BITS * len(bits))
    if not largest:
        return None
    for place, other in enumerate(kept):
        if sum((one ^ two).bit_count() for one, two in zip(bits, other, strict=True)) <= most:
            return place
    return None

"""Captions that lie beside a film: `NAME.captions.json` with spans, or `NAME.txt` for all of it."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from m2d.curation.shots import Shot
from m2d.data.json_text import read_json_text
from m2d.errors import DatasetError
from m2d.reading import read_text
from m2d.recipe.places import forbidden_character, name_character

SPANS, WHOLE = ".captions.json", ".txt"
_MOST_BYTES = 64 << 20
# A caption belongs to a shot if it covers so much of it.
_LEAST_COVER = 0.5


class CaptionedSpan(BaseModel):
    """One caption, from `start_s` up to `end_s` of the film."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    start_s: float
    end_s: float
    caption: str


_SPANS = TypeAdapter(list[CaptionedSpan])


def read_sidecar(film: Path) -> list[CaptionedSpan]:
    """Return the captions beside a film; none if there is no such file.

    Raises:
        DatasetError: The file cannot be read, or has another form.
    """
    for ending in (SPANS, WHOLE):
        path = film.with_suffix(ending)
        if not path.is_file():
            continue
        try:
            text = read_text(path, limit_bytes=_MOST_BYTES, encoding="utf-8-sig")
            whole = CaptionedSpan(start_s=0.0, end_s=float("inf"), caption=" ".join(text.split()))
            spans = [whole] if ending == WHOLE else _SPANS.validate_python(_read_json(text, path))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise DatasetError(
                f"{path}: {place}: {first['msg']}; it is a list of start_s, end_s, caption"
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}: cannot be read: {error}") from error
        for number, span in enumerate(spans):
            found = forbidden_character(span.caption)
            if found is not None:
                place = f"{path}: " if ending == WHOLE else f"{path}: {number}."
                raise DatasetError(f"{place}caption: forbidden character {name_character(found)}; remove it")
        return spans
    return []


def _read_json(text: str, path: Path) -> object:
    try:
        return read_json_text(text)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{path}:{error.lineno}: not valid JSON: {error.msg.lower()}") from error
    except ValueError as error:
        raise DatasetError(f"{path}: {error}") from error


def caption_of(shot: Shot, spans: list[CaptionedSpan]) -> str:
    """Return the caption that covers most of a shot; empty if none covers half of it."""

    def cover(span: CaptionedSpan) -> float:
        shared_s = min(span.end_s, shot.end_s) - max(span.start_s, shot.start_s)
        return shared_s / (shot.end_s - shot.start_s)

    best = max(spans, key=cover, default=None)
    return best.caption if best is not None and cover(best) >= _LEAST_COVER else ""

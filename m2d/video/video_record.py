"""The part of a film's record about its picture: size, rate and encoding."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from m2d.enlarging import UpscaleFilter
from m2d.fit import FilmFit
from m2d.limits import FASTEST_FPS, LARGEST_SIDE

MOST = 2**31 - 1
"""More than any film counts; what is computed from such numbers stays finite."""
Count = Annotated[int, Field(ge=1, le=MOST)]


class Record(BaseModel):
    """A part of a record, closed and unchangeable."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FilmRecord(Record):
    """Picture and rate of a film where the model has others; fractions are numerator and denominator."""

    width: Annotated[int, Field(ge=2, le=LARGEST_SIDE)]
    height: Annotated[int, Field(ge=2, le=LARGEST_SIDE)]
    fps: tuple[Count, Count]
    pixel_aspect: tuple[Count, Count] = (1, 1)


class VideoRecord(Record):
    """The film's size as the model made it, the factor by which it is enlarged, and its encoding.

    Attributes:
        upscale_filter: Left out of the record when it is `nearest`, as by versions that had no other.
        encoding: Identity of encoder and settings; empty when not recorded.
        film: Picture and rate of the film where they are an external video's own; `width`, `height` and `fps`
            are then the model's. Left out of the record of any other film.
    """

    width: Count
    height: Count
    upscale: Count
    upscale_filter: Annotated[UpscaleFilter, Field(exclude_if=lambda value: value == "nearest")] = "nearest"
    fps: Annotated[float, Field(ge=1, le=FASTEST_FPS)]
    encoding: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    film: Annotated[FilmRecord | None, Field(exclude_if=lambda value: value is None)] = None

    @property
    def fit(self) -> FilmFit | None:
        """How the model's scenes fit the film; None where they are only enlarged."""
        if self.film is None:
            return None
        return FilmFit(
            width=self.film.width,
            height=self.film.height,
            pixel_aspect=Fraction(*self.film.pixel_aspect),
            fps=Fraction(*self.film.fps),
            model_fps=round(self.fps),
        )

    @property
    def written_size(self) -> tuple[int, int]:
        """Width and height of the film in pixels."""
        if self.film is not None:
            return self.film.width, self.film.height
        return self.width * self.upscale, self.height * self.upscale

    @property
    def written_fps(self) -> float:
        """Frames of the film per second."""
        return self.fps if self.film is None else self.film.fps[0] / self.film.fps[1]

"""Small pictures of a range of a film, four a second, in one file: later stages look at these alone.

Owns the file: an uncompressed ZIP of JPEG pictures named by their time. H height, W width, C channels.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from m2d import disk
from m2d.errors import DatasetError
from m2d.files import publish
from m2d.folders import make_folder
from m2d.reading import open_regular

STEP_S = 0.25
SHORT_SIDE = 256
_QUALITY = 90
FOLDER = "stills"
# The same bytes whenever they are written.
_DATE = (1980, 1, 1, 0, 0, 0)


def stills_path(data_set: Path, key: str) -> Path:
    """Return the file of the range with this key."""
    return data_set / FOLDER / key[:2] / f"{key}.zip"


class StillsWriter:
    """Receives frames of a range and keeps the first of each step."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        """Write into `archive`."""
        self._archive, self._next_s = archive, 0.0

    def wants(self, time_s: float) -> bool:
        """Whether the frame shown at `time_s`, from the film's first frame, is kept."""
        return time_s >= self._next_s

    def add(self, time_s: float, picture_HWC: np.ndarray) -> None:
        """Keep a picture, uint8 RGB."""
        self._next_s = (int(time_s / STEP_S + 1e-6) + 1) * STEP_S
        file = io.BytesIO()
        Image.fromarray(picture_HWC).save(file, "JPEG", quality=_QUALITY, subsampling=0)
        info = zipfile.ZipInfo(f"{round(time_s * 1000):09d}.jpg", _DATE)
        self._archive.writestr(info, file.getvalue())


@contextmanager
def written_stills(path: Path) -> Iterator[StillsWriter]:
    """Write the file when the block succeeds.

    Raises:
        OutputError: The disk refused.
    """
    make_folder(path.parent)
    with publish(path, force=True) as part, disk.output_errors(path), zipfile.ZipFile(part, "w") as archive:
        yield StillsWriter(archive)


class Stills:
    """The pictures of one range."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            DatasetError: It is missing or corrupt.
        """
        try:
            self._archive = zipfile.ZipFile(open_regular(path, limit_bytes=None))
            self._names = {int(name.removesuffix(".jpg")) / 1000: name for name in self._archive.namelist()}
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{path}: the stills of a film are missing or corrupt ({error})") from error
        self._path = path

    def times_s(self, start_s: float, end_s: float) -> list[float]:
        """Return the times of the pictures in a span, ascending; the nearest one if none is in it."""
        inside = [time_s for time_s in self._names if start_s - 5e-4 <= time_s < end_s]
        return inside or [min(self._names, key=lambda time_s: abs(time_s - start_s))]

    def around(self, start_s: float, end_s: float) -> tuple[float, float]:
        """Return the times of the last picture up to `start_s` and of the first one from `end_s` on."""
        before = max((each for each in self._names if each <= start_s + 5e-4), default=min(self._names))
        return before, min((each for each in self._names if each >= end_s - 5e-4), default=max(self._names))

    def jpeg(self, time_s: float) -> bytes:
        """Return one picture as a JPEG file."""
        try:
            return self._archive.read(self._names[time_s])
        except (OSError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self._path}: the stills of a film are corrupt ({error})") from error

    def picture(self, time_s: float) -> np.ndarray:
        """Return one picture, uint8 RGB HWC."""
        return np.asarray(Image.open(io.BytesIO(self.jpeg(time_s))).convert("RGB"))

    def close(self) -> None:
        """Close the file."""
        self._archive.close()


@contextmanager
def opened_stills(path: Path) -> Iterator[Stills]:
    """Open the pictures of a range. Raises: as `Stills`."""
    stills = Stills(path)
    try:
        yield stills
    finally:
        stills.close()

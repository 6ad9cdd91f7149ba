"""Pictures for a page: a scene's frames as a grid, and a film as a stripe with a column per frame.

Owns sizes, formats and data URIs; equal arguments give equal bytes. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

LONGEST_SIDE = 432
MOST_FRAMES = 64
STRIPE_HEIGHT = 64
WIDEST_STRIPE = 1200
# Small pictures are enlarged on the page, where artefacts would show; larger ones would need too many bytes.
LARGEST_LOSSLESS_BYTES = 64 << 10
MOST_LOSSLESS_PIXELS = 1 << 18
QUALITY = 82


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameGrid:
    """A scene's frames in one picture, row by row; width and height are those of one frame, in pixels.

    Attributes:
        num_frames: Frames in the picture; a selection of a long scene.
        fps: Frames per second at which they last as long as the scene.
    """

    uri: str
    width: int
    height: int
    columns: int
    num_frames: int
    fps: float

    @property
    def rows(self) -> int:
        """Number of rows; the last may be incomplete."""
        return -(-self.num_frames // self.columns)

    @property
    def poster(self) -> int:
        """The frame to show when the clip does not play: the middle one."""
        return self.num_frames // 2


def data_uri(data: bytes, *, kind: str) -> str:
    """Encode `data` as a data URI of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


class GridPainter:
    """Paints a `FrameGrid` from a scene's frames, one by one, without keeping them."""

    def __init__(self, num_frames: int, *, fps: float) -> None:
        chosen = _spread(num_frames, MOST_FRAMES)
        self._places = {index: place for place, index in enumerate(chosen)}
        self._columns = math.ceil(math.sqrt(len(chosen)))
        self._fps = round(fps * len(chosen) / num_frames, 3)
        self._size = (0, 0)
        self._grid: Image.Image | None = None

    def wants(self, index: int) -> bool:
        """Whether frame `index` of the scene, from 0, is in the grid."""
        return index in self._places

    def add(self, index: int, frame_HWC: np.ndarray) -> None:
        """Paint a wanted frame, uint8 RGB; all have one size."""
        if self._grid is None:
            height, width = _fitted(*frame_HWC.shape[:2])
            self._size = (width, height)
            rows = -(-len(self._places) // self._columns)
            self._grid = Image.new("RGB", (self._columns * width, rows * height))
        frame = Image.fromarray(frame_HWC)
        if frame.size != self._size:
            frame = frame.resize(self._size, Image.Resampling.LANCZOS)
        row, column = divmod(self._places[index], self._columns)
        self._grid.paste(frame, (column * self._size[0], row * self._size[1]))

    def finish(self) -> FrameGrid:
        """Return the grid of all added frames."""
        assert self._grid is not None, "no frame was added"
        width, height = self._size
        return FrameGrid(
            uri=data_uri(_webp(self._grid), kind="image/webp"),
            width=width,
            height=height,
            columns=self._columns,
            num_frames=len(self._places),
            fps=self._fps,
        )


class StripePainter:
    """Paints a film as one line: every frame averaged to a column, the first at the left.

    An object that does not move becomes a horizontal line, a colour jump a vertical edge.
    """

    def __init__(self, num_frames: int) -> None:
        self._chosen = frozenset(_spread(num_frames, WIDEST_STRIPE))
        self._columns: list[np.ndarray] = []

    def wants(self, index: int) -> bool:
        """Whether frame `index` of the film, from 0, is in the stripe."""
        return index in self._chosen

    def add(self, frame_HWC: np.ndarray) -> None:
        """Add the next wanted frame, uint8 RGB."""
        self._columns.append(frame_HWC.mean(axis=1))

    def finish(self) -> str:
        """Return a data URI of a picture with a column per frame, at most `WIDEST_STRIPE`."""
        columns_WHC = np.stack(self._columns)
        picture = Image.fromarray(np.rint(columns_WHC.transpose(1, 0, 2)).astype(np.uint8))
        shape = (len(self._columns), min(picture.height, STRIPE_HEIGHT))
        return data_uri(_webp(picture.resize(shape, Image.Resampling.BOX)), kind="image/webp")


def _spread(count: int, most: int) -> list[int]:
    """Choose at most `most` of `count` indices, evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(place * (count - 1) / (most - 1)) for place in range(most)]


def _fitted(height: int, width: int) -> tuple[int, int]:
    share = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


def _webp(picture: Image.Image) -> bytes:
    if picture.width * picture.height <= MOST_LOSSLESS_PIXELS:
        data = _saved(picture, lossless=True)
        if len(data) <= LARGEST_LOSSLESS_BYTES:
            return data
    return _saved(picture, lossless=False)


def _saved(picture: Image.Image, *, lossless: bool) -> bytes:
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=lossless, quality=75 if lossless else QUALITY, method=4)
    return file.getvalue()

"""Pixels for a page: a scene's frames in one picture, and a whole film as a stripe of its frames.

Owns sizes, formats and data URIs; equal arguments give equal bytes. P frames, H height, W width, C channels.
"""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

LONGEST_SIDE = 320
MOST_FRAMES = 64
STRIPE_HEIGHT = 64
WIDEST_STRIPE = 1200
# Small pictures are enlarged on the page, where every artefact would show; larger ones would weigh too much.
LARGEST_LOSSLESS_BYTES = 64 << 10
MOST_LOSSLESS_PIXELS = 1 << 18
QUALITY = 82


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameGrid:
    """A scene's frames in one picture, row by row.

    Attributes:
        uri: The picture.
        width: Of one frame, in pixels.
        height: Of one frame, in pixels.
        columns: Frames in a row.
        num_frames: Frames in the picture; of a long scene not all.
        fps: At what rate they have to follow each other to last as long as the scene.
    """

    uri: str
    width: int
    height: int
    columns: int
    num_frames: int
    fps: float

    @property
    def rows(self) -> int:
        """Rows of frames; the last may be incomplete."""
        return -(-self.num_frames // self.columns)

    @property
    def poster(self) -> int:
        """The frame to show when nothing moves: the middle one tells more than the first."""
        return self.num_frames // 2


def data_uri(data: bytes, *, kind: str) -> str:
    """`data` as an address that holds it, of the given media type."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def frame_grid(frames_PHWC: np.ndarray, *, fps: float) -> FrameGrid:
    """Put a scene's frames into one picture.

    Args:
        frames_PHWC: uint8 RGB, at least one.
        fps: Frames per second of the film.
    """
    chosen = _spread(len(frames_PHWC), MOST_FRAMES)
    height, width = _fitted(*frames_PHWC.shape[1:3])
    columns = math.ceil(math.sqrt(len(chosen)))
    rows = -(-len(chosen) // columns)
    grid = Image.new("RGB", (columns * width, rows * height))
    for place, index in enumerate(chosen):
        frame = Image.fromarray(frames_PHWC[index])
        if frame.size != (width, height):
            frame = frame.resize((width, height), Image.Resampling.LANCZOS)
        grid.paste(frame, (place % columns * width, place // columns * height))
    return FrameGrid(
        uri=data_uri(_webp(grid), kind="image/webp"),
        width=width,
        height=height,
        columns=columns,
        num_frames=len(chosen),
        fps=round(fps * len(chosen) / len(frames_PHWC), 3),
    )


def stripe(frames_PHWC: np.ndarray) -> str:
    """A whole film in one line: every frame squeezed into a column, the first at the left.

    What stays where it is from frame to frame becomes a horizontal line; a colour that jumps, an edge.

    Args:
        frames_PHWC: uint8 RGB, at least one.

    Returns:
        A data URI of a picture as wide as the film has frames, at most `WIDEST_STRIPE`.
    """
    chosen = _spread(len(frames_PHWC), WIDEST_STRIPE)
    columns_WHC = np.stack([frames_PHWC[index].mean(axis=1) for index in chosen])
    picture = Image.fromarray(np.rint(columns_WHC.transpose(1, 0, 2)).astype(np.uint8))
    shape = (len(chosen), min(picture.height, STRIPE_HEIGHT))
    return data_uri(_webp(picture.resize(shape, Image.Resampling.BOX)), kind="image/webp")


def _spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` indices, evenly, the first and the last among them."""
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

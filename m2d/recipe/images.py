"""The pictures that scenes of a recipe start from: found, checked and identified before anything runs.

Owns which file a field means, whether it can be read, and its colours; fits no picture to a frame. Imports no
torch.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from m2d.errors import Problem, RecipeError
from m2d.folders import with_home
from m2d.limits import LARGEST_SIDE
from m2d.reading import read_bytes
from m2d.recipe.places import KeyPath, Places, show
from m2d.recipe.schema import Recipe, Scene

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

_FORMATS = ("PNG", "JPEG", "WEBP")
# Pillow's names of 32-bit values.
_UNKNOWN_RANGES = ("I", "F")
# White in 16 bits over white in 8.
_WIDER = 257
LARGEST_BYTES = 100_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneImage:
    """A picture in a file."""

    path: Path
    sha256: str


def find_images(recipe: Recipe, places: Places) -> tuple[Recipe, tuple[SceneImage | None, ...]]:
    """Find the picture of every scene; a scene that continues the one before it does not take the story's.

    Args:
        places: The recipe's file; a path is relative to its folder, or to the working folder if the field was
            given for this run.

    Returns:
        The recipe as a film records it, with file names and digests instead of paths, and the pictures.

    Raises:
        RecipeError: Every picture that is missing, cannot be read or is another one than the recorded.
    """
    problems: list[Problem] = []
    scenes: list[Scene] = []
    images: list[SceneImage | None] = []
    for index, scene in enumerate(recipe.scenes):
        key_path: KeyPath = ("image",) if scene.image is None else ("scenes", index, "image")
        name = scene.image or (None if scene.join == "continue" else recipe.image)
        found: SceneImage | None = None
        if name is not None:
            folder = Path() if places.is_replaced(key_path) else Path(places.path).parent
            try:
                found = _read(folder / with_home(name), scene.image_sha256)
            except (OSError, ValueError, SyntaxError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                problems.append(places.problem(key_path, f"{show(name)}: {reason}"))
            else:
                scene = scene.model_copy(update={"image": found.path.name, "image_sha256": found.sha256})
        scenes.append(scene)
        images.append(found)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)))
    return recipe.model_copy(update={"scenes": tuple(scenes), "image": None}), tuple(images)


def open_image(data: bytes, name: str) -> Image.Image:
    """Open a picture of an allowed format as Pillow does: its header alone.

    Raises:
        ValueError: It is no such picture, is too large, or has values of unknown range.
    """
    from PIL import Image, UnidentifiedImageError

    kinds = ", ".join(_FORMATS)
    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            picture = Image.open(io.BytesIO(data), formats=_FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is no picture that m2d reads ({kinds})") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name} is no picture that m2d reads ({kinds}): {error}") from error
    if max(picture.size) > LARGEST_SIDE:
        size = f"{picture.width}x{picture.height}"
        raise ValueError(
            f"{name} has {size} pixels; at most {LARGEST_SIDE} a side are allowed, scale it down"
        )
    if picture.mode in _UNKNOWN_RANGES:
        raise ValueError(
            f"{name} has values of unknown range (mode {picture.mode}); save it with 8 or 16 bits for each"
        )
    return picture


def rgb_of(picture: Image.Image) -> np.ndarray:
    """Return an opened picture, upright and on white, as uint8 RGB (H, W, 3); 16 bits are scaled to 8."""
    import numpy as np
    from PIL import Image, ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16"):
        # Pillow would make every value above 255 white.
        values_HW = np.asarray(upright).astype(np.uint32)
        upright = Image.fromarray(((values_HW + _WIDER // 2) // _WIDER).astype(np.uint8))
    if upright.has_transparency_data:
        page = Image.new("RGBA", upright.size, "white")
        upright = Image.alpha_composite(page, upright.convert("RGBA"))
    return np.asarray(upright.convert("RGB"))


def _read(path: Path, expected: str | None) -> SceneImage:
    data = read_bytes(path, limit_bytes=LARGEST_BYTES)
    # Decoded whole: a picture that is cut off has a header like any other.
    with open_image(data, path.name) as picture:
        picture.load()
    found = hashlib.sha256(data).hexdigest()
    if expected not in (None, found):
        raise ValueError(f"another picture than the recorded one, whose SHA-256 begins with {expected[:12]}")
    return SceneImage(path=path, sha256=found)

"""How large a film may be: one rule for recipes, plans, external videos and the written film.

A side and a rate are bounded by what H.264 players take. A length has no bound of its own: what is made must
fit the disk and the memory (`m2d.film.limits`), and what is read must have bytes for what it announces.
"""

from __future__ import annotations

LARGEST_SIDE = 8192
# H.264 has no level with larger pictures: 139,264 macroblocks, such as 8192 x 4352 pixels.
LARGEST_PICTURE_PIXELS = 139_264 * 256
# Animations of pages are much smaller, and decoders hold several of their pictures without compression.
LARGEST_ANIMATED_PIXELS = 1 << 24
# A minute at the rate of the fastest GIF.
MOST_ANIMATED_FRAMES = 3000
FASTEST_FPS = 240
# Height over width on sheets and pages: a picture of a few columns would fill the memory at the usual width.
TALLEST_SMALL_PICTURE = 4
MOST_THREADS = 1024
MOST_SCENES = 10_000
LARGEST_SEED = 2**63 - 1
# A film's record is read into memory as text; ten thousand scenes need about this much.
LONGEST_RECORD_BYTES = 16 << 20
# The smallest packet with its entry in a container takes more than either: a still picture that is shown for
# hours is repeated every few seconds.
_FEWEST_BYTES_PER_FRAME = 1
_FEWEST_BYTES_PER_SECOND = 1
# A still 4K screen takes a byte of H.264 for 100,000 pixels; animations are rarely that still.
_MOST_PIXELS_PER_BYTE = 1 << 17
_MOST_PIXELS_PER_BYTE_OF_ANIMATION = 1 << 9
# Seconds of work, however small the file.
_SPARE_PIXELS = 1 << 29
_SPARE_PIXELS_OF_ANIMATION = 1 << 26


def picture_problem(width: int, height: int, *, is_animation: bool = False) -> str:
    """Return why pictures of a video may not have this size; empty if they may.

    Args:
        is_animation: Whether it is a GIF or a WebP.
    """
    if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
        return f"{width}x{height} pixels; at most {LARGEST_SIDE} a side are allowed"
    most = LARGEST_ANIMATED_PIXELS if is_animation else LARGEST_PICTURE_PIXELS
    if width * height > most:
        kind = "an animation" if is_animation else "a picture"
        return f"{width}x{height} pixels; at most {most:,} are allowed in {kind}"
    return ""


def most_pixels(size_bytes: int, *, is_animation: bool) -> int:
    """Return how many pixels all frames of a video file may have together.

    Args:
        size_bytes: Of the whole file.
        is_animation: Whether it is a GIF or a WebP, in which a few bytes announce a frame of any size.
    """
    if is_animation:
        return _SPARE_PIXELS_OF_ANIMATION + size_bytes * _MOST_PIXELS_PER_BYTE_OF_ANIMATION
    return _SPARE_PIXELS + size_bytes * _MOST_PIXELS_PER_BYTE


def animation_problem(*, size_bytes: int, num_frames: int, width: int, height: int) -> str:
    """Return why a GIF or a WebP is not decoded; empty if it is.

    Args:
        size_bytes: Of the whole file.
        num_frames: Counted in the file before anything is decoded.
    """
    if num_frames > MOST_ANIMATED_FRAMES:
        return f"has more than {MOST_ANIMATED_FRAMES:,} frames, too many for an animation"
    if num_frames * width * height > most_pixels(size_bytes, is_animation=True):
        size = f"{num_frames:,} frames of {width}x{height} pixels"
        return f"has {size_bytes:,} bytes for {size}, too few for an animation"
    return ""


def announced_problem(*, size_bytes: int, num_frames: int, duration_s: float) -> str:
    """Return why a video file cannot hold what it announces; empty if it can.

    Args:
        size_bytes: Of the whole file.
        num_frames: From an index, or 0.
        duration_s: From a header or from timestamps, or 0.
    """
    if num_frames * _FEWEST_BYTES_PER_FRAME > size_bytes:
        return f"announces {num_frames:,} frames in {size_bytes:,} bytes"
    if duration_s * _FEWEST_BYTES_PER_SECOND > size_bytes:
        return f"announces {duration_s / 3600:,.1f} hours in {size_bytes:,} bytes"
    return ""

"""Transitions between scenes: which frames of each are shown, crossfades, and matching of colours.

Owns the arithmetic on frames; the recipe chooses the transition (`m2d.joins`). P frames, H height, W width, C
channels.
"""

from __future__ import annotations

import itertools

import numpy as np

from m2d.joins import CUT, Join

LEVELS = 256
# A larger gain turns steps of one 8-bit level into steps of two, visible as bands on an even sky; and a
# picture that differs that much in contrast shows something else.
LEAST_GAIN, MOST_GAIN = 2 / 3, 3 / 2
# About a fifth of the range: drift and tints stay below it. Day after night exceeds it and keeps the rest of
# its difference.
MOST_SHIFT = 48.0
# Without the darkest and the brightest hundredth: noise, glints and clipped levels.
_QUANTILES = np.linspace(0.01, 0.99, 99)
# An actor who enters or turns changes a part of the picture; the line is fitted to the larger rest.
_KEPT_QUANTILES = 0.75
# Two frames show the same place when half of their pixels lie within four levels (coding noise) of a line.
_SAME_SHARE, _SAME_LEVELS = 0.5, 4.0
MOST_CONTINUED_JUMP = 16.0
"""Largest colour jump, in levels, of a scene that continues a frame: see `benchmarks.continued`."""
# Contrast cannot be measured on an area more even than this.
_LEAST_SPREAD = 1.5
# Fits settle after three to five.
_FITS = 8


def shown_frames(
    frames_PHWC: np.ndarray, *, before_PHWC: np.ndarray | None, opening: int, closing: int
) -> np.ndarray:
    """The frames that the film shows of one scene; those of all scenes in a row are the film.

    A crossfade of k frames between A and B replaces the last k frames of A and the first k of B by k blended
    frames, which count as B's: A shows all but its last k. In the i-th blended frame, i = 1..k, B has the
    weight i/(k+1), so none of them repeats a frame of A or of B. The film is k frames shorter.

    The stored (sRGB) levels are blended, not light: equal steps of level look equal to the eye, whereas a
    blend of light jumps to the brighter scene in its first frames. The sum is exact in integers and rounded
    to the nearest level, halves upwards: `(A * (k+1-i) + B * i + (k+1)//2) // (k+1)`.

    Args:
        frames_PHWC: The scene, uint8.
        before_PHWC: The scene before it; needed when there is something to blend.
        opening: Frames it shares with the scene before it.
        closing: Frames it shares with the scene after it, which shows them.

    Returns:
        uint8 PHWC; a view of the scene when nothing is blended.

    Raises:
        ValueError: There is nothing to blend with.
    """
    rest_PHWC = frames_PHWC[opening : len(frames_PHWC) - closing]
    if not opening:
        return rest_PHWC
    if before_PHWC is None:
        raise ValueError(f"a crossfade of {opening} frames needs the scene before it")
    blend_PHWC = _blended(before_PHWC[-opening:], frames_PHWC[:opening])
    return np.concatenate([blend_PHWC, rest_PHWC])


def colour_jump(before_PHWC: np.ndarray, after_PHWC: np.ndarray, join: Join = CUT) -> float:
    """Measure how far the overall colour jumps between two scenes, as the film shows them.

    The measure is the distance of two successive frames' histograms: the number of levels by which a pixel
    must change, on average over pixels and channels, to turn one frame's colours into the other's (the
    Wasserstein distance per channel). A frame that is 5 levels brighter everywhere has distance 5. The
    position of a colour does not count, so movement alone gives 0; an object that enters or leaves counts by
    its area. A cut to another place gives a large value, whether intended or not.

    For a crossfade, the result is the largest jump between successive frames from the last unblended frame of
    the earlier scene to the first unblended frame of the later one. A scene that continues begins with the
    frame before it, so its second frame counts, too.

    Returns:
        Levels, 0 (the same colours) to 255 (black to white).
    """
    overlap = join.num_frames
    frames = [before_PHWC[-overlap - 1], after_PHWC[overlap]]
    if overlap:
        frames[1:1] = _blended(before_PHWC[-overlap:], after_PHWC[:overlap])
    if join.kind == "continue":
        frames += list(after_PHWC[1:2])
    return max(float(np.mean(_distances(*pair))) for pair in itertools.pairwise(frames))


def colour_map(scene_PHWC: np.ndarray, reference_PHWC: np.ndarray) -> np.ndarray:
    """Find the colour correction of a scene towards the scene before it, ignoring movement.

    The correction is one straight line per channel (gain and shift), fitted to the two boundary frames and
    applied to every frame. It is fitted pixel by pixel when most of the picture shows the same place, so that
    an actor who enters does not count as colour; otherwise to the frames' quantiles without the quarter that
    fits worst. Gain and shift stay within `LEAST_GAIN`, `MOST_GAIN` and `MOST_SHIFT`. A channel that the line
    would not bring closer (by the measure of `colour_jump`) is unchanged, so the jump never grows.

    Args:
        scene_PHWC: The later scene, uint8.
        reference_PHWC: The scene before it as it is shown, uint8; only its last frame is used.

    Returns:
        uint8 (256, 3): each channel's new level for every level, for `recolour`.
    """
    first_HWC, last_HWC = scene_PHWC[0], reference_PHWC[-1]
    lines_LC = np.stack([_line(first_HWC[..., c], last_HWC[..., c]) for c in range(3)], axis=-1)
    matched_HWC = _through(lines_LC, first_HWC)
    is_closer_C = _distances(matched_HWC, last_HWC) < _distances(first_HWC, last_HWC)
    unchanged_LC = np.repeat(np.arange(LEVELS, dtype=np.uint8)[:, None], 3, axis=1)
    return np.where(is_closer_C, lines_LC, unchanged_LC)


def recolour(frames_PHWC: np.ndarray, map_LC: np.ndarray) -> np.ndarray:
    """Apply a `colour_map` to every pixel: uint8 PHWC, a new array."""
    return _through(map_LC, frames_PHWC)


def blended(before_HWC: np.ndarray, after_HWC: np.ndarray, *, weight: int, parts: int) -> np.ndarray:
    """Blend two frames, the later one with `weight` of `parts`; see `shown_frames`."""
    sum_HWC = before_HWC * np.int32(parts - weight) + after_HWC * np.int32(weight)
    return np.asarray((sum_HWC + parts // 2) // parts, dtype=np.uint8)


def _blended(before_PHWC: np.ndarray, after_PHWC: np.ndarray) -> np.ndarray:
    parts = len(after_PHWC) + 1
    pairs = enumerate(zip(before_PHWC, after_PHWC, strict=True), start=1)
    return np.stack([blended(*pair, weight=weight, parts=parts) for weight, pair in pairs])


def _distances(before_HWC: np.ndarray, after_HWC: np.ndarray) -> np.ndarray:
    """Compute the Wasserstein distance of each channel's histogram, (3,)."""
    gaps = [_cumulative(before_HWC[..., c]) - _cumulative(after_HWC[..., c]) for c in range(3)]
    return np.asarray(np.abs(gaps).sum(axis=1))


def _cumulative(levels_HW: np.ndarray) -> np.ndarray:
    return np.cumsum(np.bincount(levels_HW.ravel(), minlength=LEVELS)) / levels_HW.size


def _line(levels_HW: np.ndarray, wanted_HW: np.ndarray) -> np.ndarray:
    """Map each of the 256 levels, uint8 (256,), so that `levels_HW` looks like `wanted_HW`."""
    found, wanted = levels_HW.ravel().astype(np.float64), wanted_HW.ravel().astype(np.float64)
    found_Q, wanted_Q = np.quantile(found, _QUANTILES), np.quantile(wanted, _QUANTILES)
    unmoved = np.poly1d([1.0, np.median(wanted_Q - found_Q)])
    by_quantiles = _fit(unmoved, found_Q, wanted_Q, kept_share=_KEPT_QUANTILES)
    by_pixels = _fit(by_quantiles, found, wanted, kept_share=_SAME_SHARE)
    is_same_place = np.mean(np.abs(wanted - by_pixels(found)) <= _SAME_LEVELS) >= _SAME_SHARE
    line = by_pixels if is_same_place else by_quantiles
    return np.asarray(np.clip(np.rint(line(np.arange(LEVELS))), 0, LEVELS - 1), dtype=np.uint8)


def _fit(line: np.poly1d, found: np.ndarray, wanted: np.ndarray, *, kept_share: float) -> np.poly1d:
    """Fit the line from `found` to `wanted` to the `kept_share` that fits best, starting from `line`.

    Concentration steps: Rousseeuw, Van Driessen, "Computing LTS Regression for Large Data Sets", 2006.
    """
    last_kept = round(kept_share * (len(found) - 1))
    for _ in range(_FITS):
        errors = np.abs(wanted - line(found))
        is_kept = errors <= max(np.partition(errors, last_kept)[last_kept], _SAME_LEVELS)
        line = _limited_line(found[is_kept], wanted[is_kept])
    return line


def _limited_line(found: np.ndarray, wanted: np.ndarray) -> np.poly1d:
    # The ratio of spreads; noise in both would flatten a regression.
    spreads = float(found.std()), float(wanted.std())
    gain = spreads[1] / spreads[0] if min(spreads) >= _LEAST_SPREAD else 1.0
    gain = min(max(gain, LEAST_GAIN), MOST_GAIN)
    shift = min(max(float(wanted.mean() - found.mean()), -MOST_SHIFT), MOST_SHIFT)
    return np.poly1d([gain, found.mean() + shift - gain * found.mean()])


def _through(lines_LC: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Map each channel of `frames` (PHWC or HWC) by its column of `lines_LC`."""
    return np.stack([lines_LC[frames[..., c], c] for c in range(3)], axis=-1)

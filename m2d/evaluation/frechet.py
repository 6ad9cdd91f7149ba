"""Distances between two sets of clip features: Frechet distance, unbiased kernel distance, and their floor.

Knows nothing about which network made the features; a distance is named for them by the report.
Shapes: N clips of one set, M of the other, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from m2d.errors import InputError
from m2d.evaluation.intervals import Figure
from m2d.video.printable import counted

Features = npt.NDArray[np.float64]

FEWEST_CLIPS = 10
_NUM_SPLITS = 64
_SEED = 2503
_LOW, _HIGH = 0.025, 0.975


@dataclass(frozen=True, kw_only=True, slots=True)
class SetDistance:
    """How far a set of clips is from a reference, and what the reference's own halves have.

    Attributes:
        frechet: Frechet distance of the two sets.
        frechet_floor: Frechet distance of two random halves of the reference: mean and 95 % range of splits.
        kernel: Unbiased kernel distance; about 0, and maybe negative, for sets of one distribution.
        kernel_floor: Likewise of two random halves.
        num_clips: Clips of each set; the halves have half of them, so their Frechet distance is larger than
            that of whole sets of one distribution.
    """

    frechet: float
    frechet_floor: Figure
    kernel: float
    kernel_floor: Figure
    num_clips: int


def set_distance(features_ND: Features, reference_MD: Features) -> SetDistance:
    """Compare two sets of equal size.

    Raises: as `check_sizes`.
    """
    check_sizes(len(features_ND), len(reference_MD))
    frechet_K, kernel_K = self_distances(reference_MD)
    return SetDistance(
        frechet=frechet_distance(features_ND, reference_MD),
        frechet_floor=_range_of(frechet_K),
        kernel=kernel_distance(features_ND, reference_MD),
        kernel_floor=_range_of(kernel_K),
        num_clips=len(features_ND),
    )


def check_sizes(num_clips: int, num_reference: int) -> None:
    """Check that two sets can be compared.

    Raises:
        InputError: Fewer than `FEWEST_CLIPS` clips, or sets of unequal size: both change the distance itself.
    """
    sizes = f"the set has {counted(num_clips, 'clip')}, its reference {num_reference}"
    if min(num_clips, num_reference) < FEWEST_CLIPS:
        raise InputError(f"{sizes}; a Frechet distance needs at least {FEWEST_CLIPS} of each")
    if num_clips != num_reference:
        raise InputError(
            f"{sizes}; the number of clips changes a Frechet distance, so both must have the same"
        )


def frechet_distance(first_ND: Features, second_MD: Features) -> float:
    """Return the squared Frechet distance of two Gaussians with the sets' means and covariances.

    tr sqrt(A B) is the sum of the singular values of X Y^T for A = X^T X, B = Y^T Y: no matrix root is taken,
    so sets with fewer clips than features are as exact as larger ones.

    Raises:
        ValueError: A set has fewer than two clips.
    """
    if min(len(first_ND), len(second_MD)) < 2:
        raise ValueError(f"sets of {len(first_ND)} and {len(second_MD)} clips have no covariance")
    gap_D = first_ND.mean(0) - second_MD.mean(0)
    first, second = _covariance_root(first_ND), _covariance_root(second_MD)
    shared = float(np.linalg.svd(first @ second.T, compute_uv=False).sum())
    return max(float(gap_D @ gap_D + np.square(first).sum() + np.square(second).sum()) - 2 * shared, 0.0)


def kernel_distance(first_ND: Features, second_MD: Features) -> float:
    """Return the unbiased squared MMD with the kernel (x y / D + 1)^3, as in KID and KVD."""
    sizes = (len(first_ND), len(second_MD))
    own = [
        float(_kernel(each, each).sum() - _kernel_diagonal(each).sum()) / (size * (size - 1))
        for each, size in zip((first_ND, second_MD), sizes, strict=True)
    ]
    return own[0] + own[1] - 2 * float(_kernel(first_ND, second_MD).mean())


def self_distances(features_ND: Features) -> tuple[Features, Features]:
    """Return Frechet and kernel distances between halves of one set, for `_NUM_SPLITS` random splits."""
    draw = np.random.Generator(np.random.Philox(key=[_SEED, len(features_ND)]))
    half = len(features_ND) // 2
    pairs = []
    for _ in range(_NUM_SPLITS):
        order = draw.permutation(len(features_ND))
        pairs.append((features_ND[order[:half]], features_ND[order[half : 2 * half]]))
    return (
        np.array([frechet_distance(*pair) for pair in pairs]),
        np.array([kernel_distance(*pair) for pair in pairs]),
    )


def _covariance_root(features_ND: Features) -> Features:
    """Return R with R^T R = covariance, of at most D rows."""
    centred_ND = features_ND - features_ND.mean(0)
    is_tall = len(centred_ND) > centred_ND.shape[1]
    root = np.asarray(np.linalg.qr(centred_ND, mode="r")) if is_tall else centred_ND
    scaled: Features = root / np.sqrt(len(features_ND) - 1)
    return scaled


def _kernel(first_ND: Features, second_MD: Features) -> Features:
    values_NM: Features = (first_ND @ second_MD.T / first_ND.shape[1] + 1) ** 3
    return values_NM


def _kernel_diagonal(features_ND: Features) -> Features:
    values_N: Features = (np.square(features_ND).sum(1) / features_ND.shape[1] + 1) ** 3
    return values_N


def _range_of(values_K: Features) -> Figure:
    low, high = np.quantile(values_K, [_LOW, _HIGH])
    return Figure(value=float(values_K.mean()), low=float(low), high=float(high), count=len(values_K))

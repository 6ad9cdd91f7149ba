"""What digests tell apart."""

from __future__ import annotations

import numpy as np

from m2d.video.digests import array_digest


def test_digests_know_shape_and_order() -> None:
    frames = np.arange(2 * 2 * 4 * 3, dtype=np.uint8).reshape(2, 2, 4, 3)
    assert array_digest(frames) == array_digest(frames.copy())
    assert array_digest(frames) != array_digest(frames.reshape(2, 4, 2, 3))
    assert array_digest(frames) != array_digest(frames[::-1])
    latents = np.zeros((1, 2, 2, 2), np.float32)
    assert array_digest(latents) != array_digest(latents.astype(np.float16))

"""What digests tell apart."""

from __future__ import annotations

import numpy as np

from m2d.video.digests import frames_digest, latents_digest


def test_digests_know_shape_and_order() -> None:
    frames = np.arange(2 * 2 * 4 * 3, dtype=np.uint8).reshape(2, 2, 4, 3)
    assert frames_digest([frames]) == frames_digest([frames.copy()])
    assert frames_digest([frames]) != frames_digest([frames.reshape(2, 4, 2, 3)])
    assert frames_digest([frames]) != frames_digest([frames[::-1]])
    latents = np.zeros((1, 2, 2, 2), np.float32)
    assert latents_digest(latents) != latents_digest(latents.astype(np.float16))

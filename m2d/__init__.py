"""m2d: multi-scene video from a diffusion transformer (Mask2DiT, CVPR 2025)."""

__version__ = "0.1.0"

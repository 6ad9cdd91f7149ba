"""CogVideoX 1.0 text-to-video (2B, 5B), Mask2DiT's weights, and the embedded models, which have its form."""

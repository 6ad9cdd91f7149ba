"""The backends that come with m2d; only the entry-point group `m2d.backends` loads them."""

"""The backends m2d ships: found through the entry-point group `m2d.backends`, imported by nobody."""

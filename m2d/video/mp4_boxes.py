"""The outer boxes of MP4 and MOV files: whether a file is complete.

Decoders accept a file whose end is missing and show the rest; only the boxes show that it is cut off.
"""

from __future__ import annotations

from pathlib import Path

MOV_FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2")
_HEADER_BYTES = 8
_LONG_HEADER_BYTES = 16
MOST_BOXES = 10_000
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"})


def is_mov(path: Path) -> bool:
    """Whether the file at `path` begins like an MP4 or MOV file."""
    with path.open("rb") as file:
        return file.read(_HEADER_BYTES)[4:] in _FIRST_BOXES


def ends_early(path: Path) -> bool:
    """Whether the MP4 or MOV file at `path` lacks its index or is shorter than its boxes say."""
    size_bytes = path.stat().st_size
    position, kinds = 0, set()
    with path.open("rb") as file:
        for _ in range(MOST_BOXES):
            file.seek(position)
            header = file.read(_LONG_HEADER_BYTES)
            if len(header) < _HEADER_BYTES:
                break
            kinds.add(header[4:8])
            length = _box_length(header)
            if length == 0:
                # Length 0: the last box extends to the end of the file.
                return b"moov" not in kinds
            if length < _HEADER_BYTES:
                return True
            position += length
    return position != size_bytes or b"moov" not in kinds


def _box_length(header: bytes) -> int:
    length = int.from_bytes(header[:4], "big")
    return int.from_bytes(header[8:16], "big") if length == 1 else length

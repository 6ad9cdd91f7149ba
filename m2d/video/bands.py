"""A tall PNG picture in bands, each compressed by itself: a band that is known is copied, not drawn again.

Owns the file's form (PNG, third edition; RFC 1950 and 1951 for its data): all bands together are one plain
picture for everybody, and a chunk of our own tells where each of them is. H height, W width, C channels.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Ancillary, private, and not to be copied by who changes the picture (PNG, 5.4).
_TABLE = b"bnDS"
_EIGHT_BIT_RGB = (8, 2, 0, 0, 0)
_NO_FILTER, _UP_FILTER = 0, 2
# Better quick than a third smaller: a film's sheet is written with every scene that is added.
_QUICK = 1
_RAW_DEFLATE = -15
_ZLIB_HEADER, _LAST_BLOCK = b"\x78\x01", b"\x03\x00"
_ADLER_BASE = 65521
_CHUNK = struct.Struct(">I4s")


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Some rows of pixels over the whole width of a picture.

    Attributes:
        key: Names what is drawn in it, its width included; empty for what is never looked for again.
        height: In pixels.
        data: Its rows, filtered and deflated, without a look at any other band.
        checksum: Adler-32 of its rows before that.
    """

    key: str
    height: int
    data: bytes
    checksum: int


def make_band(pixels_HWC: np.ndarray, *, key: str = "") -> Band:
    """Compress a band.

    Args:
        pixels_HWC: uint8 RGB.
        key: See `Band`.
    """
    height = len(pixels_HWC)
    rows = np.empty((height, 1 + pixels_HWC[0].size), np.uint8)
    flat = pixels_HWC.reshape(height, -1)
    rows[0, 0], rows[1:, 0] = _NO_FILTER, _UP_FILTER
    rows[0, 1:] = flat[0]
    rows[1:, 1:] = flat[1:] - flat[:-1]
    raw = rows.tobytes()
    deflater = zlib.compressobj(_QUICK, wbits=_RAW_DEFLATE)
    # A full flush ends on a whole byte, and what follows refers to nothing before it.
    data = deflater.compress(raw) + deflater.flush(zlib.Z_FULL_FLUSH)
    return Band(key=key, height=height, data=data, checksum=zlib.adler32(raw))


def join_bands(bands: Sequence[Band], *, width: int) -> bytes:
    """The bytes of a PNG file with the bands below each other.

    Args:
        bands: At least one, all of this width.
        width: In pixels.
    """
    checksum = 1
    for band in bands:
        checksum = _joined_checksum(checksum, band.checksum, size_bytes=band.height * (1 + 3 * width))
    height = sum(band.height for band in bands)
    table = json.dumps([[band.key, band.height, band.checksum] for band in bands]).encode("ascii")
    return b"".join(
        [
            _SIGNATURE,
            _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *_EIGHT_BIT_RGB)),
            _chunk(_TABLE, table),
            _chunk(b"IDAT", _ZLIB_HEADER),
            *(_chunk(b"IDAT", band.data) for band in bands),
            _chunk(b"IDAT", _LAST_BLOCK + struct.pack(">I", checksum)),
            _chunk(b"IEND", b""),
        ]
    )


def read_bands(png: bytes) -> dict[str, Band]:
    """The bands of a PNG file by their keys; none when it was not made by `join_bands`.

    Its pixels are not looked at: who asks knows that the file is what was written.
    """
    try:
        chunks = list(_chunks(png))
        table = json.loads(next(data for kind, data in chunks if kind == _TABLE))
        # The first holds the header, the last the checksum.
        parts = [data for kind, data in chunks if kind == b"IDAT"][1:-1]
        bands = [
            Band(key=str(key), height=int(height), data=data, checksum=int(checksum))
            for (key, height, checksum), data in zip(table, parts, strict=True)
        ]
    except (StopIteration, struct.error, ValueError, TypeError):
        return {}
    return {band.key: band for band in bands if band.key}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return _CHUNK.pack(len(data), kind) + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not png.startswith(_SIGNATURE):
        raise ValueError("not a PNG file")
    at = len(_SIGNATURE)
    while at < len(png):
        size_bytes, kind = _CHUNK.unpack_from(png, at)
        at += _CHUNK.size
        yield kind, png[at : at + size_bytes]
        at += size_bytes + 4


def _joined_checksum(first: int, second: int, *, size_bytes: int) -> int:
    """Adler-32 of two pieces from those of each, as zlib's adler32_combine; `size_bytes` is the second's."""
    low_first, low_second = first & 0xFFFF, second & 0xFFFF
    low = (low_first + low_second - 1) % _ADLER_BASE
    high = ((first >> 16) + (second >> 16) + size_bytes * (low_first - 1)) % _ADLER_BASE
    return high << 16 | low

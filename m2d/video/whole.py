"""Whether a video file reaches as far as its container says.

Owns one judgement for all containers: the sizes that a file announces against its size, and the time that its
header announces against the time that was read. Decoders show what is left of a file that is cut off.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from m2d.reading import open_regular
from m2d.video.formats import MOV_FORMATS

# Films of a fragment per frame have two boxes for each; a walk past them takes seconds.
MOST_PARTS = 2_000_000
# ISO 14496-12: the boxes that a file may end with. Other bytes behind the last box are a camera's trailer.
_BOXES = frozenset(
    {
        *(b"ftyp", b"moov", b"mdat", b"moof", b"free", b"skip", b"wide", b"uuid"),
        *(b"udta", b"meta", b"mfra", b"sidx", b"ssix", b"styp", b"emsg", b"prft"),
    }
)
_EBML, _SEGMENT = bytes.fromhex("1a45dfa3"), bytes.fromhex("18538067")
# More than two packets of every format that is judged by its last one.
_MOST_TAIL = 1 << 18
_OGG_END = 4
# Video, sound, padding and private streams.
_MPEG_STREAMS = frozenset({0xBD, 0xBE, 0xBF, *range(0xC0, 0xF0)})
_SYNC = 0x47
# Lengths of transport packets, and where their first byte stands: cameras put a time before it.
_TRANSPORT_PACKETS = ((188, 0), (192, 4), (204, 0))
_GIF_PICTURE, _GIF_END = b",", b";"
_MXF_HEAD, _MXF_KEY = 64, bytes.fromhex("060e2b34")
_RIFF_UNKNOWN = (0, 0xFFFFFFFF)
# Recorders that are stopped in the middle round what they announce.
_ROUNDING_S = 0.5


class _Part(NamedTuple):
    """One part of a file: its kind, and where it ends; an end of None is not known."""

    kind: bytes
    end: int | None


def is_whole(path: Path, *, demuxer: str) -> bool | None:
    """Whether the file has all bytes that its container announces; None when it announces none.

    Args:
        demuxer: FFmpeg's name of the format.

    Raises:
        OSError: The file cannot be read.
    """
    judge = _JUDGES.get(demuxer.split(",")[0])
    if judge is None:
        return None
    with open_regular(path, limit_bytes=None) as file:
        return judge(file, path.stat().st_size)


def announced_end_s(container: InputContainer, stream: VideoStream) -> float | None:
    """When the video ends, as the container's header says; None where no header speaks of the video alone."""
    # Frames that an AVI repeats are in its index alone, and its unit of time is a frame.
    if container.format.name == "avi" and stream.frames and stream.time_base:
        return float(stream.frames * stream.time_base)
    if container.format.name.startswith("matroska") and container.duration and len(container.streams) == 1:
        return container.duration / av.time_base
    return None


def count_gif_pictures(path: Path, *, most: int) -> int:
    """Count the pictures of a GIF without decoding any; the count ends at `most`."""
    with open_regular(path, limit_bytes=None) as file:
        parts = _parts(file, path.stat().st_size, read=_gif_block)
        return sum(1 for _ in itertools.islice((part for part in parts if part.kind == _GIF_PICTURE), most))


def reaches(*, announced_s: float, read_s: float) -> bool:
    """Whether a file was read as far as its header announces, up to rounding."""
    return read_s >= announced_s - max(_ROUNDING_S, announced_s / 100)


def _is_whole_mov(file: IO[bytes], size_bytes: int) -> bool:
    kinds = set()
    for part in _parts(file, size_bytes, read=_box):
        if part.end is not None and part.end > size_bytes:
            return part.kind not in _BOXES and b"moov" in kinds
        kinds.add(part.kind)
    return b"moov" in kinds


def _box(file: IO[bytes], position: int) -> _Part | None:
    header = file.read(8)
    if len(header) < 8:
        return None
    length, kind = int.from_bytes(header[:4], "big"), header[4:]
    if length == 1:
        length = int.from_bytes(file.read(8), "big")
    # Length 0: the last box extends to the end of the file.
    return _Part(kind, position + max(length, 8) if length else None)


def _is_whole_riff(file: IO[bytes], size_bytes: int) -> bool | None:
    for part in _parts(file, size_bytes, read=_chunk):
        if part.kind != b"RIFF":
            break
        if part.end is None:
            return None
        if part.end > size_bytes:
            return False
    return True


def _chunk(file: IO[bytes], position: int) -> _Part | None:
    header = file.read(8)
    if len(header) < 8:
        return None
    length = int.from_bytes(header[4:], "little")
    return _Part(header[:4], None if length in _RIFF_UNKNOWN else position + 8 + length)


def _is_whole_matroska(file: IO[bytes], size_bytes: int) -> bool | None:
    for part in _parts(file, size_bytes, read=_element):
        if part.kind not in (_EBML, _SEGMENT):
            break
        if part.end is not None and part.end > size_bytes:
            return False
        if part.kind == _SEGMENT:
            return part.end is not None or None
    return None


def _element(file: IO[bytes], position: int) -> _Part | None:
    """Read the head of an EBML element (RFC 8794): its identifier, and a size of one to eight bytes."""
    head = file.read(12)
    id_bytes = _num_bytes(head[:1])
    size_bytes = _num_bytes(head[id_bytes : id_bytes + 1])
    if not 0 < id_bytes <= 4 or not 0 < size_bytes <= 8 or len(head) < id_bytes + size_bytes:
        return None
    mask = (1 << 7 * size_bytes) - 1
    length = int.from_bytes(head[id_bytes : id_bytes + size_bytes], "big") & mask
    end = None if length == mask else position + id_bytes + size_bytes + length
    return _Part(head[:id_bytes], end)


def _num_bytes(first: bytes) -> int:
    """Length of a number whose leading zero bits count its further bytes; 0 for none."""
    return 9 - first[0].bit_length() if first and first[0] else 0


def _is_whole_ogg(file: IO[bytes], size_bytes: int) -> bool:
    """Whether the last page (RFC 3533) is complete and marked as the end of its stream."""
    tail = _tail(file, size_bytes)
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    lengths = page[27 : 27 + page[26]] if len(page) > 27 else b""
    is_complete = len(lengths) > 0 and len(page) >= 27 + page[26] + sum(lengths)
    return is_complete and bool(page[5] & _OGG_END)


def _is_whole_mpeg(file: IO[bytes], size_bytes: int) -> bool | None:
    """Program streams (ISO 13818-1) announce the length of each packet, but no end."""
    tail = _tail(file, size_bytes)
    position = len(tail)
    while (position := tail.rfind(b"\0\0\1", 0, position)) >= 0:
        header = tail[position + 3 : position + 6]
        if header[:1] and header[0] in _MPEG_STREAMS:
            end = position + 6 + int.from_bytes(header[1:], "big")
            return None if len(header) == 3 and end <= len(tail) else False
    return None


def _is_whole_transport(file: IO[bytes], size_bytes: int) -> bool | None:
    """Transport streams announce nothing, but their packets have one size."""
    head = file.read(_MOST_TAIL)
    for length, offset in _TRANSPORT_PACKETS:
        syncs = head[offset::length]
        if len(syncs) > 1 and set(syncs) == {_SYNC}:
            rest = size_bytes % length
            file.seek(size_bytes - rest)
            return False if rest and file.read(rest)[offset : offset + 1] in (b"", bytes([_SYNC])) else None
    return None


def _is_whole_gif(file: IO[bytes], size_bytes: int) -> bool:
    return any(part.kind == _GIF_END for part in _parts(file, size_bytes, read=_gif_block))


def _gif_block(file: IO[bytes], position: int) -> _Part | None:
    """Read one block of a GIF (89a specification), up to the end of its data."""
    kind = file.read(13 if position == 0 else 1)
    if position == 0:
        return _Part(b"head", 13 + _colours(kind[10]) if len(kind) == 13 else None)
    if kind == _GIF_END:
        return _Part(kind, None)
    # A picture has nine bytes of its own, colours, and the size of its codes; an extension has a label.
    head = file.read({_GIF_PICTURE: 9, b"!": 1}.get(kind, 0))
    if not head:
        return None
    if kind == _GIF_PICTURE:
        file.seek(_colours(head[-1]) + 1, io.SEEK_CUR)
    while length := file.read(1):
        if length == b"\0":
            return _Part(kind, file.tell())
        file.seek(length[0], io.SEEK_CUR)
    return None


def _colours(flags: int) -> int:
    """Length of the table of colours that the flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _is_whole_mxf(file: IO[bytes], size_bytes: int) -> bool | None:
    """Whether the file reaches the footer that its first partition (SMPTE 377-1) names."""
    head = file.read(_MXF_HEAD)
    length_bytes = head[16] & 0x7F if len(head) > 16 and head[16] & 0x80 else 0
    footer = int.from_bytes(head[17 + length_bytes + 24 :][:8], "big")
    if len(head) < _MXF_HEAD or not footer:
        return None
    file.seek(footer)
    return file.read(4) == _MXF_KEY and footer < size_bytes


def _tail(file: IO[bytes], size_bytes: int) -> bytes:
    file.seek(max(size_bytes - _MOST_TAIL, 0))
    return file.read(_MOST_TAIL)


def _parts(
    file: IO[bytes], size_bytes: int, *, read: Callable[[IO[bytes], int], _Part | None]
) -> Iterator[_Part]:
    """Yield the parts of a file that follow each other, up to one whose end is not known."""
    position = 0
    for _ in range(MOST_PARTS):
        if position >= size_bytes:
            return
        file.seek(position)
        part = read(file, position)
        if part is None:
            return
        yield part
        if part.end is None:
            return
        position = part.end


_JUDGES: dict[str, Callable[[IO[bytes], int], bool | None]] = {
    MOV_FORMATS[0]: _is_whole_mov,
    "avi": _is_whole_riff,
    "matroska": _is_whole_matroska,
    "webp": _is_whole_riff,
    "ogg": _is_whole_ogg,
    "mpeg": _is_whole_mpeg,
    "mpegts": _is_whole_transport,
    "gif": _is_whole_gif,
    "mxf": _is_whole_mxf,
}

"""A scene as H.264 packets: encoded once, copied from film to film, identified by a digest.

Owns the encoded scene, its digest, its decoding and its packets on disk; `encode` makes the packets.
P frames, H height, W width, C channels.
"""

from __future__ import annotations

import errno
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, NamedTuple, overload

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from m2d.errors import InputError
from m2d.reading import open_regular
from m2d.video.open_film import opened_film
from m2d.video.pixels import rgb_of
from m2d.video.provenance import Provenance

# The packets of larger files stay on disk.
LARGEST_HELD_BYTES = 64 << 20


class ForeignPackets(InputError):
    """A film whose packets were changed after writing, or were encoded in another way."""


class Packet(NamedTuple):
    """One encoded frame: units with their lengths (ISO 14496-15), and whether it is a key frame."""

    data: bytes
    is_key: bool


class PacketStore(Sequence[Packet]):
    """Packets that stay on disk until they are needed, so that a film of hours does not fill memory.

    Their file stays open while any store or slice of it exists.
    """

    __slots__ = ("_file", "_keys", "_offsets", "_sizes")

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._offsets, self._sizes, self._keys = array("Q"), array("Q"), bytearray()

    def append(self, packet: Packet) -> None:
        """Write a packet to the end of the file.

        Raises:
            OSError: The file cannot be written.
        """
        self.note(self._file.seek(0, 2), len(packet.data), is_key=packet.is_key)
        self._file.write(packet.data)

    def note(self, offset: int, size_bytes: int, *, is_key: bool) -> None:
        """Add a packet that is already in the file."""
        self._offsets.append(offset)
        self._sizes.append(size_bytes)
        self._keys.append(is_key)

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, index: int) -> Packet: ...

    @overload
    def __getitem__(self, index: slice) -> PacketStore: ...

    def __getitem__(self, index: int | slice) -> Packet | PacketStore:
        if isinstance(index, slice):
            part = PacketStore(self._file)
            part._offsets, part._sizes = self._offsets[index], self._sizes[index]
            part._keys = self._keys[index]
            return part
        self._file.seek(self._offsets[index])
        data = self._file.read(self._sizes[index])
        if len(data) != self._sizes[index]:
            raise OSError(errno.EIO, "a file was cut off while it was read")
        return Packet(data, bool(self._keys[index]))


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedScene:
    """The shown frames of one scene, encoded independently of any other scene.

    Attributes:
        header: The decoder's configuration (ISO 14496-15, `avcC`).
        packets: One per frame, in display order; the first is a key frame.
        template: The encoder's output, which describes the stream to a muxer; empty for a copied scene.
    """

    header: bytes
    packets: Sequence[Packet]
    template: bytes = b""

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.packets)

    def first(self, num_frames: int) -> EncodedScene:
        """Return the first frames, without encoding again: no packet needs a later one."""
        return replace(self, packets=self.packets[:num_frames])

    def digest(self) -> str:
        """Return the sha256 over header and packets, in hex."""
        digest = hashlib.sha256(self.header)
        for packet in self.packets:
            digest.update(len(packet.data).to_bytes(8, "big") + packet.data)
        return digest.hexdigest()

    def frames(self, *, upscale: int) -> np.ndarray:
        """Decode all frames: uint8 RGB PHWC at the size the model made."""
        return np.stack([rgb_of(frame, upscale=upscale) for frame in self.pictures()])

    def picked(self, indices: Sequence[int], *, upscale: int) -> list[np.ndarray]:
        """Decode some frames, uint8 RGB HWC each, without keeping others.

        Args:
            indices: Ascending; an index may occur more than once.
        """
        wanted = set(indices)
        last = max(wanted)
        found = {
            index: rgb_of(picture, upscale=upscale)
            for index, picture in enumerate(self.first(last + 1).pictures())
            if index in wanted
        }
        return [found[index] for index in indices]

    def pictures(self) -> Iterator[VideoFrame]:
        """Decode the frames one by one, not converted to RGB.

        Raises:
            av.FFmpegError: A packet is corrupt.
        """
        decoder = av.CodecContext.create("h264", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = self.header
        # The pictures are small: threads cost more than they save.
        decoder.thread_count = 1
        for packet in self.packets:
            yield from decoder.decode(av.Packet(packet.data))
        yield from decoder.decode(None)


def read_scenes(path: Path, provenance: Provenance, *, encoding: str) -> tuple[EncodedScene, ...]:
    """Read the encoded scenes of a film.

    Args:
        encoding: The current `encoding_id`.

    Raises:
        ForeignPackets: The packets cannot be joined with newly encoded ones; the message says why.
    """
    if provenance.video.encoding != encoding:
        raise ForeignPackets("it was encoded with other settings or another encoder")
    header, packets = read_packets(path)
    scenes = cut_packets(header, packets, provenance.shown_frames)
    recorded = [scene.packets_sha256 for scene in provenance.scenes]
    if len(packets) != provenance.num_frames or [scene.digest() for scene in scenes] != recorded:
        raise ForeignPackets("its pictures were encoded again since it was written")
    return scenes


def changed_scenes(path: Path, provenance: Provenance) -> tuple[int, ...] | None:
    """Return the scenes of a film, from 0, whose pictures are not those of its record.

    None without digests of them, as in films of others and of m2d's first version.
    """
    recorded = [scene.packets_sha256 for scene in provenance.scenes]
    if not all(recorded):
        return None
    header, packets = read_packets(path)
    if len(packets) != provenance.num_frames:
        return tuple(range(len(recorded)))
    found = cut_packets(header, packets, provenance.shown_frames)
    pairs = zip(found, recorded, strict=True)
    return tuple(number for number, (scene, digest) in enumerate(pairs) if scene.digest() != digest)


def read_packets(path: Path) -> tuple[bytes, Sequence[Packet]]:
    """Read the header and all packets of a film's video track, in the order of the file.

    The packets of a large film stay on disk.
    """
    if path.is_file() and path.stat().st_size > LARGEST_HELD_BYTES:
        left = _left_on_disk(path)
        if left is not None:
            return left
    with opened_film(path) as (container, stream):
        packets = [
            Packet(bytes(packet), packet.is_keyframe) for packet in container.demux(stream) if packet.size
        ]
        return stream.codec_context.extradata or b"", packets


def _left_on_disk(path: Path) -> tuple[bytes, PacketStore] | None:
    """Locate the packets in the film's file; None when the container stores them in another form."""
    with opened_film(path) as (container, stream):
        # The store keeps this file open: another file may get the film's name meanwhile.
        file = open_regular(path, limit_bytes=None)
        store = PacketStore(file)
        for packet in container.demux(stream):
            if not packet.size:
                continue
            if packet.pos is None or packet.pos < 0:
                return None
            store.note(packet.pos, packet.size, is_key=packet.is_keyframe)
            if store[len(store) - 1].data != bytes(packet):
                return None
        return stream.codec_context.extradata or b"", store


def cut_packets(header: bytes, packets: Sequence[Packet], lengths: Sequence[int]) -> tuple[EncodedScene, ...]:
    """Divide a film's packets into scenes of the given lengths."""
    ends = np.cumsum(lengths).tolist()
    parts = [packets[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    return tuple(
        EncodedScene(header=header, packets=part if isinstance(part, PacketStore) else tuple(part))
        for part in parts
    )

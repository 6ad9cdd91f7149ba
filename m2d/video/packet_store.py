"""Encoded frames that stay on disk until they are needed, so that a film of hours does not fill memory."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Sequence
from typing import IO, NamedTuple, overload


class Packet(NamedTuple):
    """One encoded frame: units with their lengths (ISO 14496-15), and whether it is a key frame."""

    data: bytes
    is_key: bool


class PacketStore(Sequence[Packet]):
    """Packets in a file that stays open while any store or slice of it exists."""

    __slots__ = ("_file", "_keys", "_offsets", "_sizes")

    def __init__(self, file: IO[bytes]) -> None:
        """Begin with no packets."""
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

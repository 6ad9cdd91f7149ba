"""Encoded clips and captions on disk, one file each, named by what they were made of.

Owns the names and the files. A name says everything that its content depends on, so nothing is ever stale;
trainings of all stages share what they have in common. A file is complete or absent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from m2d.files import make_folder, write_bytes

_FORMAT = "m2d.content/1"
_TENSOR = "encoded"


def content_key(*parts: object) -> str:
    """Return the name of what depends on exactly `parts`."""
    return hashlib.sha256("\n".join((_FORMAT, *map(repr, parts))).encode()).hexdigest()


class ContentStore:
    """Tensors by key; the ones used last are kept in memory, too."""

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        """Take `folder`, which is made when something is put there.

        Args:
            folder: Shared by any number of processes.
            memory_bytes: How much is kept in memory.
        """
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._held_bytes = 0

    def get(self, key: str) -> Tensor | None:
        """Return what is stored as `key`; None when nothing is, or when it is damaged."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        try:
            tensor: Tensor = load_file(self._path(key))[_TENSOR]
        except (FileNotFoundError, SafetensorError, KeyError, OSError):
            # Renamed only when complete: what is damaged is the disk's doing and is made again.
            return None
        self._hold(key, tensor)
        return tensor

    def has(self, key: str) -> bool:
        """Tell whether something is stored as `key`; only `get` tells whether it is sound."""
        return key in self._held or self._path(key).is_file()

    def put(self, key: str, tensor: Tensor, *, on_disk: bool = True) -> None:
        """Store a tensor.

        Raises:
            OutputError: The disk refused.
        """
        if on_disk:
            path = self._path(key)
            make_folder(path.parent)
            write_bytes(path, save({_TENSOR: tensor.contiguous()}))
        self._hold(key, tensor)

    def _path(self, key: str) -> Path:
        # Two levels: folders of a million files are slow everywhere.
        return self._folder / key[:2] / f"{key[:40]}.safetensors"

    def _hold(self, key: str, tensor: Tensor) -> None:
        if tensor.nbytes > self._memory_bytes or key in self._held:
            return
        self._held[key] = tensor
        self._held_bytes += tensor.nbytes
        while self._held_bytes > self._memory_bytes:
            _, oldest = self._held.popitem(last=False)
            self._held_bytes -= oldest.nbytes

"""Encoded clips and captions on disk, one file each, named by a digest of their inputs.

Owns the names and the files. The digest covers everything that the content depends on, so a file is never
stale and trainings of all stages share it. A file is complete or absent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from m2d.files import write_bytes
from m2d.folders import make_folder
from m2d.model.checkpoint import load_tensors

_FORMAT = "m2d.content/1"
_TENSOR = "encoded"


def content_key(*parts: object) -> str:
    """Return the key of a tensor that depends on exactly `parts`."""
    return hashlib.sha256("\n".join((_FORMAT, *map(repr, parts))).encode()).hexdigest()


class ContentStore:
    """Tensors by key, on disk; the most recently used ones also stay in memory."""

    def __init__(self, folder: Path, *, memory_bytes: int) -> None:
        """Use `folder`, which any number of processes may share and the first `put` creates.

        Args:
            memory_bytes: Largest total size of the tensors kept in memory.
        """
        self._folder = folder
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[str, Tensor] = OrderedDict()
        self._held_bytes = 0

    def get(self, key: str) -> Tensor | None:
        """Return the tensor of `key`, or None if it is missing or corrupt."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        try:
            tensor: Tensor = load_tensors(self._path(key))[_TENSOR]
        except (KeyError, OSError):
            # Files are renamed when complete, so only the disk can corrupt one; it is encoded again.
            return None
        self._hold(key, tensor)
        return tensor

    def has(self, key: str) -> bool:
        """Whether a tensor of `key` is stored; only `get` verifies that it can be read."""
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

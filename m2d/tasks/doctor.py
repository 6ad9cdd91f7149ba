"""Doctor: report what m2d can do on this machine, and why it cannot do the rest."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from m2d.cache_root import cache_root
from m2d.errors import CheckpointError, M2DError
from m2d.families.opening import BUILTIN_MODELS
from m2d.families.source import resolve_model
from m2d.geometry import ModelGeometry
from m2d.registry import available_backends
from m2d.video.encode import encoder_version

PACKAGES = (
    "m2d",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "av",
    "imageio-ffmpeg",
    "numpy",
    "pydantic",
)
OPTIONAL_PACKAGES = {
    "onnx": "m2d[onnx]",
    "onnxruntime": "m2d[onnx]",
    "tensorrt": "m2d[tensorrt]",
    "opencv-python-headless": "m2d[data]",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """A device; `problem` is None if torch can use it."""

    name: str
    description: str
    problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class BackendReport:
    """A backend; `problem_on` maps a device to the reason why it cannot run there, or None."""

    name: str
    problem_on: Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelReport:
    """An embedded model; `problem` is None if its folder is complete."""

    name: str
    problem: str | None
    geometry: ModelGeometry | None = None
    digest: str = ""
    size_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheReport:
    """The cache folder, which may not exist yet; `problem` is None if files can be read and made there."""

    folder: str
    problem: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class DoctorReport:
    """The capabilities of this machine; the version of a missing package or encoder is empty."""

    system: Mapping[str, str]
    versions: Mapping[str, str]
    devices: tuple[Device, ...]
    backends: tuple[BackendReport, ...]
    models: tuple[ModelReport, ...]
    encoder: str
    cache: CacheReport


def examine() -> DoctorReport:
    """Examine this machine; what does not work is part of the report."""
    devices = _devices()
    return DoctorReport(
        system={
            "os": f"{platform.system()} {platform.release()}",
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        versions={name: _version(name) for name in (*PACKAGES, *OPTIONAL_PACKAGES)},
        devices=devices,
        backends=_backends(devices),
        models=tuple(map(_embedded_model, BUILTIN_MODELS)),
        encoder=_encoder_version(),
        cache=_cache(cache_root()),
    )


def device_names() -> tuple[str, ...]:
    """Return the devices to examine: the CPU, and the CUDA devices, or `cuda` if there are none."""
    return tuple(device.name for device in _devices())


def _devices() -> tuple[Device, ...]:
    import torch

    cpu = Device(
        name="cpu", description=f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()}", problem=None
    )
    if torch.version.cuda is None:
        return cpu, Device(
            name="cuda", description="", problem=f"torch {torch.__version__} was built without CUDA"
        )
    if not torch.cuda.is_available():
        return cpu, Device(name="cuda", description="", problem="torch finds no CUDA device or driver")
    return cpu, *(_cuda_device(index) for index in range(torch.cuda.device_count()))


def _cuda_device(index: int) -> Device:
    import torch

    properties = torch.cuda.get_device_properties(index)
    memory = f"{properties.total_memory / 2**30:.0f} GiB, compute {properties.major}.{properties.minor}"
    return Device(name=f"cuda:{index}", description=f"{properties.name}, {memory}", problem=None)


def _backends(devices: tuple[Device, ...]) -> tuple[BackendReport, ...]:
    found: dict[str, dict[str, str | None]] = {}
    for device in devices:
        for status in available_backends(device.name):
            found.setdefault(status.name, {})[device.name] = status.unavailable_reason
    return tuple(BackendReport(name=name, problem_on=problems) for name, problems in found.items())


def _embedded_model(name: str) -> ModelReport:
    try:
        source = resolve_model(name)
        digest = source.digest
    except CheckpointError as error:
        return ModelReport(name=name, problem=str(error))
    size_bytes = sum(path.stat().st_size for path in source.path.rglob("*") if path.is_file())
    return ModelReport(
        name=name, problem=None, geometry=source.geometry, digest=digest, size_bytes=size_bytes
    )


def _cache(folder: Path) -> CacheReport:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(path))
    problem = None
    try:
        os.scandir(there).close()
        if not os.access(there, os.W_OK | os.X_OK):
            problem = f"{there}: no files can be made there"
    except OSError as error:
        problem = f"{there}: cannot be read: {error.strerror}"
    advice = "; change its permissions, or name another folder in M2D_CACHE"
    return CacheReport(folder=str(folder), problem=problem and problem + advice)


def _encoder_version() -> str:
    try:
        return encoder_version()
    except M2DError:
        return ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""

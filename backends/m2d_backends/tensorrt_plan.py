"""Decisions about a TensorRT engine that need no TensorRT.

Owns versions, flags, profiles, key fields and the expected tensors, as plain functions; building and
running engines is `m2d_backends.tensorrt_engine`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from m2d.backend import DTypeName
from m2d.errors import BackendError, BackendUnavailable
from m2d_backends.extra_options import ExtraOptions
from m2d_backends.onnx_graph import INPUT_NAMES, MAX_BATCH, OUTPUT_NAME, Opset

NOT_YET_RUN = (
    "written against TensorRT's published Python interface and tested on a stand-in; no engine has been "
    "built or run on hardware yet: verify it against eager before relying on it"
)
# The first version whose parser turns ONNX `Attention` into fused attention.
OLDEST = (10, 14)
# Documented: refitting an engine built with REFIT may drop the bias of a matrix product.
REFIT_LOSES_BIAS = (11, 3)
# Fused attention: from Turing on, 16-bit inputs, head sizes in eights up to 256. bfloat16 came with Ampere.
_OLDEST_CAPABILITY: Mapping[DTypeName, tuple[int, int]] = {
    "float16": (7, 5),
    "bfloat16": (8, 0),
    "float32": (7, 5),
}

RefitMode = Literal["none", "identical", "weights"]


class TensorRTOptions(ExtraOptions):
    """Options of this backend alone.

    Attributes:
        optimization_level: How long the builder searches, 0 to 5.
        weight_streaming: Leave weights in host memory that do not fit on the device.
        refit: `identical` strips the weights from the plan on disk and puts the same ones back when it is
            loaded; `weights` allows others of the same shapes, such as those of a merged LoRA.
    """

    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    weight_streaming: bool = False
    refit: RefitMode = "none"


class Version(NamedTuple):
    """TensorRT's version; an engine runs only on the version that built it."""

    major: int
    minor: int


Profile = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Shapes of one input: the smallest, the one to optimize for, the largest."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFacts:
    """The device that an engine is built for."""

    name: str
    capability: tuple[int, int]
    driver_major: str

    @property
    def label(self) -> str:
        """The name in artifact keys, such as `cuda sm_90 NVIDIA H200`."""
        return f"cuda sm_{self.capability[0]}{self.capability[1]} {self.name}"


def version_of(text: str) -> Version:
    """Read a version such as `11.4.0.106`; raises BackendUnavailable if it is too old."""
    major, minor = (int(part) for part in text.split(".")[:2])
    if (major, minor) < OLDEST:
        raise BackendUnavailable(
            f"backend 'tensorrt': TensorRT {text} is too old; install {_dotted(OLDEST)} or newer"
        )
    return Version(major, minor)


def device_problem(device: str) -> str | None:
    """Say why TensorRT cannot run on a kind of device, or None when it may."""
    if device.partition(":")[0] == "cuda":
        return None
    return f"TensorRT runs on CUDA devices only, not on {device!r}; use cuda, or another backend"


def graph_opset(dtype: DTypeName, *, head_dim: int, capability: tuple[int, int]) -> Opset:
    """Choose how attention is written into the graph.

    TensorRT builds ONNX `Attention` (opset 23) as one fused kernel or not at all. Without such a kernel, the
    decomposed form (opset 18) always builds.

    Raises:
        BackendUnavailable: The device cannot compute in `dtype`.
    """
    if capability < _OLDEST_CAPABILITY[dtype]:
        raise BackendUnavailable(
            f"backend 'tensorrt': {dtype} needs compute capability {_dotted(_OLDEST_CAPABILITY[dtype])}, "
            f"this device has {_dotted(capability)}"
        )
    has_kernel = dtype != "float32" and 16 <= head_dim <= 256 and head_dim % 8 == 0
    return 23 if has_kernel else 18


def _dotted(numbers: tuple[int, int]) -> str:
    return ".".join(map(str, numbers))


def network_flags(version: Version) -> tuple[str, ...]:
    """Return the names of the network's creation flags; TensorRT 11 is always strongly typed."""
    return ("STRONGLY_TYPED",) if version.major == 10 else ()


def builder_flags(options: TensorRTOptions, version: Version) -> tuple[str, ...]:
    """Return the names of the builder flags to set; the graph determines the precision.

    Raises:
        BackendUnavailable: Refitting with other weights loses biases in this version.
    """
    if options.refit == "weights" and version == REFIT_LOSES_BIAS:
        raise BackendUnavailable(
            "backend 'tensorrt': refitting with other weights may drop biases in TensorRT 11.3; use another "
            "version, or refit=none"
        )
    # REFIT_IDENTICAL is documented for the weights of the build only, not for a LoRA's.
    refit = {"none": (), "identical": ("REFIT_IDENTICAL", "STRIP_PLAN"), "weights": ("REFIT",)}
    return (*refit[options.refit], *(("WEIGHT_STREAMING",) if options.weight_streaming else ()))


CLEARED_FLAGS = ("TF32",)
"""On by default, but it rounds float32 inputs."""


def profiles(tensors: Iterable[TensorFacts]) -> dict[str, Profile]:
    """Return the only optimization profile: a batch of one or two, optimized for two; all else is fixed."""
    return {
        each.name: ((1, *each.shape[1:]), (MAX_BATCH, *each.shape[1:]), (MAX_BATCH, *each.shape[1:]))
        for each in tensors
        if each.mode == "INPUT"
    }


def key_versions(
    options: TensorRTOptions,
    *,
    tensorrt: str,
    driver_major: str,
    opset: Opset,
    makers: Mapping[str, str],
) -> dict[str, str]:
    """Return what an engine depends on besides model, layout, size, dtype and device.

    `makers` are the versions of the packages that write the graph.
    """
    flags = builder_flags(options, version_of(tensorrt))
    return {
        **makers,
        "tensorrt": tensorrt,
        "driver": driver_major,
        "opset": str(opset),
        "optimization_level": str(options.optimization_level),
        "flags": " ".join(flags) or "none",
    }


def driver_major(text: str) -> str:
    """Read the driver's major version out of `/proc/driver/nvidia/version`, or return `unknown`."""
    found = re.search(r"NVRM version:.*?\s(\d+)\.\d+", text)
    return found[1] if found else "unknown"


class TensorFacts(NamedTuple):
    """One input or output of an engine; mode and dtype are names in TensorRT's enumerations."""

    name: str
    mode: str
    dtype: str
    shape: tuple[int, ...]


def expected_tensors(
    input_shapes: Iterable[tuple[int, ...]], output_shape: tuple[int, ...], dtype: DTypeName
) -> tuple[TensorFacts, ...]:
    """Return the tensors that an engine must have, in a graph's order; -1 is the dynamic batch."""
    number = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}[dtype]
    inputs = [
        TensorFacts(name, "INPUT", "INT64" if name == "timesteps" else number, (-1, *shape))
        for name, shape in zip(INPUT_NAMES, input_shapes, strict=True)
    ]
    return (*inputs, TensorFacts(OUTPUT_NAME, "OUTPUT", number, (-1, *output_shape)))


def check_tensors(found: tuple[TensorFacts, ...], expected: tuple[TensorFacts, ...]) -> None:
    """Check that an engine has these inputs and outputs, in any order; raises BackendError."""
    missing = [str(tuple(each)) for each in expected if each not in found]
    extra = [str(tuple(each)) for each in found if each not in expected]
    if missing or extra:
        raise BackendError(
            f"the engine is not the layout's: missing {', '.join(missing) or 'nothing'}; "
            f"unexpected {', '.join(extra) or 'nothing'}; export it again"
        )

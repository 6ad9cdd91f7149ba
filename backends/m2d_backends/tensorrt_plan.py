"""Every decision about a TensorRT engine that can be made without TensorRT.

Owns versions, flags, profiles, key fields and what an engine's tensors must be, as plain functions;
building is `m2d_backends.tensorrt_build`'s, running `m2d_backends.tensorrt_engine`'s.
"""

# B batch, F latent frames, C latent channels, H W latent size, L text tokens, D width, N scenes.

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
# The first whose parser turns ONNX `Attention` into its fused attention.
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
    """What only this backend knows.

    Attributes:
        optimization_level: How long the builder searches, 0 to 5.
        weight_streaming: Let weights stay in host memory where the device has no room for them.
        refit: `identical` strips the weights from the plan on disk and puts the same ones back when it is
            loaded; `weights` allows others of the same shapes, such as those of a merged LoRA.
    """

    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    weight_streaming: bool = False
    refit: RefitMode = "none"


class Version(NamedTuple):
    """Of the library: engines run on the one they were built with."""

    major: int
    minor: int


class Profile(NamedTuple):
    """Shapes of one input: the smallest, the one to be fast for, the largest."""

    smallest: tuple[int, ...]
    usual: tuple[int, ...]
    largest: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceFacts:
    """The device that an engine is bound to."""

    name: str
    capability: tuple[int, int]
    driver_major: str

    @property
    def label(self) -> str:
        """As artifact keys name it: `cuda sm_90 NVIDIA H200`."""
        return f"cuda sm_{self.capability[0]}{self.capability[1]} {self.name}"


def version_of(text: str) -> Version:
    """Read a version such as `11.4.0.106`.

    Raises:
        BackendUnavailable: It is too old.
    """
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

    TensorRT builds ONNX `Attention` (opset 23) as one fused kernel or not at all; where there is no such
    kernel the spelled-out form (opset 18) builds always.

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
    """Names of the network's creation flags: TensorRT 11 knows strong typing only, its flag is deprecated."""
    return ("STRONGLY_TYPED",) if version.major == 10 else ()


def builder_flags(options: TensorRTOptions, version: Version) -> tuple[str, ...]:
    """Names of the builder flags to set; precision is not among them, it is the graph's own.

    Raises:
        BackendUnavailable: Refitting with other weights loses biases in this version.
    """
    if options.refit == "weights" and version == REFIT_LOSES_BIAS:
        raise BackendUnavailable(
            "backend 'tensorrt': refitting with other weights may drop biases in TensorRT 11.3; use another "
            "version, or refit=none"
        )
    # REFIT_IDENTICAL is documented for the very weights of the build alone: never for a LoRA's.
    refit = {"none": (), "identical": ("REFIT_IDENTICAL", "STRIP_PLAN"), "weights": ("REFIT",)}
    return (*refit[options.refit], *(("WEIGHT_STREAMING",) if options.weight_streaming else ()))


CLEARED_FLAGS = ("TF32",)
"""On by default; float32 is to mean float32."""


def input_shapes(
    latent_shape: tuple[int, int, int, int], *, num_text_tokens: int, text_width: int, num_scenes: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of all inputs without their batch, in the order of a graph's inputs."""
    shapes = (latent_shape, (num_text_tokens, text_width), (num_scenes,))
    return dict(zip(INPUT_NAMES, shapes, strict=True))


def profiles(tensors: Iterable[TensorFacts]) -> dict[str, Profile]:
    """The one optimization profile: batches of one or two, tuned for guidance's two; all else fixed."""
    return {
        each.name: Profile((1, *each.shape[1:]), (MAX_BATCH, *each.shape[1:]), (MAX_BATCH, *each.shape[1:]))
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
    """What an engine depends on besides model, layout, size, dtype and device: all of it, as texts.

    Args:
        options: All of them change the engine.
        tensorrt: Its whole version.
        driver_major: Of the device's driver.
        opset: How attention is written.
        makers: Versions of what writes the graph.
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
    """Read the driver's major version out of `/proc/driver/nvidia/version`; `unknown` when it says none."""
    found = re.search(r"NVRM version:.*?\s(\d+)\.\d+", text)
    return found[1] if found else "unknown"


class TensorFacts(NamedTuple):
    """One input or output of an engine, names as TensorRT's enumerations have them."""

    name: str
    mode: str
    dtype: str
    shape: tuple[int, ...]


def expected_tensors(
    shapes: Mapping[str, tuple[int, ...]], output_shape: tuple[int, ...], dtype: DTypeName
) -> tuple[TensorFacts, ...]:
    """What an engine's inputs and output have to be; -1 is the free batch."""
    number = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}[dtype]
    inputs = [
        TensorFacts(name, "INPUT", "INT64" if name == "timesteps" else number, (-1, *shape))
        for name, shape in shapes.items()
    ]
    return (*inputs, TensorFacts(OUTPUT_NAME, "OUTPUT", number, (-1, *output_shape)))


def check_tensors(found: tuple[TensorFacts, ...], expected: tuple[TensorFacts, ...]) -> None:
    """Make sure that an engine takes and gives what its key says, whatever the order.

    Raises:
        BackendError: It does not; everything that differs is named.
    """
    missing = [str(tuple(each)) for each in expected if each not in found]
    foreign = [str(tuple(each)) for each in found if each not in expected]
    if missing or foreign:
        raise BackendError(
            f"the engine is not the layout's: missing {', '.join(missing) or 'nothing'}; "
            f"foreign {', '.join(foreign) or 'nothing'}; export it again"
        )

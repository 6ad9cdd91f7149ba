"""A stand-in for the module `tensorrt`, as strict as the bindings: what they do not have raises here, too.

Class, method, argument and flag names and the order of arguments are those of the published bindings of
TensorRT 10.16 and 11.4. An engine of this stand-in carries its ONNX graph and runs it through ONNX Runtime,
on the very addresses that were bound: what comes out is right only if names, shapes and addresses are.
"""

from __future__ import annotations

import ctypes
import json
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime

FLAGS_11 = [
    *("DEBUG", "GPU_FALLBACK", "REFIT", "DISABLE_TIMING_CACHE", "EDITABLE_TIMING_CACHE", "TF32"),
    *("SPARSE_WEIGHTS", "SAFETY_SCOPE", "DIRECT_IO", "VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"),
    *("ERROR_ON_TIMING_CACHE_MISS", "DISABLE_COMPILATION_CACHE", "STRIP_PLAN", "REFIT_IDENTICAL"),
    *("WEIGHT_STREAMING", "REFIT_INDIVIDUAL", "STRICT_NANS", "MONITOR_MEMORY", "DISTRIBUTIVE_INDEPENDENCE"),
]
FLAGS_10 = [*FLAGS_11, "FP16", "BF16", "INT8", "FP8", "INT4", "FP4", "OBEY_PRECISION_CONSTRAINTS"]
NETWORK_FLAGS_10 = [
    "EXPLICIT_BATCH",
    "STRONGLY_TYPED",
    "PREFER_AOT_PYTHON_PLUGINS",
    "PREFER_JIT_PYTHON_PLUGINS",
]

Severity = IntEnum("Severity", "INTERNAL_ERROR ERROR WARNING INFO VERBOSE", start=0)
TensorIOMode = IntEnum("TensorIOMode", "NONE INPUT OUTPUT", start=0)
DataType = IntEnum("DataType", "FLOAT HALF INT8 INT32 BOOL UINT8 FP8 BF16 INT64 INT4", start=0)
SerializationFlag = IntEnum(
    "SerializationFlag", "EXCLUDE_WEIGHTS EXCLUDE_LEAN_RUNTIME INCLUDE_REFIT", start=0
)
_NUMBERS = {1: DataType.FLOAT, 7: DataType.INT64, 10: DataType.HALF, 16: DataType.BF16}


class ILogger:
    Severity = Severity

    def __init__(self) -> None:
        self.is_made = True


class HostMemory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content


class Network:
    __slots__ = ("flags", "graph", "log")

    def __init__(self, flags: int, log: ILogger) -> None:
        self.flags, self.log = flags, log
        self.graph: Path | None = None


class TimingCache:
    __slots__ = ("content",)

    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> HostMemory:
        return HostMemory(self.content + b"timed.")


class Profile:
    __slots__ = ("shapes",)

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[Any, Any, Any]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:  # noqa: A002  # the bindings' names
        self.shapes[input] = (min, opt, max)


class Config:
    __slots__ = ("builder_optimization_level", "cache", "flags", "known", "profiles")

    def __init__(self, known: type[IntEnum]) -> None:
        self.known = known
        self.flags = {known["TF32"]}
        self.profiles: list[Profile] = []
        self.cache: TimingCache | None = None
        self.builder_optimization_level = 3

    def set_flag(self, flag: IntEnum) -> None:
        self.flags.add(self.known(flag))

    def clear_flag(self, flag: IntEnum) -> None:
        self.flags.discard(self.known(flag))

    def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache:
        return TimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
        if cache.content.startswith(b"foreign") and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def add_optimization_profile(self, profile: Profile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return "node_1"

    def node_operator(self) -> str:
        return "Attention"


class OnnxParser:
    def __init__(self, network: Network, logger: ILogger) -> None:
        assert logger is network.log
        self._network = network
        self._errors: list[ParserError] = []

    def parse_from_file(self, model: str) -> bool:
        assert isinstance(model, str)
        try:
            onnx.load(model)
        except Exception as error:
            self._errors.append(ParserError(str(error)))
            return False
        self._network.graph = Path(model)
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class Engine:
    __slots__ = ("_budget", "content", "weights")

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.weights = bytes.fromhex(content["graph"])
        self._budget = -1

    @property
    def num_io_tensors(self) -> int:
        return len(self.content["tensors"])

    @property
    def weight_streaming_budget_v2(self) -> int:
        return self._budget

    @weight_streaming_budget_v2.setter
    def weight_streaming_budget_v2(self, budget: int) -> None:
        assert "WEIGHT_STREAMING" in self.content["flags"]
        self._budget = budget

    def get_weight_streaming_automatic_budget(self) -> int:
        return 1000

    def get_tensor_name(self, index: int) -> str:
        return str(self.content["tensors"][index][0])

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode(self._tensor(name)[1])

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self._tensor(name)[2])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name)[3])

    def create_execution_context(self) -> Context:
        return Context(self)

    def create_serialization_config(self) -> SimpleNamespace:
        return SimpleNamespace(set_flag=lambda flag: flag == SerializationFlag.INCLUDE_REFIT)

    def serialize_with_config(self, config: SimpleNamespace) -> HostMemory:
        assert config is not None
        return HostMemory(json.dumps({**self.content, "graph": self.weights.hex()}).encode())

    def _tensor(self, name: str) -> Any:
        (found,) = [each for each in self.content["tensors"] if each[0] == name]
        return found


class Context:
    __slots__ = ("addresses", "engine", "shapes", "streams")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}
        self.streams: list[int] = []

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        smallest, _, largest = self.engine.content["profile"][name]
        if not all(low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine.content["profile"] if name not in self.shapes]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self.addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        self.streams.append(stream_handle)
        session = onnxruntime.InferenceSession(self.engine.weights, providers=["CPUExecutionProvider"])
        feed = {
            name: self._at(name, shape, np.int64 if name == "timesteps" else np.float32)
            for name, shape in self.shapes.items()
        }
        (result,) = session.run(["velocity"], feed)
        self._at("velocity", result.shape, np.float32)[...] = result
        return True

    def _at(self, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = (ctypes.c_char * size).from_address(self.addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


class Runtime:
    deserialized = 0
    """Plans that were given to any runtime: a refused artifact's never is."""

    def __init__(self, logger: ILogger) -> None:
        assert logger.is_made
        self._log: Any = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
        Runtime.deserialized += 1
        try:
            return Engine(json.loads(serialized_engine))
        except ValueError:
            self._log.log(Severity.ERROR, "not a plan of this version")
            return None


class Refitter:
    def __init__(self, engine: Engine, logger: ILogger) -> None:
        assert logger.is_made
        self.engine = engine

    def get_missing_weights(self) -> list[str]:
        return []

    def refit_cuda_engine(self) -> bool:
        return True


class OnnxParserRefitter:
    def __init__(self, refitter: Refitter, logger: ILogger) -> None:
        assert logger.is_made
        self._engine = refitter.engine
        self.num_errors = 0

    def refit_from_file(self, model: str) -> bool:
        if not {"REFIT", "REFIT_IDENTICAL"} & set(self._engine.content["flags"]):
            return False
        self._engine.weights = onnx.load(model).SerializeToString()
        return True


def fake_tensorrt(version: str = "11.4.0.106") -> SimpleNamespace:
    """The module, with the flags of its version. `builders` collects what was built."""
    is_old = version.startswith("10.")
    builder_flag = IntEnum("BuilderFlag", FLAGS_10 if is_old else FLAGS_11, start=0)
    network_flag = IntEnum(
        "NetworkDefinitionCreationFlag", NETWORK_FLAGS_10 if is_old else NETWORK_FLAGS_10[1:], start=0
    )
    builds: list[tuple[Network, Config]] = []

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            assert logger.is_made
            self._log = logger

        def create_network(self, flags: int = 0) -> Network:
            return Network(flags, self._log)

        def create_builder_config(self) -> Config:
            return Config(builder_flag)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
            builds.append((network, config))
            assert network.graph is not None
            return HostMemory(_plan(network.graph, config))

    return SimpleNamespace(
        __version__=version,
        ILogger=ILogger,
        Builder=Builder,
        BuilderFlag=builder_flag,
        NetworkDefinitionCreationFlag=network_flag,
        SerializationFlag=SerializationFlag,
        OnnxParser=OnnxParser,
        OnnxParserRefitter=OnnxParserRefitter,
        Refitter=Refitter,
        Runtime=Runtime,
        builds=builds,
    )


def _plan(graph: Path, config: Config) -> bytes:
    model = onnx.load(graph)
    tensors = [
        [value.name, mode, _NUMBERS[value.type.tensor_type.elem_type], _shape(value)]
        for mode, values in ((1, model.graph.input), (2, model.graph.output))
        for value in values
    ]
    content = {
        "tensors": tensors[::-1],
        "flags": sorted(flag.name for flag in config.flags),
        "profile": config.profiles[0].shapes,
        "graph": model.SerializeToString().hex(),
    }
    return json.dumps(content).encode()


def _shape(value: onnx.ValueInfoProto) -> list[int]:
    return [-1 if each.dim_param else each.dim_value for each in value.type.tensor_type.shape.dim]

"""Builds, refits, loads and runs TensorRT engines.

Owns the calls to the library; `m2d_backends.tensorrt_plan` decides their arguments. The library is passed in:
one place imports it, and tests pass a stand-in. A plan is native code: `m2d_backends.artifact` has checked
before that it may be loaded.
"""

# B batch, F latent frames, C latent channels, H W latent size, L text tokens, D width, N scenes.

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from m2d.errors import BackendError, ExportError
from m2d_backends.onnx_graph import INPUT_NAMES, OUTPUT_NAME
from m2d_backends.tensorrt_plan import (
    CLEARED_FLAGS,
    Profile,
    TensorFacts,
    TensorRTOptions,
    Version,
    builder_flags,
    check_tensors,
    network_flags,
)

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)


class BuiltEngine(NamedTuple):
    """A serialized engine, and kernel timings for the next build."""

    plan: bytes
    timing_cache: bytes


def make_logger(trt: Any) -> Any:
    """Make a logger that passes TensorRT's messages to ours and keeps its errors for the exception."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the library is not always there
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            is_error = severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)
            if is_error:
                self.errors.append(msg)
            is_warning = severity == trt.ILogger.Severity.WARNING
            logger.log(logging.WARNING if is_error or is_warning else logging.DEBUG, "tensorrt: %s", msg)

    return Log()


def build_engine(
    trt: Any,
    graph: Path,
    *,
    profiles: Mapping[str, Profile],
    options: TensorRTOptions,
    version: Version,
    timing_cache: bytes = b"",
) -> BuiltEngine:
    """Build an engine; takes minutes for a large model.

    Args:
        trt: The module `tensorrt`, of this `version`.
        graph: ONNX file with its weights beside it; it determines the precision.
        timing_cache: The cache of an earlier build on this device; empty starts a new one.

    Raises:
        ExportError: The parser or the builder fails; the message has its reason.
    """
    log = make_logger(trt)
    builder = trt.Builder(log)
    flags = 0
    for name in network_flags(version):
        flags |= 1 << int(getattr(trt.NetworkDefinitionCreationFlag, name))
    network = builder.create_network(flags)
    _parse(trt, network, graph, log)
    config = _config(trt, builder, options, version)
    _add_profile(builder, config, profiles)
    cache = config.create_timing_cache(timing_cache)
    # The cache of another device would select that device's kernels.
    if not config.set_timing_cache(cache, False):
        logger.warning("tensorrt: the timing cache is not of this device; building without it")
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"TensorRT cannot build this graph: {reason_in(log)}")
    return BuiltEngine(plan=bytes(plan), timing_cache=bytes(cache.serialize()))


def refit_engine(trt: Any, engine: Any, graph: Path) -> None:
    """Put the weights of an ONNX graph into an engine built from one of the same structure.

    Raises:
        ExportError: Weights are missing or do not fit; the message has TensorRT's reason.
    """
    log = make_logger(trt)
    refitter = trt.Refitter(engine, log)
    parser = trt.OnnxParserRefitter(refitter, log)
    if not parser.refit_from_file(str(graph)):
        raise ExportError(f"{graph.name} does not fit the engine: {_parser_errors(parser)}")
    missing = refitter.get_missing_weights()
    if missing:
        raise ExportError(f"{graph.name}: the graph lacks the engine's weights {', '.join(missing[:3])}")
    if not refitter.refit_cuda_engine():
        raise ExportError(f"TensorRT cannot refit the engine: {reason_in(log)}")


def serialize_refitted(trt: Any, engine: Any) -> bytes:
    """Serialize an engine with its current weights; it can be refitted again."""
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    return bytes(engine.serialize_with_config(config))


def _parse(trt: Any, network: Any, graph: Path, log: Any) -> None:
    parser = trt.OnnxParser(network, log)
    # By path: the parser looks for the weights beside the graph.
    if not parser.parse_from_file(str(graph)):
        raise ExportError(f"TensorRT cannot read {graph.name}: {_parser_errors(parser)}")


def _config(trt: Any, builder: Any, options: TensorRTOptions, version: Version) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    for name in CLEARED_FLAGS:
        config.clear_flag(getattr(trt.BuilderFlag, name))
    for name in builder_flags(options, version):
        config.set_flag(getattr(trt.BuilderFlag, name))
    return config


def _add_profile(builder: Any, config: Any, profiles: Mapping[str, Profile]) -> None:
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in profiles.items():
        profile.set_shape(name, smallest, usual, largest)
    if config.add_optimization_profile(profile) != 0:
        raise ExportError("TensorRT does not take the profile for batches of one and two")


def _parser_errors(parser: Any) -> str:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    return (
        "; ".join(f"{each.node_operator()} {each.node_name()}: {each.desc()}" for each in errors[:3]) or "?"
    )


def reason_in(log: Any) -> str:
    """Return the last errors that TensorRT logged."""
    return "; ".join(log.errors[-3:]) or "it gave no reason"


class Engine:
    """An engine ready to run on one device."""

    def __init__(self, trt: Any, plan: bytes, expected: tuple[TensorFacts, ...]) -> None:
        """Deserialize a plan that has been verified and must have the expected inputs and output.

        Raises:
            BackendError: TensorRT rejects the plan, or its tensors differ.
        """
        self._log = make_logger(trt)
        # An engine needs its runtime to stay alive. Host code in engines stays disabled.
        self._runtime = trt.Runtime(self._log)
        self.native = self._runtime.deserialize_cuda_engine(plan)
        if self.native is None:
            raise BackendError(f"TensorRT cannot load the engine: {reason_in(self._log)}; export it again")
        check_tensors(engine_tensors(self.native), expected)
        self._context: Any = None

    def start(self, *, is_streaming: bool) -> None:
        """Make the engine ready to run; a refit comes before.

        Raises:
            BackendError: The activations do not fit in memory.
        """
        if is_streaming:
            # Before the context, which sizes its scratch memory by the budget.
            self.native.weight_streaming_budget_v2 = self.native.get_weight_streaming_automatic_budget()
        self._context = self.native.create_execution_context()
        if self._context is None:
            raise BackendError(f"TensorRT cannot make an execution context: {reason_in(self._log)}")

    def enqueue(self, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor], stream: int) -> None:
        """Bind contiguous tensors on the engine's device by name and enqueue one run.

        The inputs must live until the stream, which is not the default one, is done.

        Raises:
            BackendError: TensorRT rejects a shape, an address or the run.
        """
        context = self._context
        for name, tensor in inputs.items():
            self._require(context.set_input_shape(name, tuple(tensor.shape)), f"shape of {name}")
        unknown = context.infer_shapes()
        if unknown:
            raise BackendError(f"TensorRT lacks the shapes of {', '.join(unknown)}")
        for name, tensor in {**inputs, **outputs}.items():
            self._require(context.set_tensor_address(name, tensor.data_ptr()), f"address of {name}")
        self._require(context.execute_async_v3(stream), "run")

    def _require(self, is_accepted: bool, what: str) -> None:
        if not is_accepted:
            raise BackendError(f"TensorRT rejects the {what}: {reason_in(self._log)}")


class EngineCall:
    """The function that a `GraphDenoiser` calls: runs the engine."""

    def __init__(self, engine: Engine, output_shape: tuple[int, ...], device: str) -> None:
        import torch

        self._engine = engine
        self._output_shape = output_shape
        self._device = torch.device(device)
        # On the default stream TensorRT would synchronize the whole device around every run.
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]  # torch

    def __call__(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        import torch

        given = (latents_BFCHW, prompt_embeds_BLD, timesteps_BN.to(torch.int64))
        inputs = dict(
            zip(INPUT_NAMES, [tensor.to(self._device).contiguous() for tensor in given], strict=True)
        )
        velocity_BFCHW = torch.empty(
            (latents_BFCHW.shape[0], *self._output_shape), dtype=latents_BFCHW.dtype, device=self._device
        )
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        self._engine.enqueue(inputs, {OUTPUT_NAME: velocity_BFCHW}, self._stream.cuda_stream)
        current.wait_stream(self._stream)
        for tensor in (*inputs.values(), velocity_BFCHW):
            tensor.record_stream(self._stream)
        return velocity_BFCHW


def engine_tensors(engine: Any) -> tuple[TensorFacts, ...]:
    """Return the inputs and outputs of an engine, in the engine's order."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return tuple(
        TensorFacts(
            name,
            engine.get_tensor_mode(name).name,
            engine.get_tensor_dtype(name).name,
            tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    )

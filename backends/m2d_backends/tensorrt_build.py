"""Builds a TensorRT engine from an exported ONNX graph.

Owns the calls to the builder, the parser and the refitter; `m2d_backends.tensorrt_plan` decides their
arguments. The library is passed in: one place imports it, and tests pass a stand-in.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from m2d.errors import ExportError
from m2d_backends.tensorrt_plan import (
    CLEARED_FLAGS,
    Profile,
    TensorRTOptions,
    Version,
    builder_flags,
    network_flags,
)

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

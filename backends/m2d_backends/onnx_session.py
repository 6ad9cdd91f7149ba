"""A session of ONNX Runtime on the requested execution provider.

Owns providers, session options and moving tensors in and out. ONNX Runtime by itself falls back to the CPU
silently when a provider does not load; here that is an error. `m2d_backends.onnx_graph` checks graphs.
"""

# B batch, F latent frames, C latent channels, H W latent size, L text tokens, D width, N scenes.

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from m2d.backend import BackendOptions
from m2d.errors import BackendUnavailable, InputError
from m2d_backends.extra_options import ExtraOptions, parse_extra
from m2d_backends.onnx_graph import GRAPH_FILE, INPUT_NAMES, OUTPUT_NAME

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Provider = Literal["cpu", "cuda", "tensorrt"]

PROVIDERS: Mapping[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# The first with the opset 23 `Attention` operator.
OLDEST_RUNTIME = (1, 23)
# Both install the package `onnxruntime`; the later installation overwrites files of the earlier one.
DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


class OnnxOptions(ExtraOptions):
    """Options of this backend alone: by default the device's provider, and as many threads as torch uses."""

    provider: Provider | None = None
    threads: int | None = Field(default=None, ge=1)
    opset: Literal["18", "23"] = "23"


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionSettings:
    """The only execution provider of a session, its CUDA device, and its threads on the CPU."""

    provider: Provider
    device_index: int
    threads: int


def settings_from(options: BackendOptions) -> SessionSettings:
    """Return the settings of a session; raises as `parse_options`, and for a dtype that the CPU lacks."""
    import torch

    extra = parse_options(options)
    kind, _, index = options.device.partition(":")
    if kind == "cpu" and options.dtype != "float32":
        raise BackendUnavailable(
            f"backend 'onnx': ONNX Runtime has no {options.dtype} kernels for the CPU; use float32 "
            "there, or a CUDA device"
        )
    return SessionSettings(
        provider=extra.provider or cast(Provider, kind),
        device_index=int(index or 0),
        threads=extra.threads or torch.get_num_threads(),
    )


def parse_options(options: BackendOptions) -> OnnxOptions:
    """Read this backend's own options.

    Raises:
        InputError: An unknown option or value, or a provider for another device.
    """
    extra = parse_extra("onnx", OnnxOptions, options.extra)
    is_cpu = options.device.partition(":")[0] == "cpu"
    if extra.provider is not None and (extra.provider == "cpu") != is_cpu:
        raise InputError(
            f"provider: {extra.provider} does not run on device {options.device!r}; give cpu for cpu, a CUDA "
            "device for the others"
        )
    return extra


def runtime_problem() -> str | None:
    """Say why ONNX Runtime cannot be used at all, or None when it can. Imports nothing."""
    for package in ("torch", "onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed; pip install 'm2d[onnx]'"
    return distributions_problem(installed_distributions())


def installed_distributions() -> dict[str, str]:
    """Return the installed distributions of ONNX Runtime, with their versions."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def distributions_problem(found: Mapping[str, str]) -> str | None:
    """Say what is wrong with the installed distributions, or None."""
    if len(found) > 1:
        return (
            f"{' and '.join(sorted(found))} are both installed and overwrite each other's files; "
            "pip uninstall both, then install the one you want"
        )
    for name, version in found.items():
        if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST_RUNTIME:
            return f"{name} {version} is too old; install {'.'.join(map(str, OLDEST_RUNTIME))} or newer"
    return None


def provider_problem(provider: Provider, available: list[str]) -> str | None:
    """Say why the installed runtime has no such provider, or None.

    None does not promise that it runs: a runtime lists every provider it was built with, also when the
    provider's libraries fail to load.
    """
    if PROVIDERS[provider] in available:
        return None
    return (
        f"this ONNX Runtime was built without {PROVIDERS[provider]} (it has {', '.join(available)}); "
        "install onnxruntime-gpu in place of onnxruntime"
    )


class GraphSession:
    """An exported graph, loaded and ready: the function that a `GraphDenoiser` calls."""

    def __init__(self, folder: Path, settings: SessionSettings, output_shape: tuple[int, ...]) -> None:
        """Load a graph that has been checked; `output_shape` is (F, C, H, W) of the velocity.

        Raises:
            BackendUnavailable: The provider did not load, or cannot run every node.
        """
        self._settings = settings
        self._output_shape = output_shape
        self._session: Any = _session(folder / GRAPH_FILE, settings)

    def __call__(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        inputs = (latents_BFCHW, prompt_embeds_BLD, timesteps_BN)
        return self._run_on_cpu(inputs) if self._settings.provider == "cpu" else self._run_on_cuda(inputs)

    def _run_on_cpu(self, inputs: tuple[Tensor, ...]) -> Tensor:
        import torch

        feed = {
            name: tensor.contiguous().numpy(force=True)
            for name, tensor in zip(INPUT_NAMES, inputs, strict=True)
        }
        (velocity_BFCHW,) = self._session.run([OUTPUT_NAME], feed)
        return torch.from_numpy(velocity_BFCHW)

    def _run_on_cuda(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Bind torch's CUDA memory to the graph, so that nothing passes through the host."""
        import torch

        binding = self._session.io_binding()
        output_shape = (inputs[0].shape[0], *self._output_shape)
        device = torch.device("cuda", self._settings.device_index)
        # Referenced until the run is over: the binding stores addresses only.
        held = [tensor.to(device).contiguous() for tensor in inputs]
        for name, tensor in zip(INPUT_NAMES, held, strict=True):
            binding.bind_input(
                name, "cuda", device.index, _element_type(tensor), list(tensor.shape), tensor.data_ptr()
            )
        velocity_BFCHW = torch.empty(output_shape, dtype=held[0].dtype, device=device)
        binding.bind_output(
            OUTPUT_NAME,
            "cuda",
            device.index,
            _element_type(velocity_BFCHW),
            list(output_shape),
            velocity_BFCHW.data_ptr(),
        )
        # The runtime uses its own stream: wait for torch to write the inputs, then for the output.
        torch.cuda.current_stream(device).synchronize()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return velocity_BFCHW


def _element_type(tensor: Tensor) -> Any:
    """Return the NumPy type, or ONNX's number where NumPy has no such type."""
    import onnx
    import torch

    if tensor.dtype == torch.bfloat16:
        return int(onnx.TensorProto.BFLOAT16)
    return {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}[tensor.dtype]


def load_runtime() -> Any:
    """Import ONNX Runtime without what it does from 1.32 on: keep an id in the home folder, report usage."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def _session(path: Path, settings: SessionSettings) -> Any:
    onnxruntime = load_runtime()
    problem = provider_problem(settings.provider, onnxruntime.get_available_providers())
    if problem is not None:
        raise BackendUnavailable(f"backend 'onnx': {problem}")
    wanted = PROVIDERS[settings.provider]
    try:
        session = onnxruntime.InferenceSession(
            path,
            sess_options=_session_options(settings),
            providers=[wanted],
            provider_options=[
                {} if settings.provider == "cpu" else {"device_id": str(settings.device_index)}
            ],
            enable_fallback=0,
        )
    except _runtime_errors() as error:
        raise BackendUnavailable(
            f"backend 'onnx': {wanted} cannot run this graph: {_first_line(error)}"
        ) from error
    check_provider(wanted, session.get_providers())
    logger.info("onnx: %s with %s", wanted, onnxruntime.__version__)
    return session


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return ONNX Runtime's exception types, which share no base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.Fail,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        state.EPFail,
        state.InvalidArgument,
        RuntimeError,
        ValueError,
    )


def check_provider(wanted: str, got: list[str]) -> None:
    """Check that a session runs on the requested provider, whose libraries may not have loaded."""
    if not got or got[0] != wanted:
        raise BackendUnavailable(
            f"backend 'onnx': asked for {wanted}, ONNX Runtime gave {', '.join(got) or 'none'}: the "
            "provider's libraries did not load; set its log level to see why, or choose another provider"
        )


def _session_options(settings: SessionSettings) -> Any:
    onnxruntime = load_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    # The graph has one branch: a second thread pool would be idle.
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from torch, which works between two predictions: eager,
    # timed in turn with such a session, took 1.7 times as long.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Errors only: they arrive as exceptions as well.
    options.log_severity_level = 4
    if settings.provider != "cpu":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

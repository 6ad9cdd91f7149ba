"""A loaded TensorRT engine: checks its tensors, binds addresses and runs it.

Owns deserializing. A plan is native code: `m2d_backends.artifact` has checked before that it may be loaded.
"""

# B batch, F latent frames, C latent channels, H W latent size, L text tokens, D width, N scenes.

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from m2d.errors import BackendError
from m2d_backends.onnx_graph import INPUT_NAMES, OUTPUT_NAME
from m2d_backends.tensorrt_build import make_logger, reason_in
from m2d_backends.tensorrt_plan import TensorFacts, check_tensors

if TYPE_CHECKING:
    from torch import Tensor


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

"""The trials: pairs of computations that are timed against each other, with their inputs and targets.

Times nothing; that is done by `m2d.tasks.pairing`.
"""

# B batch, N scenes, L tokens, T text tokens, V video tokens, A heads, K head dim, S tokens of a segment,
# D width, E width of the timestep embedding.

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from m2d_backends.baked import BakedTransformer
from m2d_backends.compiled import CompiledDenoiser, compile_blocks, compiling
from m2d_backends.eager import EagerDenoiser
from m2d_backends.onnx_export import export_graph
from m2d_backends.onnx_session import GraphSession, SessionSettings
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.baselines.attention import PlannedAttention, dense_attention, flex_attention_of
from benchmarks.baselines.official import OfficialTransformer
from benchmarks.baselines.stock import stock_model, stock_rotary
from benchmarks.cases import SHARPNESS, Case, Inputs, make_inputs, make_transformer
from m2d.layout import SceneLayout
from m2d.model.block_plan import scenes_plan
from m2d.model.context_cache import keep_context
from m2d.model.execution import choose_execution
from m2d.model.kernels import choose_kernel
from m2d.model.scene_model import SceneModel

HEAD_DIM = 64
Result = Tensor | Sequence[Tensor]
Run = Callable[[], Result]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Two computations to compare.

    Attributes:
        name: The comparison in words.
        ours: The computation of m2d.
        baseline: The computation to compare with.
        target: Largest ratio allowed; None for no target.
        tolerance: Largest difference of the results, relative to the largest; None if they differ by design.
    """

    name: str
    ours: Run
    baseline: Run
    target: float | None
    tolerance: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A case with its models on a device."""

    case: Case
    device: str
    dtype: torch.dtype
    kernel: SDPBackend | None
    transformer: SceneModel
    official: OfficialTransformer

    @classmethod
    def make(cls, case: Case, device: str, dtype: torch.dtype) -> Bench:
        """Make both models from the same random weights; ours with the kernel that the eager backend pins."""
        kernel = choose_kernel(torch.device(device), dtype, HEAD_DIM)
        transformer = make_transformer(case, device=device, dtype=dtype)
        transformer.pin_attention_kernel(kernel)
        official = OfficialTransformer(stock_model(transformer), case.num_scenes)
        return cls(
            case=case,
            device=device,
            dtype=dtype,
            kernel=kernel,
            transformer=transformer,
            official=official,
        )

    @property
    def tolerance(self) -> float:
        """Return the tolerance: float32 sums in another order, half precision rounds every activation.

        Of the 4 eps for bfloat16, a CPU shows less than one, which is the last place of the largest results.
        """
        return 1e-5 if self.dtype == torch.float32 else 4 * torch.finfo(self.dtype).eps

    def inputs(self, target: int | None = None) -> Inputs:
        """Draw random inputs."""
        return make_inputs(self.case, device=self.device, dtype=self.dtype, target=target)

    def fixed(self, target: float | None, *, compiled: bool = False) -> Trial:
        """Compare a step that denoises all scenes with the official scheme."""
        inputs, layout = self.inputs(), self.case.layout
        ours: Run = partial(self._eager, inputs, layout)
        if compiled:
            ours = partial(self._compiled(layout).predict, *inputs)
        latents, prompts, timesteps_BN = inputs
        return Trial(
            name=f"{'compiled' if compiled else 'eager'} / official, all scenes, {self.case.name}",
            ours=ours,
            baseline=lambda: self.official(latents, prompts, timesteps_BN[:, 0]),
            target=target,
            tolerance=self.tolerance,
        )

    def exported(self, target: float | None) -> Trial:
        """Compare a step of the graph that `m2d export --backend onnx` writes with eager."""
        inputs, layout = self.inputs(), self.case.layout
        frames, channels, height, width = inputs.latents_BFCHW.shape[1:]
        baked = BakedTransformer(self.transformer, layout, latent_shape=(frames, channels, height, width))
        settings = SessionSettings(provider="cpu", device_index=0, threads=torch.get_num_threads())
        with tempfile.TemporaryDirectory() as folder:
            export_graph(baked, Path(folder), has_rotary_operator=True)
            # The session reads the graph once, before its folder is deleted.
            session = GraphSession(Path(folder), settings, baked.latent_shape)
        return Trial(
            name=f"onnx / eager, all scenes, {self.case.name}",
            ours=lambda: session(*inputs),
            baseline=lambda: self._eager(inputs, layout),
            target=target,
            tolerance=self.tolerance,
        )

    def _eager(self, inputs: Inputs, layout: SceneLayout, **settings: Any) -> Tensor:
        """Predict as the eager backend does."""
        execution = choose_execution(layout)
        velocity_BFCHW: Tensor = self.transformer(*inputs, layout=layout, execution=execution, **settings)
        return velocity_BFCHW

    def _compiled(self, layout: SceneLayout) -> CompiledDenoiser:
        """Return the same model as `--backend compile` runs it."""
        model = self._compiled_model()
        return CompiledDenoiser(EagerDenoiser(model, layout), model, scope="blocks")

    def _compiled_model(self) -> SceneModel:
        model = make_transformer(self.case, device=self.device, dtype=self.dtype)
        model.pin_attention_kernel(self.kernel)
        compile_blocks(model)
        return model

    def block(
        self,
        target: float | None = None,
        *,
        compiled: bool = False,
        official_kernel: SDPBackend | None = None,
    ) -> Trial:
        """Compare one middle block with the official scheme: all rows, unlike the last block.

        Args:
            target: Largest ratio allowed.
            compiled: Run ours as `--backend compile` does; else eager.
            official_kernel: Attention kernel of the official scheme; None lets torch choose.
        """
        case, layout, width = self.case, self.case.layout, self.case.num_heads * HEAD_DIM
        text_BTD, video_BVD, temb_BNE = self._random(
            (case.batch_size, layout.num_text_tokens, width),
            (case.batch_size, layout.num_video_tokens, width),
            (case.batch_size, case.num_scenes, case.time_width),
        )
        # One timestep for all scenes, as in the official scheme without context.
        temb_BNE = temb_BNE[:, :1].expand_as(temb_BNE).contiguous()
        latents_BFCHW = self.inputs().latents_BFCHW
        tables = self.transformer.position_tables(
            layout, latents_BFCHW.shape[1:], device=latents_BFCHW.device
        )
        cos_sin = stock_rotary(self.official.stock, latents_BFCHW)
        model = self._compiled_model() if compiled else self.transformer
        ours, official, plan = model.transformer_blocks[0], self.official.blocks[0], scenes_plan(layout).plan
        execution = "joined" if compiled else choose_execution(layout)

        def run_ours() -> Result:
            with compiling() if compiled else nullcontext():
                # After the activation, which is computed once for all blocks.
                temb_after_BNE = nn.functional.silu(temb_BNE)
                return ours(text_BTD, video_BVD, temb_after_BNE, tables.rotary_VR2, plan, None, execution)  # type: ignore[no-any-return]

        def run_official() -> Result:
            with _kernel_of(official_kernel):
                return official(text_BTD, video_BVD, temb_BNE[:, 0], cos_sin)  # type: ignore[no-any-return]

        by = "" if official_kernel is None else f" by {official_kernel.name}"
        return Trial(
            name=f"{'compiled' if compiled else 'eager'} / official{by}, one block, {case.name}",
            ours=run_ours,
            baseline=run_official,
            target=target,
            tolerance=self.tolerance,
        )

    def _random(self, *shapes: tuple[int, ...]) -> list[Tensor]:
        """Draw on the device, because a CPU takes many seconds at full size."""
        stream = torch.Generator(device=self.device).manual_seed(1)
        return [
            torch.randn(shape, generator=stream, device=self.device, dtype=self.dtype) for shape in shapes
        ]

    def extension(self, target: float | None) -> Trial:
        """Compare a step that denoises the last scene, with the others as clean context."""
        last, layout = self.case.num_scenes - 1, self.case.layout
        inputs, frames = self.inputs(last), self.case.layout.frame_span(last).as_slice
        return Trial(
            name=f"extension with target_only / official, {self.case.name}",
            ours=lambda: self._eager(inputs, layout, targets=(last,)),
            baseline=lambda: self.official(*inputs)[:, frames],
            target=target,
            tolerance=self.tolerance,
        )

    def kept_context(self, target: float | None) -> Trial:
        """Compare kept keys and values of the context with computing them at every step; causal mask."""
        last, layout = self.case.num_scenes - 1, self.case.layout_with("causal")
        inputs = self.inputs(last)
        with torch.inference_mode():
            kept = keep_context(
                self.transformer,
                inputs[0],
                inputs[1],
                layout=layout,
                targets=(last,),
                execution=choose_execution(layout),
            )
        return Trial(
            name=f"extension with kept context / without, causal mask, {self.case.name}",
            ours=lambda: self._eager(inputs, layout, context=kept),
            baseline=lambda: self._eager(inputs, layout, targets=(last,)),
            target=target,
            tolerance=self.tolerance,
        )

    def without_mask(self) -> Trial:
        """Compare with stock diffusers without a mask: another function, for scale."""
        inputs, layout, stock = self.inputs(), self.case.layout, stock_model(self.transformer)
        latents, prompts, timesteps_BN = inputs
        rotary = stock_rotary(stock, latents)
        return Trial(
            name=f"eager / stock diffusers without a mask, {self.case.name}",
            ours=lambda: self._eager(inputs, layout),
            baseline=lambda: stock(latents, prompts, timesteps_BN[:, 0], image_rotary_emb=rotary).sample,
            target=None,
            tolerance=None,
        )

    def attention(
        self, baseline: Literal["dense", "flex"], target: float | None, *, kernel: SDPBackend | None = None
    ) -> Trial:
        """Compare the plan's attention calls with a `dense` mask, or with `flex` and a block mask.

        Args:
            baseline: The baseline.
            target: Largest ratio allowed.
            kernel: Kernel of the baseline; None lets torch choose.
        """
        layout, (q, k, v) = self.case.layout, self._attention_inputs()
        other = (dense_attention if baseline == "dense" else flex_attention_of)(layout, self.device)
        planned = PlannedAttention(layout, q, k, v, kernel=self.kernel)

        def run_baseline() -> Result:
            with _kernel_of(kernel):
                return other(q, k, v).transpose(1, 2)

        by = "" if kernel is None else f" by {kernel.name}"
        return Trial(
            name=f"attention: plan / {baseline}{by}, {self.case.name}",
            ours=planned.all_segments,
            baseline=run_baseline,
            target=target,
            tolerance=self.tolerance,
        )

    def text_cost(self, target: float | None) -> Trial:
        """Compare the plan with attention among videos alone, which computes less."""
        planned = PlannedAttention(self.case.layout, *self._attention_inputs(), kernel=self.kernel)
        return Trial(
            name=f"attention: plan / video to video alone, {self.case.name}",
            ours=planned.all_segments,
            baseline=planned.video_alone,
            target=target,
            tolerance=None,
        )

    def kernels(self, ours: SDPBackend, baseline: SDPBackend) -> Trial:
        """Compare two of torch's kernels in the plan's attention."""
        inputs = self._attention_inputs()
        first, second = (
            PlannedAttention(self.case.layout, *inputs, kernel=kernel) for kernel in (ours, baseline)
        )
        return Trial(
            name=f"attention: {ours.name} / {baseline.name}, {self.case.name}",
            ours=first.all_segments,
            baseline=second.all_segments,
            target=None,
            tolerance=self.tolerance,
        )

    def _attention_inputs(self) -> list[Tensor]:
        """Draw queries, keys and values, (B, A, L, K), as views like those of projections."""
        shape = (self.case.batch_size, self.case.layout.num_tokens, self.case.num_heads, HEAD_DIM)
        q_BLAK, k_BLAK, v_BLAK = self._random(shape, shape, shape)
        return [x_BLAK.transpose(1, 2) for x_BLAK in (q_BLAK.mul_(SHARPNESS), k_BLAK, v_BLAK)]


def _kernel_of(kernel: SDPBackend | None) -> AbstractContextManager[object]:
    return nullcontext() if kernel is None else sdpa_kernel(kernel)


def largest_difference(trial: Trial) -> float | None:
    """Run both once; return their largest difference relative to the largest result, or None."""
    with torch.inference_mode(), warnings.catch_warnings():
        ours, baseline = _joined(trial.ours()), _joined(trial.baseline())
        if trial.tolerance is None:
            return None
        return float((ours - baseline).float().abs().max() / baseline.abs().max())


def _joined(result: Result) -> Tensor:
    """Join the parts of a result along the tokens."""
    return result if isinstance(result, Tensor) else torch.cat(list(result), dim=1)

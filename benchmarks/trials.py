"""The comparisons: which two computations a trial times, on what, and what it has to reach.

Owns the list of trials; timing is `m2d.tasks.pairing`'s.
"""

# B batch, N scenes, L tokens, A heads, K head dim.

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from m2d_backends.compiled import CompiledDenoiser, compile_blocks
from m2d_backends.eager import EagerDenoiser
from torch import Tensor

from benchmarks.baselines.attention import dense_attention, flex_attention_of, plan_attention
from benchmarks.baselines.official import OfficialTransformer
from benchmarks.baselines.stock import stock_model, stock_rotary
from benchmarks.cases import Case, Inputs, make_inputs, make_transformer
from m2d.layout import SceneLayout
from m2d.model.context_cache import keep_context
from m2d.model.transformer import SceneTransformer

Run = Callable[[], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Two ways to compute something.

    Attributes:
        name: What is compared.
        ours: What is judged.
        baseline: What it is judged by.
        target: Largest ratio allowed; None where nothing is asked.
        tolerance: Largest difference of the results, relative to the largest; None where they are to differ.
    """

    name: str
    ours: Run
    baseline: Run
    target: float | None
    tolerance: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """A case with its models, on a device."""

    case: Case
    device: str
    dtype: torch.dtype
    transformer: SceneTransformer
    official: OfficialTransformer

    @classmethod
    def make(cls, case: Case, device: str, dtype: torch.dtype) -> Bench:
        """Make both from one set of random weights."""
        transformer = make_transformer(case, device=device, dtype=dtype)
        official = OfficialTransformer(stock_model(transformer), case.num_scenes)
        return cls(case=case, device=device, dtype=dtype, transformer=transformer, official=official)

    @property
    def tolerance(self) -> float:
        """Float32 sums in another order; half precision rounds every activation."""
        return 1e-5 if self.dtype == torch.float32 else 4 * torch.finfo(self.dtype).eps

    def inputs(self, target: int | None = None) -> Inputs:
        """Fresh random inputs."""
        return make_inputs(self.case, device=self.device, dtype=self.dtype, target=target)

    def fixed(self, target: float | None, *, compiled: bool = False) -> Trial:
        """All scenes denoised."""
        inputs, layout = self.inputs(), self.case.layout
        ours: Run = partial(self.transformer.__call__, *inputs, layout=layout)
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

    def _compiled(self, layout: SceneLayout) -> CompiledDenoiser:
        """The same model as `--backend compile` runs it."""
        model = make_transformer(self.case, device=self.device, dtype=self.dtype)
        compile_blocks(model)
        return CompiledDenoiser(EagerDenoiser(model, layout), model, scope="blocks")

    def extension(self, target: float | None) -> Trial:
        """The last scene denoised, the others clean context."""
        last, layout = self.case.num_scenes - 1, self.case.layout
        inputs, frames = self.inputs(last), self.case.layout.frame_span(last).as_slice
        return Trial(
            name=f"extension with target_only / official, {self.case.name}",
            ours=lambda: self.transformer(*inputs, layout=layout, targets=(last,)),
            baseline=lambda: self.official(*inputs)[:, frames],
            target=target,
            tolerance=self.tolerance,
        )

    def kept_context(self, target: float | None) -> Trial:
        """The same with the causal mask: context's keys and values kept, or computed at every step."""
        last, layout = self.case.num_scenes - 1, self.case.layout_with("causal")
        inputs = self.inputs(last)
        kept = keep_context(self.transformer, inputs[0], inputs[1], layout=layout, targets=(last,))
        return Trial(
            name=f"extension with kept context / without, causal mask, {self.case.name}",
            ours=lambda: self.transformer(*inputs, layout=layout, context=kept),
            baseline=lambda: self.transformer(*inputs, layout=layout, targets=(last,)),
            target=target,
            tolerance=self.tolerance,
        )

    def without_mask(self) -> Trial:
        """Against stock diffusers, in which everything sees everything: another function, as a scale."""
        inputs, layout, stock = self.inputs(), self.case.layout, stock_model(self.transformer)
        latents, prompts, timesteps_BN = inputs
        rotary = stock_rotary(stock, latents)
        return Trial(
            name=f"eager / stock diffusers without a mask, {self.case.name}",
            ours=lambda: self.transformer(*inputs, layout=layout),
            baseline=lambda: stock(latents, prompts, timesteps_BN[:, 0], image_rotary_emb=rotary).sample,
            target=None,
            tolerance=None,
        )

    def attention(self, baseline: str, target: float | None) -> Trial:
        """Attention alone: the plan's calls against a `dense` mask or `flex` with a block mask."""
        layout = self.case.layout
        shape = (self.case.batch_size, self.case.num_heads, layout.num_tokens, 64)
        stream = torch.Generator().manual_seed(1)
        q, k, v = (torch.randn(shape, generator=stream).to(self.device, self.dtype) for _ in range(3))
        make = dense_attention if baseline == "dense" else flex_attention_of
        other = make(layout, self.device)
        return Trial(
            name=f"attention: plan / {baseline}, {self.case.name}",
            ours=lambda: plan_attention(layout, q, k, v),
            baseline=lambda: other(q, k, v),
            target=target,
            tolerance=self.tolerance,
        )


def largest_difference(trial: Trial) -> float:
    """Run both once; the largest difference, relative to the largest result."""
    with torch.inference_mode(), warnings.catch_warnings():
        ours, baseline = trial.ours().float(), trial.baseline().float()
    return float((ours - baseline).abs().max() / baseline.abs().max())

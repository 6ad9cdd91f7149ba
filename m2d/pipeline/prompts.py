"""Prompts to embeddings, by the model's text encoder, which is loaded for that and freed afterwards."""

# B batch (1), L text tokens, D width

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from m2d.families.loading import load_text
from m2d.model.finite import check_finite
from m2d.pipeline.decoding import free_cached
from m2d.pipeline.machine import computing_with
from m2d.pipeline.observer import Observer
from m2d.pipeline.planning import check_model
from m2d.pipeline.window import is_guided, memory_of, run_dtype
from m2d.placement.offload import waits_on_cpu
from m2d.progress import Clock
from m2d.recipe.plan import RunPlan, WindowPlan

if TYPE_CHECKING:
    from m2d.families.family import TextEncoder


class PromptEncoder:
    """The embeddings of a run's prompts.

    Text encoders are larger than what comes after them, so each is freed as soon as its prompts are encoded,
    unless the pipeline stays loaded.
    """

    def __init__(self, clock: Clock, *, stays_loaded: bool) -> None:
        self._clock = clock
        self._stays_loaded = stays_loaded
        self._encoders: dict[torch.dtype, TextEncoder] = {}
        self._embeds_BLD: dict[tuple[torch.dtype, int | None, str], Tensor] = {}

    def encode(self, windows: Sequence[tuple[RunPlan, WindowPlan]], observer: Observer) -> None:
        """Encode the prompts of windows that are not encoded yet; `embeds` returns them."""
        source, device, memory = windows[0][0].source, windows[0][0].device, memory_of(windows[0][0])
        wanted = dict.fromkeys(
            (run_dtype(plan), plan.num_threads, text) for plan, part in windows for text in _texts(plan, part)
        )
        missing = [each for each in wanted if each not in self._embeds_BLD]
        for dtype in dict.fromkeys(dtype for dtype, _, _ in missing):
            prompts = [(num_threads, text) for each, num_threads, text in missing if each == dtype]
            if dtype not in self._encoders:
                check_model(source, scheduler=windows[0][0].sampling.scheduler)
                with self._clock.stage("load text encoder"):
                    first = "cpu" if waits_on_cpu(memory) else device
                    self._encoders[dtype] = load_text(source, device=first, dtype=dtype)
                    if memory != "full":
                        self._encoders[dtype].offload(memory, device)
            encoder = self._encoders[dtype]
            if memory != "full":
                encoder.move(device)
            with self._clock.stage("encode prompts", total=len(prompts)) as progress:
                # One at a time: with others in its batch, a prompt's embedding may differ in the last bits.
                for num_threads, prompt in prompts:
                    observer.check_stop()
                    with computing_with(num_threads):
                        embeds_BLD = encoder.encode([prompt])
                    check_finite(embeds_BLD, what=f"the text encoder's output for {prompt[:40]!r}")
                    self._embeds_BLD[dtype, num_threads, prompt] = embeds_BLD
                    progress.advance()
            if not self._stays_loaded:
                self._encoders.pop(dtype).release()
            elif memory != "full":
                encoder.move("cpu")
            free_cached()

    def embeds(self, plan: RunPlan, prompts: Sequence[str]) -> Tensor:
        """Return the embeddings of several prompts, one after the other along L."""
        run = run_dtype(plan), plan.num_threads
        return torch.cat([self._embeds_BLD[*run, prompt] for prompt in prompts], dim=1)

    def forget(self) -> None:
        """Drop the embeddings of the run that ended."""
        self._embeds_BLD = {}


def _texts(plan: RunPlan, part: WindowPlan) -> list[str]:
    scenes = [plan.scenes[scene] for scene in part.window.scenes]
    negatives = [scene.negative_prompt for scene in scenes] if is_guided(plan, part) else []
    return [*(scene.prompt for scene in scenes), *negatives]

"""Computes clean context scenes once and keeps their keys and values in every block for all steps.

Owns which scenes may be kept, and the plans of a transformer that runs without them. A scene may be kept if
it sees no target, directly or through other scenes: with `causal` and `window:k` that is every context scene
before the targets. Its tokens are the same in every step, and so are the keys and values that other scenes
attend to; leaving out its rows does not change the targets' output.
"""

# B batch, N scenes or heads, F latent frames, C latent channels, H W latent size, L text tokens,
# S tokens of a segment, T text tokens, V video tokens, D width, E width of the timestep embedding,
# K head dim.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn

from m2d.layout import SceneLayout
from m2d.model.block_plan import BlockContext, ScenesPlan, scenes_plan
from m2d.model.execution import Execution
from m2d.model.scene_lora import SceneLoras


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSplit:
    """Which scenes are computed once and which in every step; no target depends on the others.

    Attributes:
        kept: Scenes computed once, ascending.
        run: Scenes computed in every step, ascending: the targets, and context that depends on them.
    """

    kept: tuple[int, ...]
    run: tuple[int, ...]


@lru_cache(maxsize=64)
def split_context(layout: SceneLayout, targets: tuple[int, ...]) -> ContextSplit:
    """Divide a story's scenes for denoising `targets`.

    Raises:
        ValueError: There is no target, or one is not in the story.
    """
    scenes = range(layout.num_scenes)
    if not targets or not set(targets) <= set(scenes):
        raise ValueError(f"targets {list(targets)}: give one or more of 0 to {layout.num_scenes - 1}")
    sees = {scene: _seen_by(layout, scene) for scene in scenes}
    depends = _closure(set(targets), {scene: {s for s in scenes if scene in sees[s]} for scene in scenes})
    needed = _closure(set(targets), sees)
    return ContextSplit(kept=tuple(sorted(needed - depends)), run=tuple(sorted(needed & depends)))


@dataclass(kw_only=True, slots=True)
class KeptBlock:
    """Keys and values of the kept scenes in one block, a pair per segment that running scenes see."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Append the kept segments to those of the running scenes."""
        return (*keys, *self.keys), (*values, *self.values)


@dataclass(kw_only=True, slots=True)
class RecordingBlock:
    """Records keys and values of some segments while a block runs.

    Attributes:
        wanted: Indices of these segments among those of the running scenes.
        kept: The recorded keys and values; None before the block has run.
    """

    wanted: tuple[int, ...]
    kept: KeptBlock | None = None

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Record, and return all segments unchanged."""
        # Copies, because a segment is a view that keeps the whole story's keys in memory.
        self.kept = KeptBlock(
            keys=tuple(keys[place].clone() for place in self.wanted),
            values=tuple(values[place].clone() for place in self.wanted),
        )
        return keys, values


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCache:
    """The `context` argument of `SceneModel`: the keys and values of scenes that need not run again.

    Attributes:
        plan: The scenes that run, and their plans.
        blocks: Kept keys and values, or a recorder, of every block.
    """

    plan: ScenesPlan
    blocks: tuple[BlockContext, ...]

    @property
    def batch_size(self) -> int | None:
        """Batch size of the kept keys and values; None when nothing is kept."""
        kept = self.blocks[0].keys if isinstance(self.blocks[0], KeptBlock) else ()
        return kept[0].shape[0] if kept else None

    @property
    def size_bytes(self) -> int:
        """Memory of the kept keys and values."""
        kept = [block for block in self.blocks if isinstance(block, KeptBlock)]
        return sum(part.nbytes for block in kept for part in (*block.keys, *block.values))


class ContextTransformer(Protocol):
    """The parts of a transformer that `keep_context` uses."""

    transformer_blocks: nn.ModuleList
    __call__: Callable[..., Tensor]


def keep_context(
    transformer: ContextTransformer,
    latents_BFCHW: Tensor,
    prompt_embeds_BLD: Tensor,
    *,
    layout: SceneLayout,
    targets: tuple[int, ...],
    execution: Execution = "joined",
    loras: SceneLoras = (),
) -> ContextCache | None:
    """Run the context scenes that no step changes, and record their keys and values.

    Args:
        transformer: The model.
        latents_BFCHW: All scenes' latents; only those of kept scenes are read.
        prompt_embeds_BLD: All scenes' prompts, in the batch size of the steps: with guidance either both
            branches together, or a cache for each.
        layout: The story.
        targets: Scenes to denoise, ascending.
        execution: How the blocks run.
        loras: LoRAs of each scene of the story.

    Returns:
        The transformer's `context` argument; None if every scene has to run in every step.
    """
    split = split_context(layout, targets)
    if len(split.run) == layout.num_scenes:
        return None
    plan = scenes_plan(layout, split.run, targets, loras)
    num_blocks = len(transformer.transformer_blocks)
    if not plan.others:
        return ContextCache(plan=plan, blocks=(KeptBlock(keys=(), values=()),) * num_blocks)
    before = scenes_plan(layout, split.kept, loras=loras)
    own = [index for index, segment in enumerate(layout.segments) if segment.scene in split.kept]
    wanted = tuple(own.index(segment) for segment in plan.others)
    recording = [RecordingBlock(wanted=wanted) for _ in range(num_blocks)]
    timesteps_BN = torch.zeros(
        len(latents_BFCHW), layout.num_scenes, dtype=torch.long, device=latents_BFCHW.device
    )
    transformer(
        latents_BFCHW,
        prompt_embeds_BLD,
        timesteps_BN,
        layout=layout,
        context=ContextCache(plan=before, blocks=tuple(recording)),
        execution=execution,
    )
    return ContextCache(plan=plan, blocks=tuple(block.kept for block in recording if block.kept is not None))


def _seen_by(layout: SceneLayout, scene: int) -> set[int]:
    """Return the scenes that any segment of `scene` sees."""
    segments = layout.segments
    own = [index for index, segment in enumerate(segments) if segment.scene == scene]
    return {segments[int(key)].scene for index in own for key in layout.may_attend[index].nonzero()[0]}


def _closure(scenes: set[int], leads_to: dict[int, set[int]]) -> set[int]:
    reached = set(scenes)
    while more := {next_ for scene in reached for next_ in leads_to[scene]} - reached:
        reached |= more
    return reached

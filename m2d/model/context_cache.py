"""Clean context scenes computed once: their keys and values in every block, for all steps of a film.

Owns which scenes may be kept so, and the plans of a transformer that runs without them. A scene may be kept
when nothing it sees, directly or through others, is denoised: with `causal` and `window:k` that is every
context scene before the targets. Such a scene's tokens are the same in every step, and so are the keys and
values that later scenes read of it; leaving its own rows out changes nothing in the targets' output.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextSplit:
    """Which scenes are computed when; scenes in neither are seen by no target and never computed.

    Attributes:
        kept: Computed once, ascending.
        run: Computed in every step, ascending: the targets, and context that depends on them.
    """

    kept: tuple[int, ...]
    run: tuple[int, ...]


@lru_cache(maxsize=64)
def split_context(layout: SceneLayout, targets: tuple[int, ...]) -> ContextSplit:
    """Divide a story's scenes for the denoising of `targets`.

    Raises:
        ValueError: No target, or one that is not in the story.
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
    """Keys and values of the kept scenes in one block, a pair per segment that later scenes see."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Put the kept segments behind the running scenes' own."""
        return (*keys, *self.keys), (*values, *self.values)


@dataclass(kw_only=True, slots=True)
class RecordingBlock:
    """Keeps some of the segments that pass by.

    Attributes:
        wanted: Their places among the running scenes' segments.
    """

    wanted: tuple[int, ...]
    kept: KeptBlock | None = None

    def join(
        self, keys: Sequence[Tensor], values: Sequence[Tensor]
    ) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Keep, and change nothing."""
        # Copies: a segment is a view that would hold the whole story's keys in memory.
        self.kept = KeptBlock(
            keys=tuple(keys[place].clone() for place in self.wanted),
            values=tuple(values[place].clone() for place in self.wanted),
        )
        return keys, values


@dataclass(frozen=True, kw_only=True, slots=True)
class ContextCache:
    """What `SceneModel.forward` takes as `context`: some scenes run, the others' work is done.

    Attributes:
        plan: The scenes that run, and their plans.
        blocks: One per block.
    """

    plan: ScenesPlan
    blocks: tuple[BlockContext, ...]

    @property
    def batch_size(self) -> int | None:
        """Of the prompts that it was kept for; None when nothing is kept."""
        kept = self.blocks[0].keys if isinstance(self.blocks[0], KeptBlock) else ()
        return kept[0].shape[0] if kept else None

    @property
    def size_bytes(self) -> int:
        """Memory of what is kept."""
        kept = [block for block in self.blocks if isinstance(block, KeptBlock)]
        return sum(part.nbytes for block in kept for part in (*block.keys, *block.values))


class ContextTransformer(Protocol):
    """What `keep_context` needs of a transformer."""

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
) -> ContextCache | None:
    """Run the context scenes that no step changes, once.

    Args:
        transformer: The model.
        latents_BFCHW: All scenes' latents; only those of kept scenes are read.
        prompt_embeds_BLD: All scenes' prompts, with the batch of the steps to come: with guidance, both
            branches' together or a cache for each.
        layout: The story.
        targets: The scenes that are denoised, ascending.
        execution: How the blocks run.

    Returns:
        The cache for `forward(..., context=)`; None when every scene has to run in every step.
    """
    split = split_context(layout, targets)
    if len(split.run) == layout.num_scenes:
        return None
    plan = scenes_plan(layout, split.run, targets)
    num_blocks = len(transformer.transformer_blocks)
    if not plan.others:
        return ContextCache(plan=plan, blocks=(KeptBlock(keys=(), values=()),) * num_blocks)
    before = scenes_plan(layout, split.kept)
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
    """The scenes of which any segment of `scene` sees a segment."""
    segments = layout.segments
    own = [index for index, segment in enumerate(segments) if segment.scene == scene]
    return {segments[int(key)].scene for index in own for key in layout.may_attend[index].nonzero()[0]}


def _closure(scenes: set[int], leads_to: dict[int, set[int]]) -> set[int]:
    reached = set(scenes)
    while more := {next_ for scene in reached for next_ in leads_to[scene]} - reached:
        reached |= more
    return reached

"""The diffusion transformer as every room but its own family sees it."""

# B batch, N scenes, F latent frames, C latent channels, H W latent size, L text tokens, V video tokens,
# D width, E width of the timestep embedding, R rotated pairs per head

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from m2d.layout import SceneLayout
from m2d.model.attention_variants import AttentionVariant
from m2d.model.block_plan import BlockContext, ScenesPlan
from m2d.model.context_cache import ContextCache
from m2d.model.execution import Execution
from m2d.model.scene_lora import SceneLoras
from m2d.model.timestep_tables import TimestepRows


class PositionTables(NamedTuple):
    """Positions of the tokens, in the forms that the model was trained with; the other ones are None.

    Attributes:
        rotary_VR2: Rotates queries and keys of the video tokens.
        positions_VD: Added to the video tokens.
        positions_LD: Added to the text tokens.
    """

    rotary_VR2: Tensor | None = None
    positions_VD: Tensor | None = None
    positions_LD: Tensor | None = None


class SceneModel(nn.Module):
    """A transformer that predicts the velocity of a story; a family subclasses it and defines every method.

    Attributes:
        config: The content of its `config.json`.
        transformer_blocks: Its blocks, from first to last.
        timestep_rows: The timesteps of its tables, when these are in place of the layers that take the
            timestep; None otherwise.
        lora_modules: Names of the layers that adapters reach, by part of a block.
        scene_lora_layers: Ends of the names of layers that can have LoRAs of single scenes.
    """

    lora_modules: ClassVar[Mapping[str, tuple[str, ...]]]
    scene_lora_layers: ClassVar[tuple[str, ...]] = ()
    config: Any
    transformer_blocks: nn.ModuleList
    timestep_rows: TimestepRows | None

    if TYPE_CHECKING:
        # A family's own modules and diffusers' methods; torch's annotation is a union that cannot be called.
        def __getattr__(self, name: str) -> Any: ...

    @property
    def device(self) -> torch.device:
        """Device of its weights; `meta` when they were released."""
        raise NotImplementedError

    @property
    def dtype(self) -> torch.dtype:
        """Data type of its weights."""
        raise NotImplementedError

    def forward(
        self,
        latents_BFCHW: Tensor,
        prompt_embeds_BLD: Tensor,
        timesteps_BN: Tensor,
        *,
        layout: SceneLayout,
        targets: tuple[int, ...] | None = None,
        context: ContextCache | None = None,
        execution: Execution = "joined",
        loras: SceneLoras = (),
    ) -> Tensor:
        """Predict velocity_BFCHW of the target scenes, one after the other.

        Args:
            latents_BFCHW: All scenes' latents, one scene after the other along F; for a model that takes
                images, their latents follow along C.
            prompt_embeds_BLD: All scenes' prompts, one after the other along L.
            timesteps_BN: Each scene's timestep, 0 to 999; clean context scenes have 0.
            layout: Lengths of the scenes and who may attend to whom.
            targets: Ascending scene numbers; None for all.
            context: From `m2d.model.context_cache.keep_context`, in place of `targets`.
            execution: How the blocks run; see `m2d.model.execution`.
            loras: LoRAs of each scene's own, of those that `add_scene_loras` added; not used with `context`.

        Raises:
            ValueError: Shapes that are not the layout's, or targets that are not in it.
        """
        raise NotImplementedError

    def velocity(
        self,
        latents_BFCHW: Tensor,
        prompt_embeds_BLD: Tensor,
        timesteps_BN: Tensor,
        tables: PositionTables,
        plan: ScenesPlan,
        *,
        context: Sequence[BlockContext | None] | None = None,
        execution: Execution = "joined",
    ) -> Tensor:
        """Predict as `forward` does, from tables and a plan made beforehand; checks nothing."""
        raise NotImplementedError

    def position_tables(
        self, layout: SceneLayout, latent_shape: Sequence[int], *, device: torch.device
    ) -> PositionTables:
        """Make the tables of a story's video tokens, which depend on its layout and size alone.

        Args:
            latent_shape: (F, C, H, W) of all scenes together.
        """
        raise NotImplementedError

    def embed_timesteps(self, timesteps_BN: Tensor, *, dtype: torch.dtype) -> Tensor:
        """Embed every scene's timestep: temb_BNE, after its activation."""
        raise NotImplementedError

    def pin_attention_kernel(self, kernel: SDPBackend | None) -> None:
        """Run every block's attention by one of torch's kernels, or fail; None leaves the choice to torch."""
        raise NotImplementedError

    def rotate_by(self, rotate: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        """Rotate queries and keys by a function like `apply_rotary`; None restores that one."""
        raise NotImplementedError

    def vary_attention(self, variant: AttentionVariant | None) -> None:
        """Run the blocks' attention by a variant, which `per_scene` execution cannot; None restores plans."""
        raise NotImplementedError

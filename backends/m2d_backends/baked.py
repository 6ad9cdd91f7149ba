"""The transformer with one layout baked in: the module that every exported graph is traced from.

Owns turning a story's tables and plan into constants. The forward pass is the transformer's own `velocity`;
each exporting backend serializes the graph.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent size, L text tokens, V video tokens,
# D width, R rotated pairs per head.

from __future__ import annotations

import torch
from torch import Tensor, nn

from m2d.backend_checks import chosen_targets
from m2d.errors import LayoutMismatch
from m2d.layout import SceneLayout
from m2d.model.block_plan import scenes_plan
from m2d.model.context_cache import ContextCache
from m2d.model.scene_lora import SceneLoras
from m2d.model.scene_model import PositionTables, SceneModel


class BakedTransformer(nn.Module):
    """A transformer that runs one layout at one size: tensors in, a tensor out, everything else constant.

    Rotary table and sin-cos positions are buffers; the attention plan, the spans of the scenes and their
    modulation's broadcasting are Python constants, which tracing turns into static slices. Shares the
    weights of the transformer it is made from and computes exactly what that does.
    """

    rotary_VR2: Tensor | None
    positions_VD: Tensor | None
    positions_LD: Tensor | None

    def __init__(
        self,
        transformer: SceneModel,
        layout: SceneLayout,
        *,
        latent_shape: tuple[int, int, int, int],
        targets: tuple[int, ...] | None = None,
        context: ContextCache | None = None,
        loras: SceneLoras = (),
    ) -> None:
        """Bake in one layout.

        Args:
            transformer: The loaded transformer; the tables go to its device.
            latent_shape: (F, C, H, W) of all scenes together.
            targets: Scenes whose velocity is predicted, ascending; None for all.
            context: Cached context for these targets; its scenes are not computed again.
            loras: LoRAs of each scene's own.

        Raises:
            LayoutMismatch: The latent shape does not fit the layout.
            InputError: The layout has no such target.
        """
        super().__init__()
        _check_latent_shape(transformer, layout, latent_shape)
        self.targets = chosen_targets(layout, targets)
        self.layout = layout
        self.latent_shape = latent_shape
        self.transformer = transformer
        self._context = None if context is None else context.blocks
        self._plan = (
            scenes_plan(layout, targets=self.targets, loras=loras) if context is None else context.plan
        )
        tables = transformer.position_tables(layout, latent_shape, device=transformer.device)
        self.register_buffer("rotary_VR2", tables.rotary_VR2, persistent=False)
        self.register_buffer("positions_VD", tables.positions_VD, persistent=False)
        self.register_buffer("positions_LD", tables.positions_LD, persistent=False)

    def forward(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor) -> Tensor:
        """Predict the target scenes' velocity; see `m2d.backend.Denoiser`. Checks nothing."""
        tables = PositionTables(self.rotary_VR2, self.positions_VD, self.positions_LD)
        return self.transformer.velocity(
            latents_BFCHW, prompt_embeds_BLD, timesteps_BN, tables, self._plan, context=self._context
        )

    def example_inputs(
        self, batch_size: int, dtype: torch.dtype, device: torch.device | str, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return random latents, embeddings and timesteps of the baked shapes, equal for equal seeds."""
        stream = torch.Generator().manual_seed(seed)
        config = self.transformer.config
        latents = torch.randn(batch_size, *self.latent_shape, generator=stream)
        embeds = torch.randn(batch_size, self.layout.num_text_tokens, config.text_embed_dim, generator=stream)
        timesteps = torch.randint(0, 1000, (batch_size, self.layout.num_scenes), generator=stream)
        return latents.to(device, dtype), embeds.to(device, dtype), timesteps.to(device)


def _check_latent_shape(
    transformer: SceneModel, layout: SceneLayout, latent_shape: tuple[int, int, int, int]
) -> None:
    """Check that latents of a shape are cut into the layout's video tokens."""
    frames, channels, height, width = latent_shape
    patch = int(transformer.config.patch_size)
    expected = {
        "latent frames": (frames, sum(layout.latent_frames)),
        "latent channels": (channels, int(transformer.config.in_channels)),
        "tokens per frame": ((height // patch) * (width // patch), layout.tokens_per_frame),
        "latent height and width left over by the patches": (height % patch + width % patch, 0),
    }
    wrong = [f"{name}: got {got}, not {own}" for name, (got, own) in expected.items() if got != own]
    if wrong:
        raise LayoutMismatch(f"cannot bake layout {layout.digest()[:12]}: " + "; ".join(wrong))

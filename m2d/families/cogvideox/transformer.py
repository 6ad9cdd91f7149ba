"""The diffusion transformer: CogVideoX's weights, run on several scenes with a timestep each.

Owns the forward pass. Parameter names and configs are those of diffusers' `CogVideoXTransformer3DModel`, so
its checkpoints load unchanged; diffusers' own forward takes one timestep per sample and no scene mask.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent size, T text tokens, V video tokens,
# L = T + V, D width, E width of the timestep embedding, R rotated pairs per head.

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock, CogVideoXTransformer3DModel
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from m2d.families.cogvideox.patches import patchify, unpatchify
from m2d.families.cogvideox.positions import learned_positions, sincos_positions
from m2d.layout import SceneLayout
from m2d.model.attention import SceneAttnProcessor
from m2d.model.attention_variants import AttentionVariant
from m2d.model.block_plan import BlockContext, BlockPlan, Rows, ScenesPlan, scenes_plan
from m2d.model.context_cache import ContextCache
from m2d.model.execution import Execution
from m2d.model.modulation import gate, gate_both, modulate, modulations, normalize_both
from m2d.model.per_scene import run_per_scene
from m2d.model.rotary import apply_rotary, rotary_table
from m2d.model.scene_lora import RowLoras, SceneLoras, apply_feed_forward, apply_linear
from m2d.model.scene_model import PositionTables, SceneModel
from m2d.model.timestep_tables import TimestepRows

# The offset that CogVideoX 1.5 image-to-video was trained with; a constant in diffusers' pipeline, too.
_OFFSET = 2.0


class SceneBlock(nn.Module):
    """A CogVideoX block whose adaptive norms and gates follow each scene's own timestep.

    Takes over the submodules of a stock block, under the same names.
    """

    def __init__(self, block: CogVideoXBlock) -> None:
        super().__init__()
        self.norm1 = block.norm1
        self.attn1 = block.attn1
        self.norm2 = block.norm2
        self.ff = block.ff
        self.attn1.set_processor(SceneAttnProcessor())

    def forward(
        self,
        text_BTD: Tensor,
        video_BVD: Tensor,
        temb_BNE: Tensor,
        rotary_VR2: Tensor | None,
        plan: BlockPlan,
        context: BlockContext | None = None,
        execution: Execution = "joined",
    ) -> tuple[Tensor, Tensor]:
        """Attend and feed forward.

        Args:
            temb_BNE: Timestep embedding of each scene, after its activation.
            plan: Attention calls. When it names targets, only their video tokens are computed.
            context: Keys and values of scenes that are not among these tokens, or None.
            execution: `per_scene` computes the same one scene after the other.

        Returns:
            Text and video tokens. With targets: the text as it came in and the targets' video tokens alone.
        """
        if execution == "per_scene":
            return run_per_scene(self, text_BTD, video_BVD, temb_BNE, rotary_VR2, plan, context)
        text, video = modulations(self.norm1, temb_BNE, plan.scene_loras)
        normed_BLD = normalize_both(self.norm1.norm, text_BTD, video_BVD, text, video, plan)
        # Not through `Attention.forward`: it drops, with a warning, what its processor does not take.
        attended_BQD = self.attn1.processor(
            self.attn1, normed_BLD, plan=plan, rotary_VR2=rotary_VR2, context=context
        )
        if plan.targets is not None:
            return text_BTD, self._finish_targets(video_BVD, attended_BQD, temb_BNE, video.gate_BND, plan)

        text_BTD, video_BVD = gate_both(text_BTD, video_BVD, attended_BQD, text, video, plan)
        text, video = modulations(self.norm2, temb_BNE, plan.scene_loras)
        normed_BLD = normalize_both(self.norm2.norm, text_BTD, video_BVD, text, video, plan)
        update_BLD = apply_feed_forward(self.ff, normed_BLD, plan.query_loras)
        return gate_both(text_BTD, video_BVD, update_BLD, text, video, plan)

    def _finish_targets(
        self, video_BVD: Tensor, attended_BQD: Tensor, temb_BNE: Tensor, gate_BND: Tensor, plan: BlockPlan
    ) -> Tensor:
        lengths = plan.target_tokens
        video_BQD = plan.target_rows(video_BVD)
        video_BQD = gate(video_BQD, attended_BQD, plan.target_scenes(gate_BND), lengths)
        _, video = modulations(self.norm2, plan.target_scenes(temb_BNE), plan.target_scene_loras)
        normed_BQD = modulate(self.norm2.norm(video_BQD), video.shift_BND, video.scale_BND, lengths)
        update_BQD = apply_feed_forward(self.ff, normed_BQD, plan.target_loras)
        return gate(video_BQD, update_BQD, video.gate_BND, lengths)


class SceneTransformer(CogVideoXTransformer3DModel, SceneModel):  # type: ignore[misc]  # diffusers is untyped
    """CogVideoX over a story, as `SceneModel` describes it."""

    _no_split_modules = ["SceneBlock", "CogVideoXPatchEmbed"]  # noqa: RUF012  # diffusers reads it from the class
    _repeated_blocks = ["SceneBlock"]  # noqa: RUF012
    lora_modules = MappingProxyType(
        {
            "attention": ("attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"),
            "feed_forward": ("ff.net.0.proj", "ff.net.2"),
            "modulation": ("norm1.linear", "norm2.linear"),
        }
    )
    scene_lora_layers = (
        *(name for names in lora_modules.values() for name in names),
        *("patch_embed.text_proj", "time_embedding.linear_1", "time_embedding.linear_2"),
        *("norm_out.linear", "proj_out"),
    )

    # wraps: diffusers reads a config's keys off this signature, which is its own.
    @functools.wraps(CogVideoXTransformer3DModel.__init__)  # type: ignore[misc]  # diffusers is untyped
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.transformer_blocks = nn.ModuleList(SceneBlock(block) for block in self.transformer_blocks)
        self.timestep_rows: TimestepRows | None = None

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
        """Predict the velocity; see `SceneModel.forward`.

        The last block and the head run for the target scenes alone, which changes nothing in their output.
        """
        self._check_shapes(latents_BFCHW, prompt_embeds_BLD, timesteps_BN, layout)
        if context is not None:
            _check_context(context, layout, targets, batch=latents_BFCHW.shape[0])
        tables = self.position_tables(layout, latents_BFCHW.shape[1:], device=latents_BFCHW.device)
        return self.velocity(
            latents_BFCHW,
            prompt_embeds_BLD,
            timesteps_BN,
            tables,
            scenes_plan(layout, targets=targets, loras=loras) if context is None else context.plan,
            context=None if context is None else context.blocks,
            execution=execution,
        )

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
        temb_BNE = self.embed_timesteps(timesteps_BN, dtype=latents_BFCHW.dtype, loras=plan.scene_loras)
        text_BTD = self.embed_text(prompt_embeds_BLD, tables.positions_LD, loras=plan.text_loras)
        video_BVD = self.embed_video(latents_BFCHW, tables.positions_VD)
        text_BTD, video_BVD, temb_BNE, rotary_VR2 = plan.pick(
            Rows(text_BTD, video_BVD, temb_BNE, tables.rotary_VR2)
        )
        # The last block's other rows reach no output: text rows never do, context scenes' rows are discarded.
        plans = [plan.plan] * (len(self.transformer_blocks) - 1) + [plan.last_plan]
        outside = [None] * len(self.transformer_blocks) if context is None else context
        for block, calls, keys in zip(self.transformer_blocks, plans, outside, strict=True):
            text_BTD, video_BVD = self._run_block(
                block, text_BTD, video_BVD, temb_BNE, rotary_VR2, calls, keys, execution
            )
        return self._finish(video_BVD, temb_BNE, plan.last_plan, size=latents_BFCHW.shape[3:])

    def pin_attention_kernel(self, kernel: SDPBackend | None) -> None:
        for attn in self._attentions():
            attn.processor.kernel = kernel

    def rotate_by(self, rotate: Callable[[Tensor, Tensor], Tensor] | None) -> None:
        for attn in self._attentions():
            attn.processor.rotate = apply_rotary if rotate is None else rotate

    def vary_attention(self, variant: AttentionVariant | None) -> None:
        num_blocks = len(self.transformer_blocks)
        for number, attn in enumerate(self._attentions()):
            attn.processor.variant = (
                None if variant is None else variant.in_block(number, num_blocks=num_blocks)
            )

    def _attentions(self) -> list[Attention]:
        return [module for module in self.modules() if isinstance(module, Attention)]

    def _run_block(
        self, block: nn.Module, *inputs: Tensor | BlockPlan | BlockContext | Execution | None
    ) -> tuple[Tensor, Tensor]:
        if torch.is_grad_enabled() and self.gradient_checkpointing:
            return self._gradient_checkpointing_func(block, *inputs)  # type: ignore[no-any-return]  # diffusers
        return block(*inputs)  # type: ignore[no-any-return]  # nn.Module.__call__

    def position_tables(
        self, layout: SceneLayout, latent_shape: Sequence[int], *, device: torch.device
    ) -> PositionTables:
        frames, _, height, width = latent_shape
        patch, patch_t = self.config.patch_size, self.config.patch_size_t
        grid = (height // patch, width // patch)
        if not self.config.use_rotary_positional_embeddings:
            return PositionTables(positions_VD=self._sincos(layout.num_scenes, frames, grid, device))
        base = None if patch_t else (self.config.sample_height // patch, self.config.sample_width // patch)
        rotary_VR2 = rotary_table(
            self.config.attention_head_dim,
            num_latent_frames=frames // (patch_t or 1),
            grid=grid,
            base_grid=base,
            device=device,
        )
        if not self.config.use_learned_positional_embeddings:
            return PositionTables(rotary_VR2)
        text_LD, video_VD = learned_positions(
            self.patch_embed.pos_embedding[0].to(device),
            num_text=layout.text_tokens[0],
            frames=layout.latent_frames,
            trained=self._trained_frames,
            other=lambda count: self._sincos(1, count, grid, device),
        )
        return PositionTables(rotary_VR2, video_VD, text_LD)

    @property
    def _trained_frames(self) -> int:
        """Latent frames of the clips that the model was trained on."""
        return int((self.config.sample_frames - 1) // self.config.temporal_compression_ratio + 1)

    def _sincos(
        self, num_scenes: int, num_latent_frames: int, grid: tuple[int, int], device: torch.device
    ) -> Tensor:
        return sincos_positions(
            self.config.num_attention_heads * self.config.attention_head_dim,
            num_scenes=num_scenes,
            num_latent_frames=num_latent_frames,
            base_latent_frames=self._trained_frames,
            grid=grid,
            scales=(self.config.spatial_interpolation_scale, self.config.temporal_interpolation_scale),
            device=device,
        )

    def embed_timesteps(self, timesteps_BN: Tensor, *, dtype: torch.dtype, loras: RowLoras = ()) -> Tensor:
        """Embed every scene's timestep: temb_BNE, after its activation.

        With tables in place of the layers that take it, it is the tables' rows instead, BN.
        """
        if self.timestep_rows is not None:
            return self.timestep_rows(timesteps_BN)  # type: ignore[no-any-return]  # nn.Module.__call__
        sinusoids = self.time_proj(timesteps_BN.flatten()).to(dtype)
        temb_BNE: Tensor
        if loras:
            layers, rows_BNX = self.time_embedding, torch.unflatten(sinusoids, 0, timesteps_BN.shape)
            rows_BNX = layers.act(apply_linear(layers.linear_1, rows_BNX, loras))
            temb_BNE = apply_linear(layers.linear_2, rows_BNX, loras)
        else:
            temb_BNE = torch.unflatten(self.time_embedding(sinusoids), 0, timesteps_BN.shape)
        if self.ofs_embedding is not None:
            offset = torch.full((1,), _OFFSET, dtype=dtype, device=timesteps_BN.device)
            temb_BNE = temb_BNE + self.ofs_embedding(self.ofs_proj(offset).to(dtype))
        # Every adaptive norm starts with this activation: taken once here.
        return nn.functional.silu(temb_BNE)

    def embed_text(
        self, prompt_embeds_BLD: Tensor, positions_LD: Tensor | None = None, *, loras: RowLoras = ()
    ) -> Tensor:
        """Make the prompts' tokens of the prompts' embeddings, positions added for a model that has them."""
        text_BTD = apply_linear(self.patch_embed.text_proj, prompt_embeds_BLD, loras)
        if positions_LD is not None:
            text_BTD = text_BTD + positions_LD.to(text_BTD.dtype)
        return self.embedding_dropout(text_BTD)  # type: ignore[no-any-return]  # nn.Module.__call__

    def embed_video(self, latents_BFCHW: Tensor, positions_VD: Tensor | None) -> Tensor:
        """Make the video tokens of latents; positions, for a model that has them, are added."""
        video_BVD: Tensor
        if self.config.patch_size_t:
            patch, patch_t = self.config.patch_size, self.config.patch_size_t
            video_BVD = self.patch_embed.proj(patchify(latents_BFCHW, patch=patch, patch_t=patch_t))
        else:
            patches_XDHW = self.patch_embed.proj(latents_BFCHW.flatten(0, 1))
            video_XVD = patches_XDHW.flatten(2).transpose(1, 2)
            video_BVD = video_XVD.reshape(latents_BFCHW.shape[0], -1, video_XVD.shape[2])
        if positions_VD is not None:
            video_BVD = video_BVD + positions_VD.to(video_BVD.dtype)
        return self.embedding_dropout(video_BVD)  # type: ignore[no-any-return]  # nn.Module.__call__

    def _finish(self, video_BVD: Tensor, temb_BNE: Tensor, plan: BlockPlan, *, size: Sequence[int]) -> Tensor:
        temb_BNE = plan.target_scenes(temb_BNE)
        rows_BND = apply_linear(self.norm_out.linear, temb_BNE, plan.target_scene_loras)
        shift_BND, scale_BND = rows_BND.chunk(2, dim=-1)
        normed_BVD = self.norm_out.norm(self.norm_final(video_BVD))
        normed_BVD = modulate(normed_BVD, shift_BND, scale_BND, plan.target_tokens)
        patch = self.config.patch_size
        grid = (size[0] // patch, size[1] // patch)
        patches_BVX = apply_linear(self.proj_out, normed_BVD, plan.target_loras)
        return unpatchify(patches_BVX, grid=grid, patch=patch, patch_t=self.config.patch_size_t or 1)

    def _check_shapes(
        self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps_BN: Tensor, layout: SceneLayout
    ) -> None:
        batch, frames, channels, height, width = latents_BFCHW.shape
        patch = self.config.patch_size
        expected = {
            "latent channels": (channels, self.config.in_channels),
            "latent frames": (frames, sum(layout.latent_frames)),
            "latent frames per token": (self.config.patch_size_t or 1, layout.frames_per_token),
            "tokens per frame": (height // patch * (width // patch), layout.tokens_per_frame),
            "latent height and width left over by the patches": (height % patch + width % patch, 0),
            "prompt tokens": (prompt_embeds_BLD.shape[1], layout.num_text_tokens),
            "prompt batch": (prompt_embeds_BLD.shape[0], batch),
            "timesteps": (tuple(timesteps_BN.shape), (batch, layout.num_scenes)),
        }
        wrong = [f"{name} {got}, not {want}" for name, (got, want) in expected.items() if got != want]
        if wrong:
            raise ValueError(f"inputs do not fit the layout: {'; '.join(wrong)}")


def _check_context(
    context: ContextCache, layout: SceneLayout, targets: tuple[int, ...] | None, *, batch: int
) -> None:
    if context.plan.layout != layout:
        raise ValueError(
            f"context: kept for layout {context.plan.layout.digest()[:12]}, not for {layout.digest()[:12]}"
        )
    if targets is not None:
        raise ValueError(f"targets {list(targets)}: given together with context, whose own hold")
    if context.batch_size not in (None, batch):
        raise ValueError(f"context: kept for a batch of {context.batch_size}, got {batch}")

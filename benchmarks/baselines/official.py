"""The official scheme of Mask2DiT, written from its description: the baseline that m2d is timed against.

The mask takes two attention calls with the scenes folded into the batch, where every scene has a copy of all
video keys and values. Activations are joined before each projection. With clean context, every scene's part
is modulated separately and joined again. Everything else is diffusers' own CogVideoX code. As in the official
code, all scenes have the same length.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent size, L text tokens, T text tokens,
# V video tokens, S tokens of one scene, A heads, K head dim, D width, E width of the timestep embedding.

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.normalization import CogVideoXLayerNormZero
from diffusers.models.transformers.cogvideox_transformer_3d import CogVideoXBlock, CogVideoXTransformer3DModel
from torch import Tensor, nn

from benchmarks.baselines.stock import Rotary, stock_rotary, unpatchify


class OfficialAttnProcessor:
    """Attention in two calls with the scenes in the batch."""

    def __init__(self, num_scenes: int) -> None:
        self.num_scenes = num_scenes

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        image_rotary_emb: Rotary | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Attend, with the arguments and results of diffusers' processors."""
        num_text = encoder_hidden_states.shape[1]
        joined_BLD = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q_BALK, k_BALK, v_BALK = (
            project(joined_BLD).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        q_BALK, k_BALK = attn.norm_q(q_BALK), attn.norm_k(k_BALK)
        if image_rotary_emb is not None:
            for x_BALK in (q_BALK, k_BALK):
                x_BALK[:, :, num_text:] = apply_rotary_emb(x_BALK[:, :, num_text:], image_rotary_emb)
        attended_BALK = self._attend(q_BALK, k_BALK, v_BALK, num_text)
        attended_BLD = attended_BALK.transpose(1, 2).flatten(2)
        attended_BLD = attn.to_out[1](attn.to_out[0](attended_BLD))
        return attended_BLD[:, num_text:], attended_BLD[:, :num_text]

    def _attend(self, q_BALK: Tensor, k_BALK: Tensor, v_BALK: Tensor, num_text: int) -> Tensor:
        text_q, text_k, text_v = (self._fold(x[:, :, :num_text]) for x in (q_BALK, k_BALK, v_BALK))
        video_q, video_k, video_v = (self._fold(x[:, :, num_text:]) for x in (q_BALK, k_BALK, v_BALK))
        every_k, every_v = (
            x[:, :, num_text:].repeat_interleave(self.num_scenes, dim=0) for x in (k_BALK, v_BALK)
        )
        video = nn.functional.scaled_dot_product_attention(
            video_q, torch.cat([text_k, every_k], dim=2), torch.cat([text_v, every_v], dim=2)
        )
        text = nn.functional.scaled_dot_product_attention(
            text_q, torch.cat([text_k, video_k], dim=2), torch.cat([text_v, video_v], dim=2)
        )
        return torch.cat([self._unfold(text), self._unfold(video)], dim=2)

    def _fold(self, x_BALK: Tensor) -> Tensor:
        """Fold (B, A, N*S, K) to (B*N, A, S, K)."""
        return torch.unflatten(x_BALK, 2, (self.num_scenes, -1)).transpose(1, 2).flatten(0, 1)

    def _unfold(self, x_XASK: Tensor) -> Tensor:
        return torch.unflatten(x_XASK, 0, (-1, self.num_scenes)).transpose(1, 2).flatten(2, 3)


class OfficialBlock(nn.Module):
    """A stock block run by the official scheme; takes over the stock block's submodules."""

    def __init__(self, block: CogVideoXBlock, num_scenes: int) -> None:
        super().__init__()
        self.num_scenes = num_scenes
        self.norm1, self.attn1, self.norm2, self.ff = block.norm1, block.attn1, block.norm2, block.ff
        self.attn1.set_processor(OfficialAttnProcessor(num_scenes))

    def forward(
        self, text_BTD: Tensor, video_BVD: Tensor, temb: Tensor, rotary: Rotary | None
    ) -> tuple[Tensor, Tensor]:
        """Run the block; `temb` is (B, E) for one timestep, (B, N, E) for one per scene."""
        normed_video, normed_text, gate, text_gate = self._normalize(self.norm1, video_BVD, text_BTD, temb)
        video, text = self.attn1.processor(self.attn1, normed_video, normed_text, rotary)
        video_BVD = self._add(video_BVD, video, gate)
        text_BTD = self._add(text_BTD, text, text_gate)
        normed_video, normed_text, gate, text_gate = self._normalize(self.norm2, video_BVD, text_BTD, temb)
        num_text = text_BTD.shape[1]
        forwarded_BLD = self.ff(torch.cat([normed_text, normed_video], dim=1))
        video_BVD = self._add(video_BVD, forwarded_BLD[:, num_text:], gate)
        return self._add(text_BTD, forwarded_BLD[:, :num_text], text_gate), video_BVD

    def _normalize(
        self, norm: CogVideoXLayerNormZero, video_BVD: Tensor, text_BTD: Tensor, temb: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if temb.ndim == 2:
            return norm(video_BVD, text_BTD, temb)  # type: ignore[no-any-return]  # nn.Module.__call__
        chunks = (x.chunk(self.num_scenes, dim=1) for x in (video_BVD, text_BTD))
        parts = [
            norm(video, text, temb[:, scene]) for scene, (video, text) in enumerate(zip(*chunks, strict=True))
        ]
        video, text, gate, text_gate = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        return video, text, gate, text_gate

    def _add(self, tokens_BLD: Tensor, update_BLD: Tensor, gate_BND: Tensor) -> Tensor:
        if gate_BND.shape[1] == 1:
            return tokens_BLD + gate_BND * update_BLD
        scenes = zip(
            *(x.chunk(self.num_scenes, dim=1) for x in (tokens_BLD, update_BLD, gate_BND)), strict=True
        )
        return torch.cat([tokens + gate * update for tokens, update, gate in scenes], dim=1)


class OfficialTransformer(nn.Module):
    """A stock CogVideoX whose blocks follow the official scheme."""

    def __init__(self, stock: CogVideoXTransformer3DModel, num_scenes: int) -> None:
        super().__init__()
        self.stock = stock
        self.num_scenes = num_scenes
        self.blocks = nn.ModuleList(OfficialBlock(block, num_scenes) for block in stock.transformer_blocks)

    def forward(self, latents_BFCHW: Tensor, prompt_embeds_BLD: Tensor, timesteps: Tensor) -> Tensor:
        """Predict the velocity of all scenes.

        Args:
            latents_BFCHW: All scenes' latents.
            prompt_embeds_BLD: All scenes' prompts.
            timesteps: (B,) when all scenes are denoised, (B, N) with clean context.
        """
        stock, num_text = self.stock, prompt_embeds_BLD.shape[1]
        sinusoids = stock.time_proj(timesteps.flatten()).to(latents_BFCHW.dtype)
        temb = stock.time_embedding(sinusoids).unflatten(0, timesteps.shape)
        joined_BLD = stock.embedding_dropout(stock.patch_embed(prompt_embeds_BLD, latents_BFCHW))
        text_BTD, video_BVD = joined_BLD[:, :num_text], joined_BLD[:, num_text:]
        rotary = stock_rotary(stock, latents_BFCHW)
        for block in self.blocks:
            text_BTD, video_BVD = block(text_BTD, video_BVD, temb, rotary)
        video_BVD = stock.norm_final(video_BVD)
        return unpatchify(stock, self._normalize_out(stock.norm_out, video_BVD, temb), latents_BFCHW)

    def _normalize_out(self, norm: Callable[..., Tensor], video_BVD: Tensor, temb: Tensor) -> Tensor:
        if temb.ndim == 2:
            return norm(video_BVD, temb=temb)
        scenes = enumerate(video_BVD.chunk(self.num_scenes, dim=1))
        return torch.cat([norm(video, temb=temb[:, scene]) for scene, video in scenes], dim=1)

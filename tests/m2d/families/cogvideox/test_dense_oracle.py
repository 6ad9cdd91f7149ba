"""Three scenes of every published model against diffusers' transformer with a dense attention mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor
from torch.nn import functional

from m2d.families.loading import load_transformer
from m2d.families.registry import known_model
from m2d.layout import SceneLayout
from m2d.tasks.models import make_random
from tests.m2d.families.cogvideox.stock import relative_rms

NAMES = ("cogvideox-5b", "cogvideox-5b-i2v", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v")
NUM_SCENES, ROWS, COLUMNS = 3, 6, 10


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return make_random(request.param, tmp_path / request.param, is_tiny=True)


def rotary(model: Any, frames: int) -> tuple[Tensor, Tensor]:
    """What the stock pipelines make; a grid of the trained size is not cropped."""
    grid, patch_t = (ROWS // 2, COLUMNS // 2), model.config.patch_size_t
    rule = {"crops_coords": ((0, 0), grid)}
    if patch_t:
        rule = {"crops_coords": None, "grid_type": "slice", "max_size": (150, 150)}
    size = {"grid_size": grid, "temporal_size": frames // (patch_t or 1)}
    made: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(embed_dim=16, **rule, **size)
    return made


def repeat_learned_positions(model: Any, num_text: int) -> None:
    """Give every scene the learned positions of one, which the stock forward pass has for one scene alone."""
    embed, table = model.patch_embed, model.patch_embed.pos_embedding[0]
    embed.use_learned_positional_embeddings = False
    texts, videos = table[:num_text].repeat(NUM_SCENES, 1), table[num_text:].repeat(NUM_SCENES, 1)
    embed.register_forward_hook(
        lambda _module, _inputs, tokens: tokens + torch.cat([texts, videos]).to(tokens.dtype)
    )


def dense_velocity(folder: Path, layout: SceneLayout, latents: Tensor, embeds: Tensor, time: int) -> Tensor:
    model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer")
    if model.config.use_learned_positional_embeddings:
        repeat_learned_positions(model, layout.text_tokens[0])
    mask, attend = torch.from_numpy(layout.dense()), functional.scaled_dot_product_attention

    def masked(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
        return attend(query, key, value, attn_mask=mask)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(functional, "scaled_dot_product_attention", masked)
        offset = None if model.config.ofs_embed_dim is None else torch.full((1,), 2.0)
        found: Tensor = model(
            latents,
            embeds,
            torch.tensor([time]),
            ofs=offset,
            image_rotary_emb=rotary(model, latents.shape[1]),
            return_dict=False,
        )[0]
    return found


def test_three_scenes_equal_the_stock_transformer_with_a_dense_mask(folder: Path) -> None:
    known = known_model(folder.name)
    assert known is not None
    per_token = int(known.transformer.get("patch_size_t") or 1)
    frames, num_text = (6 if per_token > 1 else 3), 226 if per_token == 1 else 224
    layout = SceneLayout.build(
        "mask2dit",
        text_tokens=[num_text] * NUM_SCENES,
        latent_frames=[frames] * NUM_SCENES,
        tokens_per_frame=ROWS // 2 * (COLUMNS // 2),
        frames_per_token=per_token,
    )
    stream = torch.Generator().manual_seed(0)
    channels = 8 if known.takes_image else 4
    latents = torch.randn(1, NUM_SCENES * frames, channels, ROWS, COLUMNS, generator=stream)
    embeds = torch.randn(1, layout.num_text_tokens, 16, generator=stream)
    model = load_transformer(folder, device="cpu", dtype=torch.float32)
    times = torch.full((1, NUM_SCENES), 700)
    with torch.no_grad():
        found = model(latents, embeds, times, layout=layout)
        alone = model(latents, embeds, times, layout=layout, targets=(1,))
        per_scene = model(latents, embeds, times, layout=layout, execution="per_scene")
    expected = dense_velocity(folder, layout, latents, embeds, 700)
    assert relative_rms(found, expected) < 1e-5
    assert relative_rms(per_scene, expected) < 1e-5
    assert relative_rms(alone, expected[:, frames : 2 * frames]) < 1e-5

"""Three scenes of every published model against diffusers' transformer with a dense attention mask.

In the suite with a few channels; with `-m long` two layers of the published width.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor
from torch.nn import functional

from m2d.families.loading import load_transformer
from m2d.families.registry import known_model
from m2d.layout import SceneLayout
from tests.m2d.families.cogvideox.stock import FULL_WIDTH, both_widths, relative_rms, write_model

NAMES = ("cogvideox-2b", "cogvideox-5b", "cogvideox-5b-i2v", "cogvideox1.5-5b", "cogvideox1.5-5b-i2v")
NUM_SCENES, ROWS, COLUMNS = 3, 6, 10


@pytest.fixture(params=both_widths(NAMES))
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    path = write_model(tmp_path / request.param)
    yield path
    # Gigabytes, at full width.
    shutil.rmtree(path)


def rotary(model: Any, frames: int) -> tuple[Tensor, Tensor]:
    """What the stock pipelines make; a grid of the trained size is not cropped."""
    grid, patch_t = (ROWS // 2, COLUMNS // 2), model.config.patch_size_t
    rule = {"crops_coords": ((0, 0), grid)}
    if patch_t:
        rule = {"crops_coords": None, "grid_type": "slice", "max_size": (150, 150)}
    size = {"grid_size": grid, "temporal_size": frames // (patch_t or 1)}
    made: tuple[Tensor, Tensor] = get_3d_rotary_pos_embed(
        embed_dim=model.config.attention_head_dim, **rule, **size
    )
    return made


def repeat_learned_positions(model: Any, num_text: int) -> None:
    """Give every scene the learned positions of one, which the stock forward pass has for one scene alone."""
    table = model.patch_embed.pos_embedding[0]
    texts, videos = table[:num_text].repeat(NUM_SCENES, 1), table[num_text:].repeat(NUM_SCENES, 1)
    add_positions(model, torch.cat([texts, videos]))


def stretch_computed_positions(model: Any, num_text: int, num_frames: int) -> None:
    """Stretch the table of one scene, of the trained length, over all frames, as the official code does."""
    table = model.patch_embed.pos_embedding[0, model.config.max_text_seq_length :]
    trained = table.unflatten(0, (-1, ROWS // 2 * (COLUMNS // 2))).double().numpy()
    # Middles of frames; beyond the first and the last one, their own values.
    places = (np.arange(num_frames) + 0.5) * len(trained) / num_frames - 0.5
    below = np.floor(places.clip(0, len(trained) - 1)).astype(int)
    share = (places.clip(0, len(trained) - 1) - below)[:, None, None]
    stretched = trained[below] * (1 - share) + trained[(below + 1).clip(max=len(trained) - 1)] * share
    videos = torch.from_numpy(stretched).flatten(0, 1).float()
    add_positions(model, torch.cat([torch.zeros(num_text * NUM_SCENES, videos.shape[1]), videos]))


def add_positions(model: Any, positions_LD: Tensor) -> None:
    """Add these to the tokens, in place of the model's own."""
    embed = model.patch_embed
    embed.use_learned_positional_embeddings = embed.use_positional_embeddings = False
    embed.register_forward_hook(lambda _module, _inputs, tokens: tokens + positions_LD.to(tokens.dtype))


def dense_velocity(folder: Path, layout: SceneLayout, latents: Tensor, embeds: Tensor, time: int) -> Tensor:
    model = CogVideoXTransformer3DModel.from_pretrained(folder / "transformer", dtype=torch.float32)
    if model.config.use_learned_positional_embeddings:
        repeat_learned_positions(model, layout.text_tokens[0])
    elif not model.config.use_rotary_positional_embeddings:
        stretch_computed_positions(model, layout.text_tokens[0], latents.shape[1])
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
            image_rotary_emb=rotary(model, latents.shape[1])
            if model.config.use_rotary_positional_embeddings
            else None,
            return_dict=False,
        )[0]
    return found


def test_three_scenes_equal_the_stock_transformer_with_a_dense_mask(folder: Path) -> None:
    known = known_model(folder.name.removesuffix(FULL_WIDTH))
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
    model: Any = load_transformer(folder, device="cpu", dtype=torch.float32)
    channels, text_width = model.config.in_channels, model.config.text_embed_dim
    latents = torch.randn(1, NUM_SCENES * frames, channels, ROWS, COLUMNS, generator=stream)
    embeds = torch.randn(1, layout.num_text_tokens, text_width, generator=stream)
    times = torch.full((1, NUM_SCENES), 700)
    with torch.no_grad():
        found = model(latents, embeds, times, layout=layout)
        alone = model(latents, embeds, times, layout=layout, targets=(1,))
        per_scene = model(latents, embeds, times, layout=layout, execution="per_scene")
    expected = dense_velocity(folder, layout, latents, embeds, 700)
    assert relative_rms(found, expected) < 1e-5
    assert relative_rms(per_scene, expected) < 1e-5
    assert relative_rms(alone, expected[:, frames : 2 * frames]) < 1e-5

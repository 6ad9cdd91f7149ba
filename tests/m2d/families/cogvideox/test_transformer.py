import json
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from safetensors.torch import load_file
from torch import Tensor

from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout

OFFICIAL = Path(__file__).parents[3] / "fixtures" / "official" / "three_scenes"
# Required of every float32 forward pass: measured float32 noise is 1e-6.
TOLERANCE = 5e-6
MASKS = ("isolated", "mask2dit", "shared-text", "cross-text", "full", "causal", "window:2", "anchor", "talc")
TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "in_channels": 4,
    "out_channels": 4,
    "time_embed_dim": 16,
    "text_embed_dim": 12,
    "num_layers": 2,
    "sample_width": 8,
    "sample_height": 4,
    "sample_frames": 5,
    "patch_size": 2,
    "max_text_seq_length": 3,
    "use_rotary_positional_embeddings": True,
}


def make_model(**changes: object) -> SceneTransformer:
    torch.manual_seed(0)
    model = SceneTransformer(**{**TINY, **changes})
    for parameter in model.parameters():  # zero biases and unit norms would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def make_inputs(
    layout: SceneLayout, *, batch: int = 2, height: int = 4, width: int = 8
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(batch, sum(layout.latent_frames), 4, height, width, generator=generator)
    prompt_embeds = torch.randn(batch, layout.num_text_tokens, 12, generator=generator)
    timesteps = torch.randint(0, 1000, (batch, layout.num_scenes), generator=generator)
    return latents, prompt_embeds, timesteps


def story(
    mask: str = "mask2dit", frames: tuple[int, ...] = (2, 2, 2), tokens_per_frame: int = 8
) -> SceneLayout:
    return SceneLayout.build(
        mask, text_tokens=[3] * len(frames), latent_frames=frames, tokens_per_frame=tokens_per_frame
    )


def stock_model(model: SceneTransformer) -> CogVideoXTransformer3DModel:
    stock = CogVideoXTransformer3DModel.from_config(dict(model.config))
    stock.load_state_dict(model.state_dict())
    return stock.eval()


def stock_velocity(
    model: SceneTransformer,
    latents: Tensor,
    prompt_embeds: Tensor,
    timestep: Tensor,
    mask: Tensor | None = None,
) -> Tensor:
    """Diffusers' own forward pass, with its dense mask argument."""
    patch, rotary = model.config.patch_size, None
    if model.config.use_rotary_positional_embeddings:
        grid = (latents.shape[3] // patch, latents.shape[4] // patch)
        base = (model.config.sample_width // patch, model.config.sample_height // patch)
        crops = get_resize_crop_region_for_grid(grid, *base)
        rotary = get_3d_rotary_pos_embed(model.config.attention_head_dim, crops, grid, latents.shape[1])
    options = None if mask is None else {"attention_mask": mask.expand(latents.shape[0], -1, -1)}
    return stock_model(model)(
        latents, prompt_embeds, timestep, image_rotary_emb=rotary, attention_kwargs=options
    ).sample


def max_error(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return (got - want).abs().max().item()


@pytest.fixture(scope="module")
def official() -> tuple[SceneTransformer, dict[str, Tensor]]:
    config = json.loads((OFFICIAL / "transformer" / "config.json").read_text())
    model = SceneTransformer(**{k: v for k, v in config.items() if k[0] != "_" and k != "attn_msk_version"})
    model.load_state_dict(load_file(OFFICIAL / "transformer" / "diffusion_pytorch_model.safetensors"))
    return model.eval(), load_file(OFFICIAL / "io.safetensors")


def official_velocity(official: tuple[SceneTransformer, dict[str, Tensor]], **options: object) -> Tensor:
    model, io = official
    timesteps = io["timestep"][:, None].repeat(1, 3)
    target = options.pop("target", None)
    if target is not None:
        timesteps[:, [scene for scene in range(3) if scene != target]] = 0
    layout = SceneLayout.build("mask2dit", text_tokens=[6] * 3, latent_frames=[2] * 3, tokens_per_frame=24)
    return model(io["latents"], io["prompt_embeds"], timesteps, layout=layout, **options)


@torch.no_grad()
def test_denoising_all_scenes_matches_the_official_model(
    official: tuple[SceneTransformer, dict[str, Tensor]],
) -> None:
    assert max_error(official_velocity(official), official[1]["fixed"]) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("target", [0, 1, 2])
def test_clean_context_matches_the_official_model(
    official: tuple[SceneTransformer, dict[str, Tensor]], target: int
) -> None:
    want = official[1][f"clean_context_target_{target}"]
    assert max_error(official_velocity(official, target=target), want) <= TOLERANCE
    alone = official_velocity(official, target=target, targets=(target,))
    assert max_error(alone, want[:, 2 * target : 2 * target + 2]) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize(
    ("mask", "changes"),
    [
        # A text of `talc` sees no video, which no CogVideoX knows.
        *((mask, {}) for mask in MASKS if mask != "talc"),
        ("mask2dit", {"patch_size": 4}),
        ("mask2dit", {"use_rotary_positional_embeddings": False}),
    ],
)
def test_one_scene_is_plain_cogvideox(mask: str, changes: dict[str, object]) -> None:
    model = make_model(**changes)
    layout = story(mask, frames=(3,), tokens_per_frame=4 * 8 // model.config.patch_size**2)
    latents, prompt_embeds, timesteps = make_inputs(layout)
    want = stock_velocity(model, latents, prompt_embeds, timesteps[:, 0])
    assert max_error(model(latents, prompt_embeds, timesteps, layout=layout), want) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("frames", [(2, 2, 2), (1, 3, 2)])
def test_every_mask_is_the_stock_model_with_a_dense_mask(mask: str, frames: tuple[int, ...]) -> None:
    layout = SceneLayout.build(
        mask, text_tokens=range(2, 2 + len(frames)), latent_frames=frames, tokens_per_frame=8
    )
    model = make_model()
    latents, prompt_embeds, timesteps = make_inputs(layout)
    same = timesteps[:, :1].expand_as(timesteps)
    dense = torch.from_numpy(layout.dense())[None]
    want = stock_velocity(model, latents, prompt_embeds, same[:, 0], dense)
    assert max_error(model(latents, prompt_embeds, same, layout=layout), want) <= TOLERANCE


@torch.no_grad()
def test_sizes_other_than_the_trained_ones_match_the_stock_model() -> None:
    model = make_model()
    layout = story("full", frames=(2, 3), tokens_per_frame=3 * 5)
    latents, prompt_embeds, timesteps = make_inputs(layout, height=6, width=10)
    same = timesteps[:, :1].expand_as(timesteps)
    want = stock_velocity(model, latents, prompt_embeds, same[:, 0])
    assert max_error(model(latents, prompt_embeds, same, layout=layout), want) <= TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("targets", [(2,), (0, 2), (0, 1, 2, 3)])
def test_targets_alone_equal_their_part_of_the_whole_output(mask: str, targets: tuple[int, ...]) -> None:
    layout = story(mask, frames=(2, 1, 3, 2))
    model = make_model()
    inputs = make_inputs(layout)
    whole = model(*inputs, layout=layout)
    parts = [whole[:, layout.frame_span(scene).start : layout.frame_span(scene).stop] for scene in targets]
    assert max_error(model(*inputs, layout=layout, targets=targets), torch.cat(parts, dim=1)) <= TOLERANCE


@torch.no_grad()
def test_an_isolated_scene_changes_no_other() -> None:
    model = make_model()
    layout = story("isolated", frames=(3, 3, 3))
    latents, prompt_embeds, timesteps = make_inputs(layout)
    whole = model(latents, prompt_embeds, timesteps, layout=layout)
    latents[:, 3:6], prompt_embeds[:, 3:6], timesteps[:, 1] = 0.5, -0.5, 7
    changed = model(latents, prompt_embeds, timesteps, layout=layout)
    assert torch.equal(whole[:, :3], changed[:, :3])
    assert torch.equal(whole[:, 6:], changed[:, 6:])
    assert not torch.allclose(whole[:, 3:6], changed[:, 3:6])


@torch.no_grad()
def test_each_scene_follows_its_own_timestep() -> None:
    model, layout = make_model(), story("isolated", frames=(2, 2))
    latents, prompt_embeds, _ = make_inputs(layout)
    mixed = model(latents, prompt_embeds, torch.tensor([[0, 900]] * 2), layout=layout)
    clean = model(latents, prompt_embeds, torch.tensor([[0, 0]] * 2), layout=layout)
    noisy = model(latents, prompt_embeds, torch.tensor([[900, 900]] * 2), layout=layout)
    assert max_error(mixed[:, :2], clean[:, :2]) == 0
    assert max_error(mixed[:, 2:], noisy[:, 2:]) == 0
    assert max_error(clean[:, :2], noisy[:, :2]) > 0.1


@torch.no_grad()
def test_a_batch_equals_its_samples_one_by_one() -> None:
    model, layout = make_model(), story()
    inputs = make_inputs(layout, batch=3)
    whole = model(*inputs, layout=layout)
    for sample in range(3):
        alone = model(*(tensor[sample : sample + 1] for tensor in inputs), layout=layout)
        assert max_error(whole[sample : sample + 1], alone) <= TOLERANCE


@torch.no_grad()
def test_sincos_positions_stretch_over_a_story() -> None:
    model = make_model(use_rotary_positional_embeddings=False)
    layout = story(frames=(2, 2, 2))
    tables = model.position_tables(layout, make_inputs(layout)[0].shape[1:], device=torch.device("cpu"))
    positions = tables.positions_VD.unflatten(0, (6, 8))
    trained = model.patch_embed.pos_embedding[0, 3:].unflatten(0, (2, 8))
    assert max_error(positions[0], trained[0]) <= 1e-6
    assert max_error(positions[5], trained[1]) <= 1e-6
    assert max_error(positions[2], (trained[0] * 2 + trained[1]) / 3) <= 1e-6


@pytest.mark.parametrize("targets", [None, (1,)])
def test_gradients_are_the_same_with_checkpointing(targets: tuple[int, ...] | None) -> None:
    model, layout = make_model().train(), story()
    inputs = make_inputs(layout)
    found = []
    for is_checkpointed in (False, True):
        model.enable_gradient_checkpointing() if is_checkpointed else None
        model.zero_grad()
        model(*inputs, layout=layout, targets=targets).square().mean().backward()
        found.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in found[0].items():
        assert gradient.isfinite().all(), name
        assert max_error(found[1][name], gradient) <= 1e-6 * max(1.0, gradient.abs().max().item()), name


def test_gradients_match_the_stock_model() -> None:
    model, layout = make_model(), story("full", frames=(3,))
    latents, prompt_embeds, timesteps = make_inputs(layout)
    stock = stock_model(model)
    crops = get_resize_crop_region_for_grid((2, 4), 4, 2)
    rotary = get_3d_rotary_pos_embed(16, crops, (2, 4), 3)
    stock(latents, prompt_embeds, timesteps[:, 0], image_rotary_emb=rotary).sample.square().mean().backward()
    model(latents, prompt_embeds, timesteps, layout=layout).square().mean().backward()
    wanted = dict(stock.named_parameters())
    for name, parameter in model.named_parameters():
        scale = max(1.0, wanted[name].grad.abs().max().item())
        assert max_error(parameter.grad, wanted[name].grad) <= 1e-5 * scale, name


@torch.no_grad()
def test_a_compiled_forward_uses_real_rotary_arithmetic_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, layout = make_model(), story()
    inputs = make_inputs(layout)
    eager = model(*inputs, layout=layout)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert max_error(model(*inputs, layout=layout), eager) <= 1e-6


def test_inputs_of_another_layout_are_refused() -> None:
    model, layout = make_model(), story()
    latents, prompt_embeds, timesteps = make_inputs(layout)
    with pytest.raises(ValueError, match=r"latent frames 5, not 6"):
        model(latents[:, :5], prompt_embeds, timesteps, layout=layout)
    with pytest.raises(ValueError, match=r"timesteps \(2, 2\), not \(2, 3\)"):
        model(latents, prompt_embeds, timesteps[:, :2], layout=layout)
    with pytest.raises(ValueError, match=r"targets \[3\]: give one or more of \[0, 1, 2\]"):
        model(latents, prompt_embeds, timesteps, layout=layout, targets=(3,))
    with pytest.raises(ValueError, match=r"targets \[2, 0\]: .*, in ascending order"):
        model(latents, prompt_embeds, timesteps, layout=layout, targets=(2, 0))

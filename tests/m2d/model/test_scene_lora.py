"""LoRAs of single scenes act on their own scenes' rows, and on nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from m2d.errors import InputError
from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.model.block_plan import scenes_plan
from m2d.model.context_cache import keep_context
from m2d.model.execution import Execution
from m2d.model.lora import FILE
from m2d.model.lora_file import LoraUse
from m2d.model.lora_weights import fuse_loras
from m2d.model.scene_lora import add_scene_loras, loras_by_scene
from m2d.model.scene_model import PositionTables
from m2d.model.timestep_tables import use_timestep_tables
from tests.m2d.model.lora_files import SHAPES, opened, use_of
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, tiny_transformer

TEXTS, FRAMES, PER_FRAME, SIDE = (5, 3, 4), (2, 1, 2), 4, 4
TIMESTEPS = (700, 300, 500)
EXECUTIONS: tuple[Execution, ...] = ("joined", "per_scene")
# float32 rounding: a fused weight is rounded before it is multiplied, a LoRA beside it after.
CLOSE = 1e-5


@pytest.fixture(scope="module")
def uses(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoraUse, LoraUse]:
    """One LoRA for the first scene and one for the second; the third has none."""
    folder = tmp_path_factory.mktemp("loras")
    return (
        use_of(folder / "one", 1, scenes=(0,), scale=0.7),
        use_of(folder / "two", 2, scenes=(1,)),
    )


def model_with(*uses: LoraUse) -> SceneTransformer:
    torch.manual_seed(0)
    model = tiny_transformer()
    fuse_loras(model, [use for use in uses if use.scenes is None])
    add_scene_loras(model, [use for use in uses if use.scenes is not None])
    return model.requires_grad_(False)


def everywhere(use: LoraUse) -> LoraUse:
    return LoraUse(file=use.file, scale=use.scale)


def layout_of(mask: str, scenes: tuple[int, ...] = (0, 1, 2)) -> SceneLayout:
    return SceneLayout.build(
        mask,
        text_tokens=[TEXTS[scene] for scene in scenes],
        latent_frames=[FRAMES[scene] for scene in scenes],
        tokens_per_frame=PER_FRAME,
    )


def inputs(scenes: tuple[int, ...] = (0, 1, 2)) -> tuple[Tensor, Tensor, Tensor]:
    """The same random inputs of a scene, whichever others are there; a batch of two."""
    latents, embeds = [], []
    for scene in scenes:
        draws = torch.Generator().manual_seed(scene)
        latents.append(torch.randn(2, FRAMES[scene], LATENT_CHANNELS, SIDE, SIDE, generator=draws))
        embeds.append(torch.randn(2, TEXTS[scene], TEXT_WIDTH, generator=draws))
    timesteps_BN = torch.tensor([[TIMESTEPS[scene] for scene in scenes]] * 2)
    return torch.cat(latents, 1), torch.cat(embeds, 1), timesteps_BN


@torch.no_grad()
def velocity(model: SceneTransformer, layout: SceneLayout, **more: object) -> Tensor:
    predicted: Tensor = model(*inputs(), layout=layout, **more)
    return predicted


@torch.no_grad()
def velocity_alone(model: SceneTransformer, scene: int) -> Tensor:
    """Run one scene as its own story, at its place in time: text is not rotated, so the place matters."""
    whole, single = layout_of("isolated"), layout_of("isolated", (scene,))
    shape = (sum(FRAMES), LATENT_CHANNELS, SIDE, SIDE)
    rotary_VR2 = model.position_tables(whole, shape, device=model.device).rotary_VR2
    assert rotary_VR2 is not None
    begin = sum(FRAMES[:scene]) * PER_FRAME
    own_VR2 = rotary_VR2[begin : begin + FRAMES[scene] * PER_FRAME]
    return model.velocity(*inputs((scene,)), PositionTables(own_VR2, None), scenes_plan(single))


def error(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).norm() / expected.norm())


@pytest.mark.parametrize("execution", EXECUTIONS)
def test_isolated_scenes_with_their_own_loras_equal_each_scene_alone(
    uses: tuple[LoraUse, LoraUse], execution: Execution
) -> None:
    together = velocity(
        model_with(*uses), layout_of("isolated"), execution=execution, loras=loras_by_scene(uses, 3)
    )
    alone = [
        velocity_alone(model_with(*own), scene)
        for scene, own in ((0, [everywhere(uses[0])]), (1, [everywhere(uses[1])]), (2, []))
    ]
    assert error(together, torch.cat(alone, dim=1)) < CLOSE
    plain = velocity(model_with(), layout_of("isolated"))
    assert error(together[:, :2], plain[:, :2]) > 0.01
    assert error(together[:, 2:3], plain[:, 2:3]) > 0.01


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("mask", ["mask2dit", "full", "anchor", "causal"])
def test_a_lora_of_every_scene_by_itself_equals_the_fused_one(
    uses: tuple[LoraUse, LoraUse], mask: str, execution: Execution
) -> None:
    use = uses[0]
    single = LoraUse(file=use.file, scale=use.scale, scenes=(0, 1, 2))
    beside = velocity(
        model_with(single), layout_of(mask), execution=execution, loras=loras_by_scene([single], 3)
    )
    fused = velocity(model_with(everywhere(use)), layout_of(mask), execution=execution)
    assert error(beside, fused) < CLOSE


@pytest.mark.parametrize("mask", ["mask2dit", "full", "anchor", "causal", "isolated"])
def test_both_ways_to_run_a_block_agree(uses: tuple[LoraUse, LoraUse], mask: str) -> None:
    model, loras = model_with(*uses), loras_by_scene(uses, 3)
    layout = layout_of(mask)
    joined, per_scene = (
        velocity(model, layout, execution=execution, loras=loras) for execution in EXECUTIONS
    )
    assert error(per_scene, joined) < CLOSE


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("mask", ["mask2dit", "causal", "anchor"])
def test_targets_alone_are_the_same_rows(
    uses: tuple[LoraUse, LoraUse], mask: str, execution: Execution
) -> None:
    model, loras = model_with(*uses), loras_by_scene(uses, 3)
    whole = velocity(model, layout_of(mask), execution=execution, loras=loras)
    some = velocity(model, layout_of(mask), execution=execution, loras=loras, targets=(1, 2))
    assert error(some, whole[:, FRAMES[0] :]) < CLOSE


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("mask", ["causal", "window:2", "isolated"])
def test_kept_context_is_computed_with_the_loras_of_its_scenes(
    uses: tuple[LoraUse, LoraUse], mask: str, execution: Execution
) -> None:
    model, loras, layout = model_with(*uses), loras_by_scene(uses, 3), layout_of(mask)
    latents_BFCHW, embeds_BLD, timesteps_BN = inputs()
    timesteps_BN[:, :2] = 0
    with torch.no_grad():
        kept = keep_context(
            model, latents_BFCHW, embeds_BLD, layout=layout, targets=(2,), execution=execution, loras=loras
        )
        assert kept is not None
        some = model(
            latents_BFCHW, embeds_BLD, timesteps_BN, layout=layout, context=kept, execution=execution
        )
        whole = model(
            latents_BFCHW,
            embeds_BLD,
            timesteps_BN,
            layout=layout,
            targets=(2,),
            execution=execution,
            loras=loras,
        )
    assert error(some, whole) < CLOSE


def test_a_scene_without_a_lora_is_computed_by_the_weights_alone(uses: tuple[LoraUse, LoraUse]) -> None:
    layout = layout_of("isolated")
    adapted = velocity(model_with(*uses), layout, loras=loras_by_scene(uses, 3))
    plain = velocity(model_with(), layout)
    assert torch.equal(adapted[:, 3:], plain[:, 3:])


def test_several_loras_of_a_scene_add_up_to_the_fused_ones(uses: tuple[LoraUse, LoraUse]) -> None:
    both = [LoraUse(file=use.file, scale=use.scale, scenes=(0, 1, 2)) for use in uses]
    layout = layout_of("mask2dit")
    beside = velocity(model_with(*both), layout, loras=loras_by_scene(both, 3))
    fused = velocity(model_with(*map(everywhere, uses)), layout)
    assert error(beside, fused) < CLOSE


def test_a_run_that_forgets_the_loras_fails(uses: tuple[LoraUse, LoraUse]) -> None:
    with pytest.raises(ValueError, match="loras: missing"):
        velocity(model_with(*uses), layout_of("isolated"))


def test_tables_of_timesteps_are_refused_where_scenes_differ_in_them(uses: tuple[LoraUse, LoraUse]) -> None:
    with pytest.raises(InputError, match="timestep_tables: a table serves all scenes"):
        use_timestep_tables(model_with(*uses), (0, 500))
    use_timestep_tables(model_with(*map(everywhere, uses)), (0, 500))


def test_a_convolution_of_single_scenes_is_refused(tmp_path: Path) -> None:
    name, shape = "patch_embed.proj", SHAPES["patch_embed.proj"]
    path = tmp_path / FILE
    pair = {"A": torch.ones(2, *shape[1:]), "B": torch.ones(shape[0], 2, 1, 1)}
    save_file({f"{name}.lora_{letter}.weight": matrix for letter, matrix in pair.items()}, path)
    with pytest.raises(InputError, match=r"adapts patch_embed\.proj, as only a LoRA of all scenes can"):
        model_with(LoraUse(file=opened(path), scenes=(0,)))

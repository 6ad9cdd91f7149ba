"""A transformer with tables of its timesteps computes what it computed before, and holds less."""

from __future__ import annotations

import copy
import gc
import weakref

import pytest
import torch
from torch import Tensor

from m2d.errors import BackendError
from m2d.families.cogvideox.known_sizes import KNOWN_MODELS
from m2d.families.cogvideox.transformer import SceneTransformer
from m2d.layout import SceneLayout
from m2d.model.context_cache import keep_context
from m2d.model.execution import Execution
from m2d.model.timestep_tables import held_bytes, use_timestep_tables
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, tiny_transformer

TIMESTEPS = (0, 19, 500, 999)
LAYOUT = SceneLayout.build("causal", text_tokens=(5, 3, 4), latent_frames=(2, 2, 3), tokens_per_frame=4)
# Sums of sixteen products in another order, carried through two layers, outputs of about 1.
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def plain() -> SceneTransformer:
    torch.manual_seed(0)
    return tiny_transformer().requires_grad_(False)


@pytest.fixture
def one_thread() -> None:
    """Several threads cut a product of few rows elsewhere than one of many, and sum in another order."""
    torch.set_num_threads(1)


@pytest.fixture
def tabled(plain: SceneTransformer) -> SceneTransformer:
    transformer = copy.deepcopy(plain)
    use_timestep_tables(transformer, TIMESTEPS)
    return transformer


def inputs(*timesteps: int, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(1)
    return (
        torch.randn(batch, 7, LATENT_CHANNELS, 4, 4, generator=stream),
        torch.randn(batch, 12, TEXT_WIDTH, generator=stream),
        torch.tensor(timesteps).expand(batch, -1),
    )


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
@pytest.mark.parametrize("timesteps", [(999, 999, 999), (0, 0, 500), (19, 999, 0)])
def test_two_predictions_of_three_scenes_have_the_same_bits_on_one_thread(
    plain: SceneTransformer, tabled: SceneTransformer, timesteps: tuple[int, ...]
) -> None:
    call = inputs(*timesteps)
    assert torch.equal(tabled(*call, layout=LAYOUT), plain(*call, layout=LAYOUT))


@torch.no_grad()
@pytest.mark.parametrize("execution", ["per_scene", "joined"])
@pytest.mark.parametrize("targets", [None, (2,), (0, 2)])
def test_few_rows_differ_by_rounding_at_most_however_a_block_runs(
    plain: SceneTransformer,
    tabled: SceneTransformer,
    execution: Execution,
    targets: tuple[int, ...] | None,
) -> None:
    call = inputs(0, 19, 999, batch=1)
    want = plain(*call, layout=LAYOUT, targets=targets, execution=execution)
    got = tabled(*call, layout=LAYOUT, targets=targets, execution=execution)
    assert (got - want).abs().max() <= TOLERANCE * max(1.0, want.abs().max().item())


@pytest.mark.usefixtures("one_thread")
@torch.no_grad()
def test_bfloat16_has_the_same_bits_on_one_thread(plain: SceneTransformer) -> None:
    half = copy.deepcopy(plain).to(torch.bfloat16)
    latents, embeds, timesteps = inputs(0, 500, 999)
    call = (latents.bfloat16(), embeds.bfloat16(), timesteps)
    want = half(*call, layout=LAYOUT)
    use_timestep_tables(half, TIMESTEPS)
    assert torch.equal(half(*call, layout=LAYOUT), want)


@torch.no_grad()
def test_context_is_kept_as_without_tables(plain: SceneTransformer, tabled: SceneTransformer) -> None:
    latents, embeds, timesteps = inputs(0, 0, 999)
    want = plain(latents, embeds, timesteps, layout=LAYOUT, targets=(2,))
    kept = keep_context(tabled, latents, embeds, layout=LAYOUT, targets=(2,))
    got = tabled(latents, embeds, timesteps, layout=LAYOUT, context=kept)
    assert (got - want).abs().max() <= TOLERANCE * max(1.0, want.abs().max().item())


@pytest.mark.parametrize("unknown", [1, 998, 1000, -1])
def test_a_timestep_without_a_row_is_never_computed_with_another_ones(
    tabled: SceneTransformer, unknown: int
) -> None:
    call = inputs(0, unknown, 999)
    with pytest.raises(IndexError, match="out of range"):
        tabled(*call, layout=LAYOUT)
    rows = tabled.timestep_rows
    assert rows is not None
    with pytest.raises(BackendError, match=rf"timesteps \[{unknown}\] are not .* hold \[0, 19, 500, 999\]"):
        rows.check(call[2])
    rows.check(inputs(*TIMESTEPS[1:])[2])


def test_the_layers_memory_is_given_back(plain: SceneTransformer) -> None:
    transformer = copy.deepcopy(plain)
    before = held_bytes(transformer)
    layers = [transformer.norm_out.linear, transformer.transformer_blocks[0].norm1.linear]
    storages = [weakref.ref(layer.weight.untyped_storage()) for layer in layers]
    del layers
    freed = use_timestep_tables(transformer, TIMESTEPS)
    gc.collect()
    assert [storage() for storage in storages] == [None, None]
    assert held_bytes(transformer) == before - freed
    # Weights and biases of 2 layers' two norms and of the last one, width 32, embedding 16; the rows.
    num_outputs = 2 * 2 * 6 * 32 + 2 * 32
    assert freed == num_outputs * (16 + 1) * 4 - num_outputs * len(TIMESTEPS) * 4 - len(TIMESTEPS) * 8


def test_a_run_of_fifty_steps_with_5b_weights_needs_a_seventh_less() -> None:
    with torch.device("meta"):
        transformer = SceneTransformer(**KNOWN_MODELS["cogvideox-5b"].transformer).to(torch.bfloat16)
    before = held_bytes(transformer)
    # CogVideoX's spacing, and context's 0.
    freed = use_timestep_tables(transformer, (*range(999, 0, -20), 0))
    # docs/backends.md tells these.
    assert (round(before / 1e9, 2), round(freed / 1e9, 2)) == (11.14, 1.44)
    assert round(freed / before, 3) == 0.129

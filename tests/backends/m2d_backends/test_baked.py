"""The transformer with a layout burnt in: the same numbers, in a graph that needs no Python."""

import pytest
import torch
from m2d_backends.baked import BakedTransformer

from m2d.errors import InputError, LayoutMismatch
from m2d.layout import SceneLayout
from tests.m2d.model.tiny_model import LATENT_CHANNELS, tiny_transformer

LAYOUT = SceneLayout.build("mask2dit", text_tokens=(5, 5, 5), latent_frames=(2, 2, 2), tokens_per_frame=4)
UNEQUAL = SceneLayout.build("anchor", text_tokens=(4, 2, 3), latent_frames=(1, 3, 2), tokens_per_frame=4)


def bake(layout: SceneLayout, targets: tuple[int, ...] | None = None) -> BakedTransformer:
    torch.manual_seed(1)
    shape = (sum(layout.latent_frames), LATENT_CHANNELS, 4, 4)
    return BakedTransformer(tiny_transformer(), layout, latent_shape=shape, targets=targets)


@torch.inference_mode()
@pytest.mark.parametrize("targets", [None, (1,), (0, 2)])
@pytest.mark.parametrize("layout", [LAYOUT, UNEQUAL], ids=["equal", "unequal"])
def test_it_computes_what_the_transformer_computes_to_the_bit(layout, targets):
    baked = bake(layout, targets)
    inputs = baked.example_inputs(2, torch.float32, "cpu", 3)
    expected = baked.transformer(*inputs, layout=layout, targets=targets)
    assert torch.equal(baked(*inputs), expected)


@torch.no_grad()
def test_its_exported_graph_has_the_tables_as_constants_and_no_freedom_left():
    baked = bake(LAYOUT, (1,))
    inputs = baked.example_inputs(2, torch.float32, "cpu", 3)
    program = torch.export.export(baked, tuple(inputs), strict=False)
    assert not program.range_constraints
    assert "rotary_VR2" in program.constants
    calls = [node for node in program.graph.nodes if "scaled_dot_product" in str(node.target)]
    # Two layers: 2n calls in the first; the last serves its one target's video alone.
    assert len(calls) == 2 * 3 + 1
    assert all(len(call.args) == 3 for call in calls), "an attention call carries a mask"
    torch.testing.assert_close(program.module()(*inputs), baked(*inputs), rtol=0, atol=1e-5)


def test_example_inputs_are_equal_for_equal_seeds_alone():
    baked = bake(LAYOUT)
    first, again, other = (baked.example_inputs(1, torch.float32, "cpu", seed) for seed in (1, 1, 2))
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 4, 4, 4), "latent frames: got 5, not 6"),
        ((6, 3, 4, 4), "latent channels: got 3, not 4"),
        ((6, 4, 4, 8), "tokens per frame: got 8, not 4"),
        ((6, 4, 5, 4), "left over by the patches: got 1, not 0"),
    ],
)
def test_a_latent_shape_that_is_not_the_layouts_is_refused(shape, message):
    with pytest.raises(LayoutMismatch, match=message):
        BakedTransformer(tiny_transformer(), LAYOUT, latent_shape=shape)


def test_a_target_outside_the_layout_is_refused():
    with pytest.raises(InputError, match=r"scenes \[1, 3\]"):
        bake(LAYOUT, (1, 3))

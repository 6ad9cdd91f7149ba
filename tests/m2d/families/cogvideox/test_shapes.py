"""The tensors that a config asks for, counted without the libraries, are those of the libraries' networks."""

from __future__ import annotations

from typing import Any

import pytest

from m2d.families.cogvideox.shapes import tensor_shapes
from m2d.families.registry import FAMILIES, known_model
from m2d.families.source import resolve_model
from m2d.model.components import read_config
from tests.m2d.families.cogvideox.test_published_models import FRAMES

PARTS = ("transformer", "vae", "text_encoder")
# Tables of a learned or computed position are as large as the trained video.
FEW: dict[str, Any] = {"num_layers": 2, "sample_height": 6, "sample_width": 10, "sample_frames": 9}
OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("transformer", {"attention_bias": False, "patch_bias": False}),
    ("vae", {"block_out_channels": [32, 64, 64], "layers_per_block": 1, "latent_channels": 4}),
    ("text_encoder", {"feed_forward_proj": "relu", "relative_attention_num_buckets": 8}),
]


def assert_same(name: str, config: dict[str, Any]) -> None:
    model = FAMILIES[0].empty_part(name, config)
    tied = getattr(model, "_tied_weights_keys", None) or {}
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items() if key not in tied}
    assert tensor_shapes(name, config) == expected


@pytest.mark.parametrize("published", FRAMES)
@pytest.mark.parametrize("name", PARTS)
def test_the_shapes_of_published_models_are_those_of_their_networks(name: str, published: str) -> None:
    known = known_model(published)
    assert known is not None
    config = dict(getattr(known, name))
    assert_same(name, config | {key: value for key, value in FEW.items() if key in config})


@pytest.mark.parametrize("name", PARTS)
def test_the_shapes_of_the_embedded_model_are_those_of_its_networks(name: str) -> None:
    config = read_config(resolve_model("builtin:puppet").path, name)
    if name == "text_encoder":
        known = known_model("cogvideox-2b")
        assert known is not None
        config = {key: config[key] for key in known.text_encoder}
    assert_same(name, config)


@pytest.mark.parametrize(("name", "changes"), OTHERS)
def test_other_structures_have_the_shapes_of_their_networks(name: str, changes: dict[str, Any]) -> None:
    known = known_model("cogvideox-2b")
    assert known is not None
    config = dict(getattr(known, name)) | changes
    if "down_block_types" in config:
        for key in ("down_block_types", "up_block_types"):
            config[key] = config[key][: len(config["block_out_channels"])]
    assert_same(name, config | {key: value for key, value in FEW.items() if key in config})


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("transformer", {"activation_fn": "geglu"}),
        ("vae", {"use_quant_conv": True}),
        ("text_encoder", {"num_layers": 2.0}),
    ],
)
def test_of_a_structure_that_was_never_published_nothing_is_claimed(
    name: str, changes: dict[str, Any]
) -> None:
    known = known_model("cogvideox-2b")
    assert known is not None
    assert tensor_shapes(name, dict(getattr(known, name)) | changes) is None

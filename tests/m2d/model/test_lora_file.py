"""LoRA files: every format adds what diffusers and PEFT add, and anything else is refused by its header."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from m2d.errors import CheckpointError
from m2d.model.lora import FILE, add_lora, save_lora
from m2d.model.lora_file import LoraUse, adapted_digest, read_lora
from m2d.model.lora_weights import fuse_loras
from m2d.training.recipe_parts import LoraRecipe
from tests.m2d.model.lora_files import (
    LAYERS,
    SHAPES,
    WRITERS,
    Matrices,
    matrices,
    opened,
    use_of,
    write_diffusers,
    write_kohya,
    write_peft,
)
from tests.m2d.model.tiny_model import tiny_transformer

# Of the issue: float32 rounding of sums in another order.
LARGEST_ERROR = 1e-5


def base_model() -> nn.Module:
    torch.manual_seed(0)
    return tiny_transformer()


def stock_model() -> CogVideoXTransformer3DModel:
    ours = base_model()
    stock = CogVideoXTransformer3DModel.from_config(ours.config)
    stock.load_state_dict(ours.state_dict())
    return stock


def change(model: nn.Module) -> dict[str, Tensor]:
    """How a model's weights differ from those of the base model."""
    before = base_model().state_dict()
    return {name: weight - before[name] for name, weight in model.state_dict().items()}


def error(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Root mean square of the difference, relative to that of the expected change."""
    assert actual.keys() == expected.keys()
    ours, theirs = (torch.cat([each[name].flatten() for name in expected]) for each in (actual, expected))
    assert theirs.norm() > 1
    return float((ours - theirs).norm() / theirs.norm())


def fused(*uses: LoraUse) -> dict[str, Tensor]:
    model = base_model()
    fuse_loras(model, uses)
    return change(model)


def by_diffusers(path: Path, scale: float = 1.0) -> dict[str, Tensor]:
    model = stock_model()
    model.load_lora_adapter(str(path.parent), weight_name=path.name, prefix="transformer")
    model.fuse_lora(lora_scale=scale)
    model.unload_lora()
    return change(model)


@pytest.fixture(scope="module")
def pairs() -> Matrices:
    return matrices()


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_adds_what_diffusers_adds(name: str, pairs: Matrices, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    expected = by_diffusers(write_diffusers(tmp_path, pairs))
    file = opened(WRITERS[name](tmp_path / "ours", pairs))
    assert [layer.module for layer in file.layers] == sorted(LAYERS)
    assert error(fused(LoraUse(file=file)), expected) < LARGEST_ERROR


def test_a_peft_adapter_adds_what_peft_merges(pairs: Matrices, tmp_path: Path) -> None:
    path = write_peft(tmp_path, pairs)
    merged = PeftModel.from_pretrained(stock_model(), str(tmp_path)).merge_and_unload()
    assert error(fused(LoraUse(file=opened(path))), change(merged)) < LARGEST_ERROR


def test_what_our_training_writes_has_the_strength_that_it_was_trained_with(tmp_path: Path) -> None:
    model = base_model()
    add_lora(model, LoraRecipe(rank=2, alpha=6, parts=("attention", "feed_forward", "modulation")))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1)
    save_lora(model, tmp_path)
    model.fuse_lora()
    model.unload_lora()
    ours = fused(LoraUse(file=opened(tmp_path / FILE)))
    assert error(ours, change(model)) < LARGEST_ERROR


def test_the_same_adapters_give_the_same_file_to_the_byte(tmp_path: Path) -> None:
    files = []
    for name in ("one", "two", "three", "four"):
        model = base_model()
        add_lora(model, LoraRecipe(rank=2), seed=1)
        files.append(save_lora(model, tmp_path / name).read_bytes())
    assert len(set(files)) == 1


def test_rank_stabilized_adapters_are_divided_by_the_root_of_the_rank(
    pairs: Matrices, tmp_path: Path
) -> None:
    path = write_peft(tmp_path, pairs)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"use_rslora": True}))
    merged = PeftModel.from_pretrained(stock_model(), str(tmp_path)).merge_and_unload()
    assert error(fused(LoraUse(file=opened(path))), change(merged)) < LARGEST_ERROR


def test_without_any_alpha_the_strength_is_that_of_the_matrices(pairs: Matrices, tmp_path: Path) -> None:
    path = write_diffusers(tmp_path, pairs)
    save_file(load_file(path), path)
    assert error(fused(LoraUse(file=opened(path))), by_diffusers(path)) < LARGEST_ERROR


def test_a_peft_file_without_its_config_is_used_with_a_warning(pairs: Matrices, tmp_path: Path) -> None:
    path = write_peft(tmp_path, pairs)
    assert not opened(path).warning
    (tmp_path / "adapter_config.json").unlink()
    assert "no adapter_config.json beside it says its alpha" in opened(path).warning


def test_scales_multiply_and_several_add_up(tmp_path: Path) -> None:
    one, two = use_of(tmp_path / "one", 1, scale=0.5), use_of(tmp_path / "two", 2, scale=-2.0)
    expected = {
        name: 0.5 * first - 2 * second
        for (name, first), second in zip(
            fused(LoraUse(file=one.file)).items(), fused(LoraUse(file=two.file)).values(), strict=True
        )
    }
    assert error(fused(one, two), expected) < LARGEST_ERROR


def test_half_precision_weights_are_rounded_once(tmp_path: Path) -> None:
    use = use_of(tmp_path / "one")
    model, exact = base_model().to(torch.bfloat16), base_model()
    for weight in exact.parameters():
        weight.data = weight.data.to(torch.bfloat16).float()
    for each in (model, exact):
        fuse_loras(each, [use])
    for name, weight in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.to(torch.bfloat16)), name


def test_a_convolution_is_adapted_like_a_layer_of_its_patches(tmp_path: Path) -> None:
    name, shape = "patch_embed.proj", SHAPES["patch_embed.proj"]
    down, up = torch.randn(2, *shape[1:]), torch.randn(shape[0], 2, 1, 1)
    save_file(
        {f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": up},
        tmp_path / FILE,
    )
    expected = by_diffusers(tmp_path / FILE)
    assert error(fused(LoraUse(file=opened(tmp_path / FILE))), expected) < LARGEST_ERROR


def test_the_identity_follows_file_scale_and_scenes(tmp_path: Path) -> None:
    use, other = use_of(tmp_path / "one", 1), use_of(tmp_path / "two", 2)
    assert adapted_digest("base", ()) == "base"
    assert adapted_digest("base", (use_of(tmp_path / "one", 1, scenes=()),)) == "base"
    uses = [
        (use,),
        (other,),
        (use, other),
        (LoraUse(file=use.file, scale=0.5),),
        (LoraUse(file=use.file, scenes=(0,)),),
        (LoraUse(file=use.file, scenes=(1,)),),
    ]
    assert len({adapted_digest("base", each) for each in uses}) == len(uses)


def test_the_identity_of_a_peft_adapter_follows_its_config(pairs: Matrices, tmp_path: Path) -> None:
    path = write_peft(tmp_path, pairs)
    before = opened(path).sha256
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 4.0}))
    assert opened(path).sha256 != before


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError, match=path.name) as caught:
        read_lora(path, SHAPES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("transformer.transformer_blocks.0.attn1.to_q.lora_magnitude_vector", (32,)),
        ("lora_unet__transformer_blocks_0_attn1_to_q.hada_w1_a", (2, 32)),
        ("transformer_blocks.0.attn1.to_q.diff_b", (32,)),
        ("transformer.transformer_blocks.0.attn1.to_q.lora_B.bias", (32,)),
        ("transformer_blocks.0.attn1.to_q.weight", (32, 32)),
        ("transformer_blocks.0.attn1.to_q.alpha", (2,)),
    ],
)
def test_keys_of_another_kind_are_refused_by_name(
    key: str, shape: tuple[int, ...], pairs: Matrices, tmp_path: Path
) -> None:
    path = write_kohya(tmp_path, pairs)
    save_file({**load_file(path), key: torch.zeros(shape)}, path)
    assert f"unknown {key}; m2d reads" in refusal(path)


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        ("transformer.transformer_blocks.7.attn1.to_q", "has no transformer.transformer_blocks.7.attn1.to_q"),
        ("text_encoder.encoder.block.0.SelfAttention.q", "has no text_encoder.encoder.block.0"),
        ("lora_te_encoder_block_0", "has no lora_te_encoder_block_0"),
        ("lora_unet_blocks_0_attn_q", "has no lora_unet_blocks_0_attn_q"),
    ],
)
def test_layers_that_the_model_lacks_are_refused(
    layer: str, told: str, pairs: Matrices, tmp_path: Path
) -> None:
    path = write_kohya(tmp_path, pairs)
    more = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    save_file({**load_file(path), **more}, path)
    assert told in refusal(path)


def test_a_lora_for_another_model_is_one_line(tmp_path: Path) -> None:
    layer = "transformer.transformer_blocks.0.attn1.to_q"
    save_file(
        {f"{layer}.lora_A.weight": torch.zeros(4, 3072), f"{layer}.lora_B.weight": torch.zeros(3072, 4)},
        tmp_path / "large.safetensors",
    )
    assert (
        "is for another model: transformer_blocks.0.attn1.to_q is [32, 32] here, and the LoRA's matrices are "
        "[3072, 4] and [4, 3072]" in refusal(tmp_path / "large.safetensors")
    )


def test_half_a_pair_and_a_layer_with_two_are_refused(pairs: Matrices, tmp_path: Path) -> None:
    path = write_kohya(tmp_path, pairs)
    whole = load_file(path)
    save_file({key: value for key, value in whole.items() if "to_q.lora_up" not in key}, path)
    assert "to_q has one matrix of two" in refusal(path)
    layer = "transformer_blocks.0.attn1.to_q"
    again = {f"{layer}.lora_A.weight": torch.zeros(2, 32), f"{layer}.lora_B.weight": torch.zeros(32, 2)}
    save_file(whole | again, path)
    assert "has two pairs of matrices" in refusal(path)


def test_files_of_another_format_are_refused(pairs: Matrices, tmp_path: Path) -> None:
    path = write_kohya(tmp_path, pairs)
    assert "there is no such file" in refusal(tmp_path / "nothing.safetensors")
    assert f"a folder; give the file {path.name} in it" in refusal(tmp_path)
    (tmp_path / "lora.pt").write_bytes(b"")
    assert "a pickle, which m2d never opens" in refusal(tmp_path / "lora.pt")
    for name, data in (("text", b"no safetensors"), ("short", path.read_bytes()[:-8])):
        broken = tmp_path / f"{name}.safetensors"
        broken.write_bytes(data)
        assert "truncated or not a safetensors file: " in refusal(broken)
    save_file({"a": torch.zeros(2, dtype=torch.int8)}, tmp_path / "bytes.safetensors")
    assert "type I8" in refusal(tmp_path / "bytes.safetensors")
    save_file({}, tmp_path / "empty.safetensors")
    assert "no LoRA weights" in refusal(tmp_path / "empty.safetensors")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_dora": True}, "use_dora is set"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"lora_alpha": "1"}, "lora_alpha is '1', not a number"),
        ({"alpha_pattern": {"to_q": None}}, "to_q is None, not a number"),
        ({"alpha_pattern": {"to_q": True}}, "to_q is True, not a number"),
        ({"alpha_pattern": [1]}, "alpha_pattern is not a mapping"),
        ({"alpha_pattern": {"(.*)+$": 1.0}}, "only names of layers are supported"),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    changes: dict[str, object], told: str, pairs: Matrices, tmp_path: Path
) -> None:
    path = write_peft(tmp_path, pairs)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | changes))
    assert told in refusal(path)


def test_metadata_that_is_no_json_object_is_refused(pairs: Matrices, tmp_path: Path) -> None:
    path = write_diffusers(tmp_path, pairs)
    for text in ("[1]", "{", "[" * 100_000):
        save_file(load_file(path), path, {"lora_adapter_metadata": text})
        assert "is not a JSON object" in refusal(path)


def test_values_that_are_not_finite_are_refused_when_they_are_read(tmp_path: Path) -> None:
    use = use_of(tmp_path / "one")
    weights = load_file(use.file.path)
    weights["lora_unet_proj_out.lora_down.weight"][0, 0] = float("inf")
    save_file(weights, use.file.path)
    with pytest.raises(CheckpointError, match="proj_out has values that are not finite"):
        fused(LoraUse(file=opened(use.file.path)))


def test_a_file_that_changed_after_its_header_was_read_is_refused(tmp_path: Path) -> None:
    use = use_of(tmp_path / "one", 1)
    write_kohya(tmp_path / "one", matrices(2))
    with pytest.raises(CheckpointError, match=r"kohya.safetensors: was removed or changed after"):
        fused(use)
    use.file.path.unlink()
    with pytest.raises(CheckpointError, match=r"kohya.safetensors: was removed or changed after"):
        fused(use)

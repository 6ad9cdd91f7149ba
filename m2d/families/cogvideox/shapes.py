"""Names and shapes of the tensors that a config asks for, without the libraries that build the networks.

They take seconds to load, so most faults of a folder are found before them. Owns the structure of the
published networks alone: for another one there is no answer here, and the network itself has to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

Shape = tuple[int, ...]
_Found = Iterator[tuple[str, Shape]]

# A network whose config says anything else has other tensors.
_USUAL: Mapping[str, Mapping[str, object]] = {
    "transformer": {"activation_fn": "gelu-approximate", "norm_elementwise_affine": True},
    "vae": {"use_quant_conv": False, "use_post_quant_conv": False},
    "text_encoder": {},
}


def tensor_shapes(name: str, config: Mapping[str, Any]) -> dict[str, Shape] | None:
    """Return what a part's weights must hold; None where the config is not of a published structure.

    Args:
        name: `transformer`, `vae` or `text_encoder`.
        config: Within the bounds of `m2d.model.config_bounds`.
    """
    if any(config.get(key, usual) != usual for key, usual in _USUAL[name].items()):
        return None
    found = {"transformer": _transformer, "vae": _vae, "text_encoder": _text_encoder}[name](config)
    try:
        return dict(found)
    except (KeyError, TypeError):
        # A key without which the networks have defaults, or a number that is none.
        return None


def _linear(name: str, rows: int, columns: int, *, bias: bool = True) -> _Found:
    yield f"{name}.weight", (rows, columns)
    if bias:
        yield f"{name}.bias", (rows,)


def _norm(name: str, width: int) -> _Found:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _transformer(config: Mapping[str, Any]) -> _Found:
    head, time = config["attention_head_dim"], config["time_embed_dim"]
    width, patch, patch_t = (
        config["num_attention_heads"] * head,
        config["patch_size"],
        config.get("patch_size_t"),
    )
    channels, offset = config["in_channels"], config.get("ofs_embed_dim")
    if patch_t:
        yield from _linear("patch_embed.proj", width, channels * patch**2 * patch_t)
    else:
        yield "patch_embed.proj.weight", (width, channels, patch, patch)
        if config.get("patch_bias", True):
            yield "patch_embed.proj.bias", (width,)
    yield from _linear("patch_embed.text_proj", width, config["text_embed_dim"])
    if config.get("use_learned_positional_embeddings"):
        frames = (config["sample_frames"] - 1) // config["temporal_compression_ratio"] + 1
        tokens = frames * (config["sample_height"] // patch) * (config["sample_width"] // patch)
        yield "patch_embed.pos_embedding", (1, config["max_text_seq_length"] + tokens, width)
    yield from _linear("time_embedding.linear_1", time, width)
    yield from _linear("time_embedding.linear_2", time, time)
    if offset:
        yield from _linear("ofs_embedding.linear_1", offset, offset)
        yield from _linear("ofs_embedding.linear_2", offset, offset)
    for layer in range(config["num_layers"]):
        block = f"transformer_blocks.{layer}"
        for norm in ("norm1", "norm2"):
            yield from _linear(f"{block}.{norm}.linear", 6 * width, time)
            yield from _norm(f"{block}.{norm}.norm", width)
        for kind in ("q", "k"):
            yield from _norm(f"{block}.attn1.norm_{kind}", head)
        for kind in ("q", "k", "v"):
            yield from _linear(f"{block}.attn1.to_{kind}", width, width, bias=config["attention_bias"])
        yield from _linear(f"{block}.attn1.to_out.0", width, width)
        yield from _linear(f"{block}.ff.net.0.proj", 4 * width, width)
        yield from _linear(f"{block}.ff.net.2", width, 4 * width)
    yield from _norm("norm_final", width)
    yield from _linear("norm_out.linear", 2 * width, time)
    yield from _norm("norm_out.norm", width)
    yield from _linear("proj_out", config["out_channels"] * patch**2 * (patch_t or 1), width)


def _text_encoder(config: Mapping[str, Any]) -> _Found:
    width, inner, wide = config["d_model"], config["num_heads"] * config["d_kv"], config["d_ff"]
    gates = ("wi_0", "wi_1") if str(config["feed_forward_proj"]).startswith("gated-") else ("wi",)
    yield "shared.weight", (config["vocab_size"], width)
    for layer in range(config["num_layers"]):
        attention, forward = (f"encoder.block.{layer}.layer.{each}" for each in range(2))
        for kind in ("q", "k", "v"):
            yield f"{attention}.SelfAttention.{kind}.weight", (inner, width)
        yield f"{attention}.SelfAttention.o.weight", (width, inner)
        if layer == 0:
            buckets = (config.get("relative_attention_num_buckets", 32), config["num_heads"])
            yield f"{attention}.SelfAttention.relative_attention_bias.weight", buckets
        for gate in gates:
            yield f"{forward}.DenseReluDense.{gate}.weight", (wide, width)
        yield f"{forward}.DenseReluDense.wo.weight", (width, wide)
        for part in (attention, forward):
            yield f"{part}.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def _vae(config: Mapping[str, Any]) -> _Found:
    widths, latent, blocks = (
        config["block_out_channels"],
        config["latent_channels"],
        config["layers_per_block"],
    )
    yield from _conv("encoder.conv_in", widths[0], config["in_channels"], 3)
    yield from _levels("encoder.down_blocks", [widths[0], *widths], blocks, sampler="downsamplers")
    yield from _residuals("encoder.mid_block", [widths[-1]] * 3)
    yield from _norm("encoder.norm_out", widths[-1])
    yield from _conv("encoder.conv_out", 2 * latent, widths[-1], 3)
    yield from _conv("decoder.conv_in", widths[-1], latent, 3)
    yield from _residuals("decoder.mid_block", [widths[-1]] * 3, latent)
    ups = [widths[-1], *reversed(widths)]
    yield from _levels("decoder.up_blocks", ups, blocks + 1, sampler="upsamplers", latent=latent)
    yield from _spatial_norm("decoder.norm_out", widths[0], latent)
    yield from _conv("decoder.conv_out", config["out_channels"], widths[0], 3)


def _levels(name: str, widths: Sequence[int], blocks: int, *, sampler: str, latent: int = 0) -> _Found:
    """Yield a network's levels, each from one of the widths to the next; the last is not resampled."""
    for level, (before, after) in enumerate(pairwise(widths)):
        yield from _residuals(f"{name}.{level}", [before, *[after] * blocks], latent)
        if level < len(widths) - 2:
            resampler = f"{name}.{level}.{sampler}.0.conv"
            yield f"{resampler}.weight", (after, after, 3, 3)
            yield f"{resampler}.bias", (after,)


def _residuals(name: str, widths: Sequence[int], latent: int = 0) -> _Found:
    """Yield residual blocks, each from one of the widths to the next; those of the decoder see the latent."""
    for number, (before, after) in enumerate(pairwise(widths)):
        block = f"{name}.resnets.{number}"
        for norm, width in (("norm1", before), ("norm2", after)):
            if latent:
                yield from _spatial_norm(f"{block}.{norm}", width, latent)
            else:
                yield from _norm(f"{block}.{norm}", width)
        yield from _conv(f"{block}.conv1", after, before, 3)
        yield from _conv(f"{block}.conv2", after, after, 3)
        if before != after:
            yield f"{block}.conv_shortcut.weight", (after, before, 1, 1, 1)
            yield f"{block}.conv_shortcut.bias", (after,)


def _spatial_norm(name: str, width: int, latent: int) -> _Found:
    yield from _norm(f"{name}.norm_layer", width)
    for kind in ("y", "b"):
        yield from _conv(f"{name}.conv_{kind}", width, latent, 1)


def _conv(name: str, after: int, before: int, side: int) -> _Found:
    yield f"{name}.conv.weight", (after, before, side, side, side)
    yield f"{name}.conv.bias", (after,)

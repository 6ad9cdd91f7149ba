"""Bounds of the numbers in a model folder's configs, and the weights that a config needs at least.

They hold the published CogVideoX and T5 models with room. Work is thereby bounded before a class of another
library sees a config. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_Problem = str
_Rule = Callable[[object], _Problem]

_LONGEST_LIST = 10_000
_LONGEST_TEXT = 10_000
_DEEPEST = 8
_LARGEST_NUMBER = 1e9
_LONGEST_VALUE = 60
_MOST_BLOCKS, _WIDEST = 256, 65_536
_MOST_LEVELS = 10
_ROTARY_PARTS = 16
_ACTIVATIONS = ("silu", "swish", "mish", "gelu", "relu")
# diffusers' FeedForward.
_FEED_FORWARD = ("gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu")
_T5_ACTIVATIONS = ("relu", "silu", "gelu", "gelu_new")


def _whole(low: int, high: int) -> _Rule:
    def problem(value: object) -> _Problem:
        # A ratio may be stored as 4.0.
        is_whole = type(value) is int or (isinstance(value, float) and value.is_integer())
        if is_whole and low <= value <= high:  # type: ignore[operator]  # an int or a float, as just checked
            return ""
        return f"must be a whole number from {low:,} to {high:,}"

    return problem


def _number(low: float, high: float) -> _Rule:
    def problem(value: object) -> _Problem:
        if type(value) in (int, float) and low <= value <= high:  # type: ignore[operator]  # as just checked
            return ""
        return f"must be a number from {low:g} to {high:g}"

    return problem


def _one_of(*allowed: str) -> _Rule:
    return lambda value: "" if value in allowed else f"must be one of {', '.join(allowed)}"


def _list_of(rule: _Rule, *, most: int) -> _Rule:
    def problem(value: object) -> _Problem:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            return f"is not a list of 1 to {most:,}"
        return next((f"each {text}" for text in map(rule, value) if text), "")

    return problem


def _one_or_list(rule: _Rule, *, most: int) -> _Rule:
    listed = _list_of(rule, most=most)
    return lambda value: listed(value) if isinstance(value, list) else rule(value)


def _or_unset(rule: _Rule) -> _Rule:
    return lambda value: "" if value is None else rule(value)


_FLAG: _Rule = lambda value: "" if type(value) is bool else "must be true or false"  # noqa: E731 - a rule like the others
_BLOCKS, _WIDTH = _whole(1, _MOST_BLOCKS), _whole(1, _WIDEST)
_EPSILON = _number(1e-12, 1.0)
_SHARE = _number(0.0, 1.0)

_TRANSFORMER: Mapping[str, _Rule] = {
    **dict.fromkeys(("num_layers", "num_attention_heads"), _BLOCKS),
    "attention_head_dim": _whole(2, 1024),
    **dict.fromkeys(("in_channels", "out_channels"), _whole(1, 1024)),
    **dict.fromkeys(("text_embed_dim", "time_embed_dim", "ffn_dim", "text_dim", "freq_dim"), _WIDTH),
    "ofs_embed_dim": _or_unset(_WIDTH),
    "max_text_seq_length": _whole(1, 4096),
    "patch_size": _one_or_list(_whole(1, 32), most=3),
    "patch_size_t": _or_unset(_whole(1, 32)),
    "temporal_compression_ratio": _whole(1, 64),
    **dict.fromkeys(("sample_height", "sample_width", "sample_frames"), _or_unset(_whole(1, 4096))),
    **dict.fromkeys(("spatial_interpolation_scale", "temporal_interpolation_scale"), _number(1e-3, 1e3)),
    "activation_fn": _one_of(*_FEED_FORWARD),
    "timestep_activation_fn": _one_of(*_ACTIVATIONS),
    "norm_eps": _EPSILON,
    "dropout": _SHARE,
    "freq_shift": _number(-1e3, 1e3),
    **dict.fromkeys(
        (
            *("attention_bias", "flip_sin_to_cos", "norm_elementwise_affine", "patch_bias"),
            *("use_rotary_positional_embeddings", "use_learned_positional_embeddings"),
        ),
        _or_unset(_FLAG),
    ),
}
_VAE: Mapping[str, _Rule] = {
    "block_out_channels": _list_of(_whole(1, 16_384), most=_MOST_LEVELS),
    **dict.fromkeys(("down_block_types", "up_block_types"), _list_of(lambda _: "", most=_MOST_LEVELS)),
    **dict.fromkeys(("in_channels", "out_channels", "latent_channels", "z_dim"), _whole(1, 1024)),
    "layers_per_block": _whole(1, 64),
    "norm_num_groups": _whole(1, 4096),
    "temporal_compression_ratio": _whole(1, 64),
    **dict.fromkeys(("sample_height", "sample_width"), _whole(1, 16_384)),
    # Latents are divided by it: zero makes them infinite.
    "scaling_factor": _number(1e-6, 1e6),
    "shift_factor": _or_unset(_number(-1e6, 1e6)),
    "act_fn": _one_of(*_ACTIVATIONS),
    "norm_eps": _EPSILON,
    **dict.fromkeys(("use_quant_conv", "use_post_quant_conv", "force_upcast"), _or_unset(_FLAG)),
}
_TEXT_ENCODER: Mapping[str, _Rule] = {
    **dict.fromkeys(("num_layers", "num_heads"), _BLOCKS),
    "num_decoder_layers": _or_unset(_whole(0, _MOST_BLOCKS)),
    **dict.fromkeys(("d_model", "d_ff"), _WIDTH),
    "d_kv": _whole(1, 1024),
    "vocab_size": _whole(2, 1 << 20),
    "relative_attention_num_buckets": _whole(4, 4096),
    "relative_attention_max_distance": _whole(8, 65_536),
    "dropout_rate": _SHARE,
    "layer_norm_epsilon": _EPSILON,
    **dict.fromkeys(("pad_token_id", "eos_token_id"), _whole(0, 1 << 20)),
    "feed_forward_proj": _one_of(*_T5_ACTIVATIONS, *(f"gated-{name}" for name in _T5_ACTIVATIONS)),
    "dense_act_fn": _or_unset(_one_of(*_T5_ACTIVATIONS)),
}
_SCHEDULER: Mapping[str, _Rule] = {
    "num_train_timesteps": _whole(1, 10_000),
    **dict.fromkeys(("beta_start", "beta_end"), _number(1e-8, 0.999)),
    "beta_schedule": _one_of("linear", "scaled_linear", "squaredcos_cap_v2"),
    "trained_betas": _or_unset(_list_of(_SHARE, most=_LONGEST_LIST)),
    "snr_shift_scale": _number(1e-3, 1e3),
    "steps_offset": _whole(0, 1000),
    "solver_order": _whole(1, 3),
    "timestep_spacing": _one_of("leading", "linspace", "trailing"),
    "prediction_type": _one_of("epsilon", "sample", "v_prediction", "flow_prediction"),
    **dict.fromkeys(("rescale_betas_zero_snr", "set_alpha_to_one", "clip_sample"), _or_unset(_FLAG)),
}


def _relations_of_transformer(config: Mapping[str, Any]) -> Iterator[_Problem]:
    head_width = config.get("attention_head_dim", 64)
    if config.get("use_rotary_positional_embeddings") and head_width % _ROTARY_PARTS:
        yield (
            f"attention_head_dim: {head_width} must be a multiple of {_ROTARY_PARTS} for rotary positions in "
            "time, height and width"
        )


def _relations_of_vae(config: Mapping[str, Any]) -> Iterator[_Problem]:
    channels, groups = config.get("block_out_channels", []), config.get("norm_num_groups", 1)
    for key in ("down_block_types", "up_block_types"):
        if len(config.get(key, channels)) != len(channels):
            yield f"{key}: has {len(config[key])} entries, block_out_channels {len(channels)}"
    if any(each % groups for each in channels):
        yield f"norm_num_groups: {groups} does not divide each of block_out_channels {channels}"


_RELATIONS: Mapping[str, Callable[[Mapping[str, Any]], Iterator[_Problem]]] = {
    "transformer": _relations_of_transformer,
    "vae": _relations_of_vae,
}
_RULES: Mapping[str, Mapping[str, _Rule]] = {
    "transformer": _TRANSFORMER,
    "vae": _VAE,
    "text_encoder": _TEXT_ENCODER,
    "scheduler": _SCHEDULER,
}


def config_problems(name: str, config: Mapping[str, Any]) -> Iterator[str]:
    """Name the entries of a component's config that are outside the bounds, each with its value.

    Args:
        name: `transformer`, `vae`, `text_encoder` or `scheduler`; others have no bounds.
    """
    rules = _RULES.get(name, {})
    found = [
        f"{key}: {_brief(value)} {problem}"
        for key, value in config.items()
        if rules and (problem := rules.get(key, _anything)(value))
    ]
    yield from found
    if not found and name in _RELATIONS:
        yield from _RELATIONS[name](config)


def least_parameters(name: str, config: Mapping[str, Any]) -> int:
    """Count the parameters of a component's large matrices; a sound model has more.

    Args:
        config: Within the bounds; 0 is returned where it is not that of a known class.
    """
    counts = {"transformer": _of_transformer, "vae": _of_vae, "text_encoder": _of_text_encoder}
    try:
        return counts[name](config)
    except (KeyError, TypeError):
        return 0


def table_values(config: Mapping[str, Any]) -> int:
    """Count the values of the position table that a transformer's config makes diffusers compute."""
    is_needed = not config.get("use_rotary_positional_embeddings")
    if not is_needed and not config.get("use_learned_positional_embeddings"):
        return 0
    try:
        side = config["patch_size"]
        tokens = config["sample_frames"] * config["sample_height"] * config["sample_width"] // side**2
        return int(tokens * config["num_attention_heads"] * config["attention_head_dim"])
    except (KeyError, TypeError):
        return 0


def _of_transformer(config: Mapping[str, Any]) -> int:
    width = config["num_attention_heads"] * config["attention_head_dim"]
    feed_forward = 2 * width * config.get("ffn_dim", 4 * width)
    return int(config["num_layers"] * (4 * width * width + feed_forward))


def _of_vae(config: Mapping[str, Any]) -> int:
    # Every residual block of encoder and decoder ends with a 3x3x3 convolution between equal widths.
    blocks = 2 * config["layers_per_block"] + 1
    return int(sum(blocks * 27 * channels**2 for channels in config["block_out_channels"]))


def _of_text_encoder(config: Mapping[str, Any]) -> int:
    width, inner = config["d_model"], config["num_heads"] * config["d_kv"]
    layers = config["num_layers"] * (4 * width * inner + 2 * width * config["d_ff"])
    return int(layers + config["vocab_size"] * width)


def _anything(value: object, *, depth: int = 0) -> _Problem:
    """Check an entry that has no rule of its own."""
    if isinstance(value, bool) or value is None:
        return ""
    if isinstance(value, int | float):
        # NaN is not smaller than anything.
        return "" if abs(value) <= _LARGEST_NUMBER else f"is not a number up to {_LARGEST_NUMBER:g}"
    if isinstance(value, str):
        return "" if len(value) <= _LONGEST_TEXT else f"is longer than {_LONGEST_TEXT:,} letters"
    items: Sequence[object] = list(value.values()) if isinstance(value, dict) else value  # type: ignore[assignment]  # JSON has no other types
    if depth == _DEEPEST or len(items) > _LONGEST_LIST:
        return f"has more than {_LONGEST_LIST:,} entries or {_DEEPEST} levels"
    return next((text for text in (_anything(item, depth=depth + 1) for item in items) if text), "")


def _brief(value: object) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."

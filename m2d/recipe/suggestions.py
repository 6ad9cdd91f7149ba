"""What a user may have meant by an unknown key: another spelling, another program's word, another section.

Owns the words that other programs and older scripts use for the same setting; knows models only as pydantic
models.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, RootModel

from m2d.recipe.places import KeyPath

_MAX_COMPARED_CHARACTERS = 60
_DEEPEST_SECTION = 4

# Words for one setting; which of them a document knows is up to its model.
_SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("num_inference_steps", "steps", "num_steps", "inference_steps", "sampling_steps", "sample_steps"),
    ("guidance_scale", "guidance", "cfg_scale", "text_guidance_scale", "scale"),
    ("negative_prompt", "negative", "neg_prompt", "negative_text", "neg_text", "uncond_prompt"),
    ("num_frames", "frames", "length", "video_length", "frame_count", "num_latent_frames"),
    ("scheduler", "sampler", "solver"),
    ("seed", "random_seed", "noise_seed", "manual_seed"),
    ("fps", "frame_rate", "framerate", "frames_per_second"),
    ("height", "video_height", "sample_height"),
    ("width", "video_width", "sample_width"),
    ("scenes", "shots", "prompts", "clips", "segments", "shot_captions", "video_prompts"),
    ("prompt", "text", "caption", "description", "shot_caption"),
    ("setting", "place", "location", "background", "environment", "scenery", "global_caption"),
    ("cast", "actors", "characters", "people", "subjects"),
    ("title", "name", "story_name"),
    ("output", "out", "output_path", "filename", "file_name", "file"),
    ("model", "model_path", "model_id", "checkpoint", "base_model", "pretrained_model_name_or_path"),
    ("dtype", "precision", "torch_dtype", "mixed_precision"),
    ("name", "backend"),
    ("match_colour", "match_color", "color_match", "colour_match"),
    ("upscale", "upscaling", "scale_factor", "enlarge"),
    ("join", "transition", "cut"),
    ("mask", "attention_mask", "mask_type"),
    ("speed", "cache", "teacache", "step_caching"),
    ("lr", "learning_rate"),
    ("steps", "max_train_steps", "num_train_steps", "train_steps", "max_steps", "iterations"),
    ("batch_size", "train_batch_size", "batch"),
    ("accumulate", "gradient_accumulation_steps", "accumulation_steps"),
    ("schedule", "lr_scheduler"),
    ("warmup_steps", "lr_warmup_steps", "warmup", "num_warmup_steps"),
    ("grad_clip", "max_grad_norm", "gradient_clip", "clip_grad"),
    ("checkpoint", "checkpointing"),
    ("every_steps", "checkpointing_steps", "save_every", "save_steps"),
    ("keep", "checkpoints_total_limit", "checkpointing_limit"),
    ("trackers", "report_to", "tracker"),
    ("ema_decay", "ema", "use_ema"),
    ("loras", "lora", "lora_path", "lora_paths", "lora_weights", "adapters"),
    ("rank", "lora_rank"),
    ("alpha", "lora_alpha"),
    ("source", "path", "dataset", "data_path"),
)


def known_keys(model: type[BaseModel], key_path: KeyPath) -> list[str]:
    """Return the keys allowed in the mapping at `key_path`; none if its model is ambiguous."""
    annotation: Any = model
    for step in key_path:
        annotation = _child(annotation, step)
    return _keys_of(_model_in(annotation))


def field_paths(model: type[BaseModel]) -> list[str]:
    """Return the dotted paths of all fields outside lists and mappings, as `sampling.seed`."""
    return [path for _, path in _paths(model)]


def field_meant(word: str, model: type[BaseModel]) -> str:
    """Return the dotted path of the field that a word of any program names; empty for an unknown word."""
    paths = dict(reversed([*_paths(model)]))
    key = _words(paths).get(word.lower().replace("-", "_"))
    return paths[key] if key else ""


def unknown_key_message(model: type[BaseModel], key_path: KeyPath) -> str:
    """Return the message for a key that `model` does not have, with the nearest one that it has."""
    key = str(key_path[-1])
    known = known_keys(model, key_path[:-1])
    meant = _meant(key, model, known)
    if meant:
        return f"unknown key; did you mean {meant}?"
    hint = "; a prompt that holds a colon needs quotes" if " " in key else ""
    allowed = f"; known here: {', '.join(known)}" if known else ""
    return f"unknown key{allowed}{hint}"


def _meant(key: str, model: type[BaseModel], known: Sequence[str]) -> str:
    """Return a key of this section, or the dotted path of one in another section; empty if none is near."""
    key = key[:_MAX_COMPARED_CHARACTERS]
    plain = key.lower().replace("-", "_")
    here = _words(known)
    if plain in here:
        return here[plain]
    others = dict(reversed([*_paths(model)]))
    if plain in (elsewhere := _words(others)):
        return others[elsewhere[plain]]
    if near := get_close_matches(plain, here, n=1):
        return here[near[0]]
    far = get_close_matches(plain, elsewhere, n=1, cutoff=0.8)
    return others[elsewhere[far[0]]] if far else ""


def _words(keys: Sequence[str] | Mapping[str, object]) -> dict[str, str]:
    """Return every word for one of `keys` with the key; a key's own name wins."""
    words = {
        word: key
        for synonyms in reversed(_SYNONYMS)
        for key in reversed(synonyms)
        if key in keys
        for word in synonyms
    }
    return words | {key: key for key in keys}


def _paths(model: type[BaseModel], *, before: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield every key with its dotted path, outer sections first, without entries of lists and mappings."""
    inner = []
    for name, field in model.model_fields.items():
        path = f"{before}{field.alias or name}"
        yield field.alias or name, path
        section = _model_in(field.annotation)
        if section is not None and depth < _DEEPEST_SECTION:
            inner.append((section, f"{path}."))
    for section, start in inner:
        yield from _paths(section, before=start, depth=depth + 1)


def _keys_of(model: type[BaseModel] | None) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()] if model else []


def _child(annotation: Any, step: str | int) -> Any:
    owner = _model_in(annotation)
    if owner is not None and issubclass(owner, RootModel):
        return _child(owner.model_fields["root"].annotation, step)
    if owner is not None:
        field = owner.model_fields.get(str(step))
        return field.annotation if field else None
    for choice in _choices(annotation):
        origin, arguments = get_origin(choice), get_args(choice)
        if isinstance(origin, type) and arguments and issubclass(origin, Mapping | Sequence):
            return arguments[-1] if issubclass(origin, Mapping) else arguments[0]
    return None


def _model_in(annotation: Any) -> type[BaseModel] | None:
    models = [
        choice
        for choice in _choices(annotation)
        if isinstance(choice, type) and issubclass(choice, BaseModel)
    ]
    return models[0] if len(models) == 1 else None


def _choices(annotation: Any) -> list[Any]:
    """Return the alternatives of a union, without `Annotated` around them."""
    if get_origin(annotation) is Annotated:
        return _choices(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [choice for argument in get_args(annotation) for choice in _choices(argument)]
    return [annotation]

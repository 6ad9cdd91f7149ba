"""CogVideoX 1.0 and 1.5, text- and image-to-video: class names, sizes, and how each part is loaded.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from m2d.errors import LIBRARY_ERRORS, CheckpointError, first_line
from m2d.families.cogvideox.known_sizes import KNOWN_MODELS
from m2d.families.cogvideox.sampling import default_sampling
from m2d.families.cogvideox.shapes import tensor_shapes
from m2d.families.cogvideox.sizes import compression_of, default_settings, geometry_of, read_geometry
from m2d.families.family import KnownModel, ModelFamily, VaeCosts
from m2d.garbage import no_collection
from m2d.model.checkpoint import build_model, check_shapes, check_weights, load_weights
from m2d.model.components import COMPONENTS, PIPELINE, check_components, read_config
from m2d.model.tokenizer import PromptTokenizer, read_tokenizer

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLCogVideoX
    from torch import nn
    from transformers import T5EncoderModel

    from m2d.families.cogvideox.text import T5TextEncoder
    from m2d.families.cogvideox.transformer import SceneTransformer
    from m2d.families.cogvideox.vae import CogVideoXVae

# Of a text encoder's config, what shapes the model; the rest says how it was made.
_T5_KEYS = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("dropout_rate", "layer_norm_epsilon", "pad_token_id", "eos_token_id"),
)
# Files of T5 may hold its vocabulary twice.
_T5_COPIES = ("encoder.embed_tokens.weight",)
# A key of the official Mask2DiT configs that diffusers' class does not know: the mask is the layout's.
_OFFICIAL_KEYS = frozenset({"attn_msk_version"})
_OFFICIAL_CLASS = "MultiPromptCogVideoXTransformer3DModel"
CLASSES: Mapping[str, tuple[str, ...]] = {
    # Of diffusers, then of CogVideoX-Fun. Models for control videos have channels that mean something else.
    PIPELINE: (
        *("CogVideoXPipeline", "CogVideoXImageToVideoPipeline", "CogVideoXVideoToVideoPipeline"),
        *("CogVideoXFunPipeline", "CogVideoXFunInpaintPipeline"),
        *("CogVideoX_Fun_Pipeline", "CogVideoX_Fun_Pipeline_Inpaint"),
    ),
    "transformer": (*("CogVideoXTransformer3DModel", _OFFICIAL_CLASS, "SceneTransformer"),),
    "vae": ("AutoencoderKLCogVideoX",),
    "text_encoder": ("T5EncoderModel",),
    "tokenizer": ("T5Tokenizer", "T5TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend"),
    "scheduler": (
        *("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler"),
        *("DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"),
    ),
}
"""Component, or `PIPELINE`, to the class names that a folder may give."""


def _load_transformer(path: Path, *, device: str | torch.device, dtype: torch.dtype) -> SceneTransformer:
    model = _empty_transformer(path)
    return load_weights(model, path, "transformer", device=device, dtype=dtype)


def _empty_transformer(path: Path) -> SceneTransformer:
    with no_collection():
        from m2d.families.cogvideox.transformer import SceneTransformer

    check_components(path, ["transformer"], CLASSES)
    model: SceneTransformer = build_model(SceneTransformer, path, "transformer", ignored=_OFFICIAL_KEYS)
    return model


def _build_transformer(**config: Any) -> SceneTransformer:
    from m2d.families.cogvideox.transformer import SceneTransformer

    model: SceneTransformer = SceneTransformer(**config)
    return model


def _load_vae(path: Path, *, device: str | torch.device, dtype: torch.dtype) -> CogVideoXVae:
    with no_collection():
        from m2d.families.cogvideox.vae import CogVideoXVae

    module = load_weights(_empty_vae(path), path, "vae", device=device, dtype=dtype)
    return CogVideoXVae(module, frames_per_token=_frames_per_token(path))


def _empty_vae(path: Path) -> AutoencoderKLCogVideoX:
    with no_collection():
        from diffusers import AutoencoderKLCogVideoX

    check_components(path, ["vae"], CLASSES)
    module: AutoencoderKLCogVideoX = build_model(AutoencoderKLCogVideoX, path, "vae")
    for key in ("latents_mean", "latents_std"):
        if module.config[key] is not None:
            raise CheckpointError(
                f"{path / 'vae' / 'config.json'}: {key} is not supported; remove it if it is unused"
            )
    return module


def _frames_per_token(path: Path) -> int:
    if not (path / "transformer").is_dir():
        return 1
    return int(read_config(path, "transformer").get("patch_size_t") or 1)


def _load_text(
    path: Path, tokenizer: PromptTokenizer, *, device: str | torch.device, dtype: torch.dtype
) -> T5TextEncoder:
    with no_collection():
        from m2d.families.cogvideox.text import T5TextEncoder

    model = load_weights(_empty_text_encoder(path), path, "text_encoder", device=device, dtype=dtype)
    return T5TextEncoder(model, tokenizer)


def _empty_text_encoder(path: Path) -> T5EncoderModel:
    with no_collection():
        from accelerate import init_empty_weights
        from huggingface_hub.errors import StrictDataclassError
        from transformers import T5Config, T5EncoderModel

    check_components(path, ["text_encoder"], CLASSES)
    config = {key: value for key, value in read_config(path, "text_encoder").items() if key in _T5_KEYS}
    try:
        with init_empty_weights(include_buffers=False):
            return T5EncoderModel(T5Config(**config, is_encoder_decoder=False, use_cache=False))
    except (*LIBRARY_ERRORS, StrictDataclassError) as error:
        raise CheckpointError(
            f"{path / 'text_encoder' / 'config.json'}: describes no T5 encoder: {first_line(error)}"
        ) from error


def _check_shapes(path: Path, names: Iterable[str]) -> None:
    for name in names:
        expected = tensor_shapes(name, read_config(path, name)) if COMPONENTS[name].stem else None
        if expected is not None:
            check_shapes(expected, path, name, tied=_T5_COPIES if name == "text_encoder" else ())


def _check_parts(path: Path, names: Iterable[str]) -> None:
    empty: Mapping[str, Callable[[Path], nn.Module]] = {
        "transformer": _empty_transformer,
        "vae": _empty_vae,
        "text_encoder": _empty_text_encoder,
    }
    for name in names:
        if name in empty:
            check_weights(empty[name](path), path, name)


def _load_tokenizer(path: Path, max_tokens: int) -> PromptTokenizer:
    check_components(path, ["tokenizer"], CLASSES)
    return read_tokenizer(path, max_tokens=max_tokens)


def _scheduler(path: Path, name: str | None) -> Any:
    from m2d.diffusion.schedulers import scheduler_from_config

    check_components(path, ["scheduler"], CLASSES)
    return scheduler_from_config(read_config(path, "scheduler"), name)


def _write_random_folder(folder: Path, known: KnownModel, **options: Any) -> None:
    from m2d.families.cogvideox.random_folder import write_random_folder

    write_random_folder(folder, known, **options)


def _empty_part(name: str, config: Mapping[str, Any]) -> nn.Module:
    from m2d.families.cogvideox.costs import empty_part

    known = {key: value for key, value in config.items() if name != "text_encoder" or key in _T5_KEYS}
    return empty_part(name, known)


def _vae_costs(config: Mapping[str, Any], latent_shape: tuple[int, int, int], **options: Any) -> VaeCosts:
    from m2d.families.cogvideox.costs import vae_costs

    return vae_costs(config, latent_shape, **options)


COGVIDEOX = ModelFamily(
    name="CogVideoX",
    classes=CLASSES,
    joint_classes=(_OFFICIAL_CLASS,),
    default_settings=default_settings,
    default_sampling=default_sampling,
    read_geometry=read_geometry,
    geometry_of=geometry_of,
    compression=compression_of,
    load_transformer=_load_transformer,
    build_transformer=_build_transformer,
    load_vae=_load_vae,
    load_text=_load_text,
    load_tokenizer=_load_tokenizer,
    scheduler=_scheduler,
    check_shapes=_check_shapes,
    check_parts=_check_parts,
    empty_part=_empty_part,
    vae_costs=_vae_costs,
    # As diffusers and transformers call them, so that these open a folder of ours without m2d.
    saved_classes={
        "transformer": ("diffusers", "CogVideoXTransformer3DModel"),
        "vae": ("diffusers", "AutoencoderKLCogVideoX"),
        "text_encoder": ("transformers", "T5EncoderModel"),
        "tokenizer": ("transformers", "T5TokenizerFast"),
        "scheduler": ("diffusers", "CogVideoXDDIMScheduler"),
    },
    known_models=KNOWN_MODELS,
    write_random_folder=_write_random_folder,
)

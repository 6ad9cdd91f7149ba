"""Model folders to models.

Owns loading: every tensor is checked against the config before any is read, so that no model is ever partial.
Finding folders is `m2d.model.source`, re-exported here. Importing this module imports no torch; that happens
when something is loaded.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from m2d.errors import CheckpointError
from m2d.garbage import no_collection
from m2d.model.components import COMPONENTS, check_components, read_config
from m2d.model.folder import StoredTensor, find_weights, first_few
from m2d.model.sizes import ModelSettings
from m2d.model.source import BUILTIN_PUPPET, ModelSource, builtin_folder, resolve_model
from m2d.model.tokenizer import PromptTokenizer, read_tokenizer

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLCogVideoX
    from torch import nn

    from m2d.model.text import TextEncoder
    from m2d.model.transformer import SceneTransformer

__all__ = [
    "BUILTIN_PUPPET",
    "builtin_folder",
    "ModelSettings",
    "ModelSource",
    "check_components",
    "load_codec",
    "load_text",
    "load_tokenizer",
    "load_transformer",
    "read_scheduler_config",
    "resolve_model",
]

# Of a text encoder's config, what shapes the model; the rest says how it was made.
_T5_KEYS = (
    *("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("dropout_rate", "layer_norm_epsilon", "pad_token_id", "eos_token_id"),
)
# A key of the official Mask2DiT configs that diffusers' class does not know: the mask is the layout's matter.
_OFFICIAL_KEYS = frozenset({"attn_msk_version"})

ModelT = TypeVar("ModelT", bound="nn.Module")
P, LoadedT = ParamSpec("P"), TypeVar("LoadedT")
# accelerate's `init_empty_weights` patches torch.nn.Module for every thread: what another thread builds
# meanwhile would be without storage, too.
_BUILDING = threading.Lock()


def _one_at_a_time(load: Callable[P, LoadedT]) -> Callable[P, LoadedT]:
    """Let one thread at a time build a model."""

    @functools.wraps(load)
    def locked(*args: P.args, **kwargs: P.kwargs) -> LoadedT:
        with _BUILDING:
            return load(*args, **kwargs)

    return locked


@_one_at_a_time
def load_transformer(
    source: ModelSource | Path, *, device: str | torch.device, dtype: torch.dtype
) -> SceneTransformer:
    """Load the diffusion transformer.

    Args:
        source: A resolved model, or a folder of which only this component is needed.
        device: Where it goes.
        dtype: What it computes in, whatever it is stored in.

    Raises:
        CheckpointError: The config describes no model m2d can run, or the weights are not that model's.
    """
    with no_collection():
        from m2d.model.transformer import SceneTransformer

    path = _checked_folder(source, "transformer")
    model: SceneTransformer = _build(SceneTransformer, path, "transformer")
    return _filled(model, path, "transformer", device=device, dtype=dtype)


@_one_at_a_time
def load_codec(
    source: ModelSource | Path, *, device: str | torch.device, dtype: torch.dtype
) -> AutoencoderKLCogVideoX:
    """Load the VAE; see `load_transformer`."""
    with no_collection():
        from diffusers import AutoencoderKLCogVideoX

    path = _checked_folder(source, "vae")
    codec: AutoencoderKLCogVideoX = _build(AutoencoderKLCogVideoX, path, "vae")
    for key in ("latents_mean", "latents_std"):
        if codec.config[key] is not None:
            raise CheckpointError(
                f"{path / 'vae' / 'config.json'}: {key} is not supported; remove it if it is unused"
            )
    return _filled(codec, path, "vae", device=device, dtype=dtype)


@_one_at_a_time
def load_text(
    source: ModelSource | Path,
    *,
    device: str | torch.device,
    dtype: torch.dtype,
    max_tokens: int | None = None,
) -> TextEncoder:
    """Load tokenizer and text encoder; see `load_transformer`.

    Args:
        source: A resolved model, or a folder without a transformer: then `max_tokens` must be given.
        device: Where the encoder goes.
        dtype: What it computes in.
        max_tokens: Tokens that every prompt is padded to; None: as many as the model was made for.
    """
    with no_collection():
        from accelerate import init_empty_weights
        from huggingface_hub.errors import StrictDataclassError
        from transformers import T5Config, T5EncoderModel

        from m2d.model.text import TextEncoder

    path = _checked_folder(source, "text_encoder")
    tokenizer = load_tokenizer(source, max_tokens=max_tokens)
    config = {key: value for key, value in read_config(path, "text_encoder").items() if key in _T5_KEYS}
    try:
        with init_empty_weights(include_buffers=False):
            model = T5EncoderModel(T5Config(**config, is_encoder_decoder=False, use_cache=False))
    except (TypeError, ValueError, KeyError, StrictDataclassError) as error:
        raise CheckpointError(
            f"{path / 'text_encoder' / 'config.json'}: describes no T5 encoder: {error}"
        ) from error
    model = _filled(model, path, "text_encoder", device=device, dtype=dtype)
    return TextEncoder(model, tokenizer)


def load_tokenizer(source: ModelSource | Path, *, max_tokens: int | None = None) -> PromptTokenizer:
    """Load the tokenizer alone: no torch, no weights. See `load_text`."""
    path = _checked_folder(source, "tokenizer")
    if max_tokens is None:
        max_tokens = (
            source if isinstance(source, ModelSource) else resolve_model(str(source))
        ).geometry.max_text_tokens
    return read_tokenizer(path, max_tokens=max_tokens)


def read_scheduler_config(source: ModelSource | Path) -> dict[str, Any]:
    """Read the scheduler's config, for `m2d.diffusion.schedulers.scheduler_from_config`.

    Raises:
        CheckpointError: It is missing or names a class that is not supported.
    """
    return read_config(_checked_folder(source, "scheduler"), "scheduler")


def _checked_folder(source: ModelSource | Path, name: str) -> Path:
    path = source.path if isinstance(source, ModelSource) else source
    check_components(path, [name])
    return path


def _build(model_class: Any, path: Path, name: str) -> Any:
    """Construct a diffusers model from its config, its parameters still without storage."""
    from accelerate import init_empty_weights

    place = path / name / COMPONENTS[name].config
    config = {key: value for key, value in read_config(path, name).items() if not key.startswith("_")}
    known = inspect.signature(model_class.__init__).parameters.keys() - {"self"}
    # A key that is unset cannot change anything; any other may make it a different model.
    unknown = {key for key in config.keys() - known - _OFFICIAL_KEYS if config[key] not in (None, False)}
    if unknown:
        raise CheckpointError(
            f"{place}: unknown {first_few(unknown)}; this is a variant that m2d does not know"
        )
    try:
        with init_empty_weights(include_buffers=False):
            return model_class(**{key: value for key, value in config.items() if key in known})
    except (TypeError, ValueError, ZeroDivisionError, IndexError, RuntimeError) as error:
        raise CheckpointError(f"{place}: describes no model that m2d can run: {error}") from error


def _filled(
    model: ModelT, path: Path, name: str, *, device: str | torch.device, dtype: torch.dtype
) -> ModelT:
    """Give a model its weights, after making sure that these are exactly its own."""
    import torch
    from safetensors.torch import load_file

    stored = find_weights(path, name, COMPONENTS[name].stem)
    tied: Mapping[str, str] = getattr(model, "_tied_weights_keys", None) or {}
    _check_fit(model, stored, tied, place=path / name)
    for file in sorted({tensor.file for tensor in stored.values()}):
        wanted = {key: tensor for key, tensor in load_file(file).items() if key not in tied}
        model.load_state_dict(wanted, strict=False, assign=True)
    for copy, original in tied.items():
        owner, _, attribute = copy.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(original))
    # Not the model's own method: diffusers 0.42 warns on every cast, about an empty list of layers.
    torch.nn.Module.to(model, device=device, dtype=dtype)
    if dtype == torch.float16:
        # T5's feed-forward outputs overflow half precision; transformers names the layers to keep.
        for layer in getattr(model, "_keep_in_fp32_modules", None) or ():
            for module_name, module in model.named_modules():
                if module_name.rpartition(".")[2] == layer:
                    module.float()
    return model.eval()


def _check_fit(
    model: nn.Module, stored: Mapping[str, StoredTensor], tied: Mapping[str, str], *, place: Path
) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = expected.keys() - stored.keys() - tied.keys()
    foreign = stored.keys() - expected.keys()
    misshapen = [
        f"{name} {list(stored[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in stored and stored[name].shape != shape
    ]
    problems = [
        f"{what}: {first_few(names)}"
        for what, names in (
            ("missing", missing),
            ("not of this model", foreign),
            ("of the wrong shape", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{place}: the weights do not fit config.json: {'; '.join(problems)}; get both from one model"
        )

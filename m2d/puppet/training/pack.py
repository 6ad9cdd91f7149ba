"""Pack trained parts into the embedded model's folder: VAE, text encoder, tokenizer, scheduler, transformer.

Owns which run or model each part comes from, and the folder's default sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler
from safetensors.torch import save
from torch import Tensor, nn

from m2d.errors import CheckpointError, InputError
from m2d.families.loading import load_vae
from m2d.families.saving import copy_component, write_component, write_model_index, write_settings
from m2d.families.source import resolve_model, settings_of
from m2d.files import write_bytes
from m2d.model.checkpoint import load_tensors
from m2d.model.settings import PUPPET_SAMPLING, ModelSettings
from m2d.progress import Reporter
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE
from m2d.puppet.tokenizer import build_tokenizer
from m2d.puppet.training.text_encoder import CaptionClassifier, TextEncoderRecipe
from m2d.puppet.training.vae import ENCODER, VaeRecipe, build_vae, is_decoder_alone, latent_std
from m2d.puppet.training.vae_widening import decoder_channels, widened
from m2d.reading import memory_limit_bytes, read_bytes
from m2d.recipe.loader import load_document
from m2d.training.folder import publish_folder
from m2d.training.state import load_run_average

_NUM_SCENES = 3
_FPS = 8
_TRANSFORMER_FILE = "transformer/diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class PackPlan:
    """The parts of the new model folder.

    Attributes:
        vae_run: Run folder; as for the other parts, None takes the part of the base.
        base: Model folder for all parts without a run; it may lack an attribute classifier.
        transformer: Model folder of the transformer; None leaves the transformer to be trained.
        change: Two model folders with transformers of the same sizes, before and after a training: what it
            changed is added to the transformer (task arithmetic, arXiv 2212.04089).
        out: The new model folder; replaces an existing one.
    """

    vae_recipe: Path
    vae_run: Path | None
    text_recipe: Path
    text_run: Path | None
    out: Path
    base: Path | None = None
    classifier_run: Path | None = None
    transformer: Path | None = None
    change: tuple[Path, Path] | None = None


def pack_model(plan: PackPlan, reporter: Reporter) -> Path:
    """Write the model folder; the transformer and the attribute classifier are optional.

    Raises:
        CheckpointError: A run has no checkpoint that verifies, another recipe made it, or the transformer
            does not fit VAE and text encoder, or the two of `change`.
        InputError: A run trained the VAE's decoder alone, and there is no base to take its encoder from.
        OutputError: The disk refused.
    """
    vae_recipe = load_document(plan.vae_recipe, VaeRecipe)
    text_recipe = load_document(plan.text_recipe, TextEncoderRecipe)
    with reporter.stage("pack"), publish_folder(plan.out, replace=True, with_manifest=False) as part:
        if plan.vae_run is not None:
            _write_vae(part, vae_recipe, plan.vae_run, base=plan.base)
        if plan.text_run is not None:
            _write_text(part, text_recipe, plan.text_run)
        from_base = ["vae"] if plan.vae_run is None else []
        from_base += ["text_encoder", "tokenizer"] if plan.text_run is None else []
        for name in from_base:
            assert plan.base is not None
            copy_component(plan.base, name, part)
        scheduler = CogVideoXDDIMScheduler(
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
            snr_shift_scale=1.0,
        )
        scheduler.save_pretrained(part / "scheduler")
        if plan.classifier_run is not None:
            _write_classifier(part, plan.classifier_run)
        elif plan.base is not None and (plan.base / CLASSIFIER_FILE).is_file():
            write_bytes(
                part / CLASSIFIER_FILE,
                read_bytes(plan.base / CLASSIFIER_FILE, limit_bytes=memory_limit_bytes()),
            )
        if plan.transformer is None:
            settings = ModelSettings(
                num_scenes=_NUM_SCENES,
                default_num_frames=vae_recipe.num_frames,
                default_height=vae_recipe.height,
                default_width=vae_recipe.width,
                default_fps=_FPS,
                world="puppet",
                sampling=PUPPET_SAMPLING,
            )
            write_settings(part, settings)
        else:
            # The transformer decides the number and the size of scenes.
            write_settings(part, settings_of(plan.transformer))
            copy_component(plan.transformer, "transformer", part)
            if plan.change is not None:
                _add_change(part, *plan.change)
        write_model_index(part)
        if plan.transformer is not None:
            # Raises if the transformer does not fit the VAE or the text encoder.
            resolve_model(str(part))
    return plan.out


def _add_change(folder: Path, before: Path, after: Path) -> None:
    """Add to a folder's transformer what a training changed from one model to another."""
    path, relative = folder / _TRANSFORMER_FILE, Path(_TRANSFORMER_FILE)
    weights, old, new = (load_tensors(each) for each in (path, before / relative, after / relative))
    if not _shapes(weights) == _shapes(old) == _shapes(new):
        raise CheckpointError(f"{after}: its transformer does not have the tensors of the one to be changed")
    changed = {
        name: (value.float() + new[name].float() - old[name].float()).to(value.dtype)
        for name, value in weights.items()
    }
    write_bytes(path, save(changed, metadata={"format": "pt"}))


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in weights.items()}


def _write_vae(folder: Path, recipe: VaeRecipe, run: Path, *, base: Path | None) -> None:
    weights = load_run_average(run)
    if is_decoder_alone(weights):
        vae = _base_vae(base, run, decoder_channels(weights))
        weights |= {name: value for name, value in vae.state_dict().items() if name.startswith(ENCODER)}
        _fill(vae, weights, run)
    else:
        vae = build_vae(recipe)
        _fill(vae, weights, run)
        vae.register_to_config(scaling_factor=_scaling_factor(vae, recipe, base=base))
    vae.eval()
    write_component(folder, "vae", vae, dtype=torch.float16)


def _base_vae(base: Path | None, run: Path, channels: tuple[int, ...]) -> AutoencoderKLCogVideoX:
    """Return the base's VAE, maybe widened, for a run whose checkpoints hold the decoder alone."""
    if base is None:
        raise InputError(
            f"{run}: only its decoder was trained; a base is needed, the model that has its encoder",
            argument="codec",
        )
    return widened(load_vae(base, device="cpu", dtype=torch.float32).module, channels)


def _scaling_factor(vae: AutoencoderKLCogVideoX, recipe: VaeRecipe, *, base: Path | None) -> float:
    """Return the base's scaling factor if the encoder is the base's, so that latents keep their scale."""
    if base is not None:
        before = load_vae(base, device="cpu", dtype=torch.float32).module
        ours, theirs = vae.encoder.state_dict(), before.encoder.state_dict()
        if ours.keys() == theirs.keys() and all(
            torch.equal(ours[name].half(), theirs[name].half()) for name in ours
        ):
            return float(before.config.scaling_factor)
    return round(1.0 / latent_std(vae, recipe), 5)


def _write_text(folder: Path, recipe: TextEncoderRecipe, run: Path) -> None:
    model = CaptionClassifier(recipe)
    _fill(model, load_run_average(run), run)
    write_component(folder, "text_encoder", model.encoder, dtype=torch.float16)
    build_tokenizer(max_text_tokens=recipe.max_text_tokens).save_pretrained(folder / "tokenizer")


def _write_classifier(folder: Path, run: Path) -> None:
    weights = {
        name: value.half() if value.is_floating_point() else value
        for name, value in load_run_average(run).items()
    }
    write_bytes(folder / CLASSIFIER_FILE, save(weights))


def _fill(model: nn.Module, weights: Mapping[str, Tensor], run: Path) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{run}: made by another recipe: {str(error).splitlines()[0]}") from error

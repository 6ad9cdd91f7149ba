"""Models: what is known of published models and of model folders, and folders with random weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from m2d.errors import InputError, OutputError
from m2d.families.family import KnownModel, ModelFamily
from m2d.families.opening import BUILTIN_MODELS
from m2d.families.registry import FAMILIES, known_model
from m2d.families.source import ModelSource, resolve_model
from m2d.folders import is_folder, with_home
from m2d.model.components import COMPONENTS, read_config
from m2d.model.folder import find_weights
from m2d.progress import Reporter
from m2d.recipe.model_choice import ModelChoice
from m2d.training.folder import publish_folder

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFacts:
    """The rules of a model.

    Attributes:
        width: Default width in pixels, like all sizes and counts here.
        is_fixed_size: Whether it makes no other size.
        size_step: Heights and widths are multiples of it.
        frame_step: Frames of a scene are a multiple of it, plus 1.
        num_scenes: Scenes that it makes jointly; None for a published model, which its folder decides.
        needs_image: Whether every scene starts from an image.
        takes_image: Whether a scene may start from an image.
        dtype: Data type that its weights are stored in, and in which it is best run.
        transformer_bytes: Memory of the transformer's weights in that type; other parts come and go.
        licence: None where it is not known.
    """

    name: str
    family: str
    width: int
    height: int
    is_fixed_size: bool
    size_step: int
    num_frames: int
    frame_step: int
    fps: int
    max_text_tokens: int
    num_scenes: int | None
    needs_image: bool
    takes_image: bool
    dtype: str
    transformer_bytes: int
    licence: str | None


def list_models() -> tuple[ModelFacts, ...]:
    """Return the facts of all published models, and of the embedded ones."""
    published = tuple(
        _of_known(known, family.name) for family in FAMILIES for known in family.known_models.values()
    )
    return (*(_of_folder(resolve_model(name)) for name in BUILTIN_MODELS), *published)


def show_model(name: str) -> ModelFacts:
    """Return the facts of a model folder, of an embedded model, or of a published model by its name.

    Raises:
        InputError: There is no such model.
        CheckpointError: Its folder is not complete.
    """
    if not is_folder(with_home(name)):
        known = known_model(name)
        for family in FAMILIES:
            if known is not None and known in family.known_models.values():
                return _of_known(known, family.name)
        if name not in BUILTIN_MODELS and "/" not in name:
            names = ", ".join([*BUILTIN_MODELS, *_published_names()])
            raise InputError(f"model {name!r} is not known; give a model folder or one of {names}")
    return _of_folder(resolve_model(name))


def get_model(name: str, *, revision: str | None, variant: str | None, reporter: Reporter) -> Path:
    """Return the folder of a hub's model; files that this machine lacks are downloaded.

    Raises:
        CheckpointError: The hub has no such model, or m2d cannot run it.
        HubUnavailable: The hub does not answer.
        OutputError: The disk is too full.
    """
    choice = ModelChoice(model=name, revision=revision, variant=variant)
    return resolve_model(choice, downloads=reporter).path


def make_random(
    name: str, out: Path, *, num_layers: int | None = None, is_tiny: bool = False, seed: int = 0
) -> Path:
    """Write a folder with a published model's exact layout and random weights.

    Args:
        name: A published model, such as `cogvideox-5b`.
        out: The folder to write; none may have this name.
        num_layers: Layers of transformer and text encoder; None for all.
        is_tiny: Whether widths and sizes are a few, for tests.

    Raises:
        InputError: No such model is known.
        OutputError: The folder exists, or the disk refused.
    """
    family, known = random_layout(name, out)
    if family.write_random_folder is None:
        raise InputError(f"model {name!r}: no folders with random weights are written for {family.name}")
    with publish_folder(out, with_manifest=False) as folder:
        family.write_random_folder(folder, known, num_layers=num_layers, is_tiny=is_tiny, seed=seed)
    return out


def random_layout(name: str, out: Path) -> tuple[ModelFamily, KnownModel]:
    """Return the family and the layout of a folder that `make_random` can write; raises as it does."""
    known = known_model(name)
    family = next((each for each in FAMILIES if known in each.known_models.values()), None)
    if known is None or family is None:
        raise InputError(f"model {name!r} is not known; use one of {', '.join(_published_names())}")
    if out.exists():
        raise OutputError(f"{out}: exists already; choose another name")
    return family, known


def _published_names() -> list[str]:
    return [known.name for family in FAMILIES for known in family.known_models.values()]


def _of_known(known: KnownModel, family: str) -> ModelFacts:
    return ModelFacts(
        name=known.name,
        family=family,
        width=known.width,
        height=known.height,
        is_fixed_size=known.is_fixed_size,
        size_step=known.spatial_compression * int(known.transformer["patch_size"]),
        num_frames=known.num_frames,
        frame_step=known.frame_step,
        fps=known.fps,
        max_text_tokens=int(known.transformer["max_text_seq_length"]),
        num_scenes=known.num_scenes,
        needs_image=known.takes_image,
        takes_image=known.takes_image,
        dtype=known.dtype,
        transformer_bytes=2 * known.num_parameters,
        licence=known.licence,
    )


def _of_folder(source: ModelSource) -> ModelFacts:
    geometry = source.geometry
    stored = find_weights(source.path, "transformer", COMPONENTS["transformer"].stem).values()
    sizes = [math.prod(tensor.shape) * _BYTES[tensor.dtype] for tensor in stored]
    return ModelFacts(
        name=source.name,
        family=source.family.name,
        width=geometry.default_width,
        height=geometry.default_height,
        is_fixed_size=geometry.is_fixed_size,
        size_step=geometry.pixels_per_token,
        num_frames=geometry.default_num_frames,
        frame_step=geometry.frames_per_step,
        fps=geometry.default_fps,
        max_text_tokens=geometry.max_text_tokens,
        num_scenes=geometry.num_scenes,
        needs_image=geometry.image_channels > 0,
        takes_image=geometry.takes_images,
        dtype=", ".join(sorted({_DTYPES[tensor.dtype] for tensor in stored})),
        transformer_bytes=sum(sizes),
        licence=_licence(source),
    )


def _licence(source: ModelSource) -> str | None:
    """Return the licence of the published model whose transformer has the same config."""
    known = source.family.published(read_config(source.path, "transformer"))
    return None if known is None else known.licence

"""What m2d needs to know of a base model: data, and adapters for its parts. Imports no torch.

A family is one value of `ModelFamily`. Adding one means writing that value and listing it in
`m2d.families.registry`; nothing else changes. What is common to all families is elsewhere: a timestep per
scene, the layout and its attention plan, windows, the denoising loop.
"""

# B clips, P pixel frames, F latent frames, C channels, H W height and width, S prompts, L text tokens,
# D width

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from m2d.geometry import ModelGeometry
from m2d.model.settings import ModelSettings, SamplingDefaults
from m2d.placement.modes import MemoryMode

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

    from m2d.model.scene_model import SceneModel
    from m2d.model.tokenizer import PromptTokenizer

DecodeStrategy = Literal["plain", "sliced", "tiled", "cpu"]
DECODE_STRATEGIES: tuple[DecodeStrategy, ...] = ("plain", "sliced", "tiled", "cpu")
"""Ways to decode a scene, in the order they are tried. On one device all but `tiled` compute the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VaeCosts:
    """What a VAE takes for one scene, without its weights.

    Attributes:
        decode_bytes: Peak memory of decoding on the device, by strategy.
        encode_bytes: Peak memory of encoding the scene.
        image_bytes: Peak memory of encoding its first frame alone.
    """

    decode_bytes: Mapping[DecodeStrategy, int]
    encode_bytes: int
    image_bytes: int
    decode_flops: int
    encode_flops: int


class SceneVae(Protocol):
    """A VAE that encodes and decodes each scene on its own.

    Attributes:
        module: The network, for training.
    """

    module: Any

    @property
    def device(self) -> torch.device:
        """Device of its weights."""

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""

    @property
    def compression(self) -> tuple[int, int]:
        """Pixels per latent along height and width, and frames per latent frame after the first."""

    def encode_clips(self, frames_BPCHW: Tensor) -> Tensor:
        """Encode clips of equal size, RGB in [-1, 1], at once: latents_BFCHW."""

    def encode(self, frames_PHWC: np.ndarray) -> Tensor:
        """Encode one scene.

        Args:
            frames_PHWC: uint8 RGB; as many frames, and of such a size, as the geometry allows.

        Returns:
            latents_FCHW, scaled for the transformer, on the VAE's device.

        Raises:
            ValueError: A number of frames or a size that it cannot encode.
        """

    def encode_image(self, frame_1HWC: np.ndarray) -> Tensor:
        """Encode a first frame, uint8 RGB, to the latents_1CHW that an image-to-video model is given."""

    def decode(self, latents_FCHW: Tensor) -> np.ndarray:
        """Decode one scene to frames_PHWC, uint8 RGB."""

    def decoding(self, strategy: DecodeStrategy, latents_FCHW: Tensor) -> AbstractContextManager[None]:
        """Let `decode` use a strategy for latents of this shape while the context lasts."""


class TextEncoder(Protocol):
    """Prompts to embeddings."""

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embed prompts: embeds_SLD, each padded to the model's number of tokens.

        Raises:
            PromptTooLong: A prompt has more tokens than the model reads.
        """

    def offload(self, mode: MemoryMode, device: str) -> None:
        """Compute on a device from now on, its weights placed by a memory mode; called once."""

    def move(self, device: str) -> None:
        """Move its weights, if the memory mode keeps them together."""

    def release(self) -> None:
        """Free its memory; it encodes no more."""


class LoadPart(Protocol):
    """Loads one part of a model folder whose files were checked."""

    def __call__(self, path: Path, *, device: str | torch.device, dtype: torch.dtype) -> Any:
        """Load it; raises CheckpointError when its weights do not fit its config."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownModel:
    """A published model: what is known of it without its folder.

    Attributes:
        name: The last part of its id on the hub.
        num_parameters: Parameters of the transformer.
        transformer: The transformer's config, as are `vae` and `text_encoder` of the other networks.
        pipeline: Class that `model_index.json` names.
        dtype: Data type that its weights are published in, and in which it is best run.
        frame_step: A scene has a multiple of this many frames, and one more.
        is_fixed_size: Whether it makes pictures of no other size.
        snr_shift_scale: Shift of the noise schedule.
        num_scenes: Scenes that it was trained on together; None where that is not published.
        transformer_class: Class that the transformer's config names.
    """

    name: str
    num_parameters: int
    licence: str
    pipeline: str
    dtype: str
    transformer: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    height: int
    width: int
    num_frames: int
    fps: int
    frame_step: int
    is_fixed_size: bool = False
    snr_shift_scale: float = 1.0
    num_scenes: int | None = None
    transformer_class: str = "CogVideoXTransformer3DModel"
    spatial_compression: int = 8
    temporal_compression: int = 4

    @property
    def takes_image(self) -> bool:
        """Whether every scene starts from an image."""
        return bool(self.transformer["in_channels"] != self.transformer["out_channels"])


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFamily:
    """A base model: what its folders hold, how their parts are loaded, and which rules hold.

    A transformer takes all scenes' latents, their prompts and a timestep per scene (`SceneModel`), whatever
    is in it. Temporal patches, more input channels, learned positions or text by cross-attention stay in it
    and in the family's geometry; a family with two transformers returns one that chooses by the timestep.

    Attributes:
        classes: Component, or `PIPELINE`, to the class names that its config or `model_index.json` may give.
        default_settings: What a folder without `m2d.json` is taken for.
        default_sampling: A transformer's config to how it samples where neither `m2d.json` nor the recipe
            says.
        read_geometry: A folder's configs and settings to sizes and the frame rule; it refuses parts that
            contradict each other.
        load_transformer: Loads a `SceneModel`.
        load_vae: Loads a `SceneVae`.
        load_text: Loads a `TextEncoder` for a tokenizer.
        load_tokenizer: Loads the tokenizer, for a number of tokens per prompt.
        scheduler: A folder and the scheduler's name in a recipe, None for the folder's own, to a diffusers
            scheduler.
        check_shapes: Compares the tensors of some of a folder's components with their configs, reading
            headers alone and loading no large library; it leaves out configs that it does not know.
        check_parts: Does so with the libraries' own networks, whatever the configs.
        compression: A folder to its VAE's pixels per latent along height and width, and frames per latent
            frame after the first.
        build_transformer: A transformer's config, as keywords, to a `SceneModel` with random weights.
        geometry_of: A transformer's config, settings and compression to sizes, for a model that is yet to be
            trained.
        empty_part: A network's name and config to the network on the meta device, to count what it takes.
        vae_costs: The VAE's config, a scene's latent (F, H, W) and `dtype=` to what decoding and encoding
            take.
        joint_classes: Classes of transformers that were trained on several scenes together.
        saved_classes: Component to the library and class that `model_index.json` names for it.
        known_models: The published models, by their names in lower case.
        write_random_folder: Writes a folder of a published model's layout with random weights.
    """

    name: str
    classes: Mapping[str, tuple[str, ...]]
    default_settings: Callable[[Path], ModelSettings]
    default_sampling: Callable[[Mapping[str, Any]], SamplingDefaults]
    read_geometry: Callable[[Path, ModelSettings], ModelGeometry]
    load_transformer: LoadPart
    load_vae: LoadPart
    load_text: Callable[..., TextEncoder]
    load_tokenizer: Callable[[Path, int], PromptTokenizer]
    scheduler: Callable[[Path, str | None], Any]
    check_shapes: Callable[[Path, Iterable[str]], None]
    check_parts: Callable[[Path, Iterable[str]], None]
    compression: Callable[[Path], tuple[int, int]]
    build_transformer: Callable[..., SceneModel]
    geometry_of: Callable[..., ModelGeometry]
    empty_part: Callable[[str, Mapping[str, Any]], nn.Module]
    vae_costs: Callable[..., VaeCosts]
    joint_classes: tuple[str, ...] = ()
    saved_classes: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    known_models: Mapping[str, KnownModel] = field(default_factory=dict)
    write_random_folder: Callable[..., None] | None = None

    def published(self, transformer: Mapping[str, Any]) -> KnownModel | None:
        """Return the published model whose transformer has the same sizes as a config."""
        for known in self.known_models.values():
            if all(transformer.get(key) == value for key, value in known.transformer.items()):
                return known
        return None

    def vae_doubt(self, transformer: Mapping[str, Any], vae: Mapping[str, Any]) -> str:
        """Say that a VAE is another published model's than the transformer; empty where that is open."""
        known, scale = self.published(transformer), vae.get("scaling_factor")
        if known is None or scale == known.vae["scaling_factor"]:
            return ""
        owners = [other.name for other in self.known_models.values() if other.vae["scaling_factor"] == scale]
        if not owners:
            return ""
        return (
            f"vae: scaling_factor {scale} is that of {owners[0]}, but the transformer has the sizes of "
            f"{known.name}, whose VAE has {known.vae['scaling_factor']}; unless it was trained with this "
            "VAE, films come out wrong"
        )

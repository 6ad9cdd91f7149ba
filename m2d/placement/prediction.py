"""What a film takes on a device: operations, time and peak memory of every stage, and the mode that fits.

Everything is counted on the meta device from the parts' configs. Times follow from the operations and the
device's rates; they leave out reading the weights and writing the film.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from m2d.families.family import DECODE_STRATEGIES, DecodeStrategy, ModelFamily, VaeCosts
from m2d.layout import SceneLayout
from m2d.placement.cards import Card
from m2d.placement.modes import MEMORY_MODES, DecodeName, MemoryMode, MemoryName, Quantized
from m2d.placement.needs import PartNeeds, TransformerWork, text_needs, transformer_needs, weights_bytes

# Share of the published peak that a run of CogVideoX-5B reached in public timings: 112 s (H100) and 243 s
# (A100) for 33 PFLOP are 0.30 and 0.44 of their peaks. Convolutions run further from it.
_TRANSFORMER_SHARE, _VAE_SHARE = 0.35, 0.25
# A product of large matrices, which measures this machine, is nearer to what the model reaches.
_MEASURED_SHARE = 0.6
# What a driver, its libraries and the screen hold, and what allocators lose between tensors.
_RESERVED_BYTES = 3 << 28
_MARGIN = 1.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Rates:
    """What a device does per second.

    Attributes:
        transformer_flops: Operations of transformer and text encoder.
        vae_flops: Operations of the VAE.
        bus_bytes: Bytes copied from the CPU's memory; None where nothing is copied.
    """

    transformer_flops: float
    vae_flops: float
    bus_bytes: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """The device that a prediction is for.

    Attributes:
        free_bytes: Memory that a film can use.
        is_measured: Whether its rates were measured on this machine; published ones otherwise.
    """

    name: str
    free_bytes: int
    rates: Rates
    is_measured: bool


def card_target(card: Card, *, is_half: bool, is_vae_half: bool = False) -> Target:
    """Return a card of the table, empty but for its driver, at shares of its published rates."""
    tflops = card.half_tflops if is_half else card.single_tflops
    vae_tflops = card.half_tflops if is_vae_half else card.single_tflops
    return Target(
        name=card.name,
        free_bytes=(card.memory_gib << 30) - _RESERVED_BYTES,
        rates=Rates(
            transformer_flops=tflops * 1e12 * _TRANSFORMER_SHARE,
            vae_flops=vae_tflops * 1e12 * _VAE_SHARE,
            bus_bytes=card.bus_gb_s * 1e9,
        ),
        is_measured=False,
    )


def measured_target(name: str, *, free_bytes: int, flops: float, bus_bytes: float | None) -> Target:
    """Return this machine's device, whose rate in products of large matrices was measured."""
    return Target(
        name=name,
        free_bytes=free_bytes,
        rates=Rates(
            transformer_flops=flops * _MEASURED_SHARE, vae_flops=flops * _VAE_SHARE, bus_bytes=bus_bytes
        ),
        is_measured=True,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class WindowWork:
    """One pass of the denoising loop.

    Attributes:
        num_calls: Calls of the transformer in all steps.
        targets: Scenes of the layout that are denoised; None for all.
        kept_bytes: Context that stays in memory for all steps.
    """

    layout: SceneLayout
    num_calls: int
    batch_size: int
    targets: tuple[int, ...] | None = None
    kept_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmWork:
    """What a film asks of a model.

    Attributes:
        configs: Configs of `transformer`, `vae` and `text_encoder`.
        latent_size: Height and width of the latents.
        scenes: Latent frames of every scene that is decoded.
        num_given: Scenes that the VAE encodes before anything else.
        num_images: Images that it encodes while the transformer is loaded.
        num_continued: Scenes that it decodes then, because the next one starts from their last frame.
        stays_loaded: Whether all parts stay on the device when they are kept there as a whole.
    """

    family: ModelFamily
    configs: Mapping[str, Mapping[str, Any]]
    dtype: torch.dtype
    latent_size: tuple[int, int]
    windows: Sequence[WindowWork]
    scenes: Sequence[int]
    num_prompts: int
    vae_dtype: torch.dtype = torch.float32
    quantized: Quantized | None = None
    num_given: int = 0
    num_images: int = 0
    num_continued: int = 0
    stays_loaded: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StageNeeds:
    """One stage of a film on a device.

    Attributes:
        peak_bytes: Peak memory on the device, weights and activations.
    """

    name: str
    flops: int
    peak_bytes: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """How a film runs.

    Attributes:
        is_fitting: Whether the prediction says that it fits.
        reason: What the next faster mode needs, or this one if there is none.
    """

    memory: MemoryMode
    decode: DecodeStrategy
    is_fitting: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FilmNeeds:
    """What a film takes, whatever the device."""

    text: PartNeeds
    windows: Sequence[tuple[WindowWork, PartNeeds]]
    vae_bytes: int
    vae: VaeCosts
    work: FilmWork

    @property
    def tokens(self) -> int:
        """Text and video tokens of the largest window."""
        return max(window.layout.num_tokens for window, _ in self.windows)

    def stage_bytes(self, mode: MemoryMode, decode: DecodeStrategy) -> dict[str, int]:
        """Return the peak memory of every stage."""
        denoise = max(needs.peak_bytes(mode) + window.kept_bytes for window, needs in self.windows)
        if self.work.num_images or self.work.num_continued:
            # In the other modes the transformer is in the CPU's memory meanwhile.
            beside = self.windows[0][1].weights_bytes if mode == "full" else 0
            decoding = self.vae.decode_bytes["tiled" if decode == "tiled" else "sliced"]
            vae_work = max(self.vae.image_bytes, decoding if self.work.num_continued else 0)
            denoise = max(denoise, beside + self.vae_bytes + vae_work)
        stays = self.work.stays_loaded and mode == "full"
        text, transformer = self.text.weights_bytes, self.windows[0][1].weights_bytes
        vae = self.vae_bytes + (text + transformer if stays else 0)
        encode = {"encode frames": vae + self.vae.encode_bytes} if self.work.num_given else {}
        return encode | {
            "encode prompts": self.text.peak_bytes(mode) + (transformer + self.vae_bytes if stays else 0),
            "denoise": denoise + (text + self.vae_bytes if stays else 0),
            "decode": vae + self.vae.decode_bytes[decode],
        }

    def stages(self, choice: Choice, rates: Rates) -> tuple[StageNeeds, ...]:
        """Return every stage under a choice of modes."""
        peaks = self.stage_bytes(choice.memory, choice.decode)
        work = self.work
        flops = {
            "encode frames": self.vae.encode_flops * work.num_given,
            "encode prompts": self.text.flops * work.num_prompts,
            "denoise": sum(needs.flops * window.num_calls for window, needs in self.windows),
            "decode": self.vae.decode_flops * (len(work.scenes) + work.num_continued),
        }
        moved = {
            "encode prompts": self.text.moved_bytes(choice.memory) * work.num_prompts,
            "denoise": sum(
                needs.moved_bytes(choice.memory) * window.num_calls for window, needs in self.windows
            ),
        }
        return tuple(
            StageNeeds(
                name=name,
                flops=flops[name],
                peak_bytes=peaks[name],
                seconds=_seconds(name, flops[name], moved.get(name, 0), choice.memory, rates),
            )
            for name in peaks
        )


def _seconds(name: str, flops: int, moved_bytes: int, mode: MemoryMode, rates: Rates) -> float:
    rate = rates.vae_flops if name in ("decode", "encode frames") else rates.transformer_flops
    computing = flops / rate
    copying = 0.0 if rates.bus_bytes is None else moved_bytes / rates.bus_bytes
    # Blocks are copied while others compute; single layers are not.
    return max(computing, copying) if mode == "group-offload" else computing + copying


def film_needs(work: FilmWork) -> FilmNeeds:
    """Count what a film takes."""
    build = work.family.empty_part
    config = dict(work.configs["transformer"])
    text = {key: value for key, value in work.configs["text_encoder"].items() if not key.startswith("_")}
    vae = {key: value for key, value in work.configs["vae"].items() if not key.startswith("_")}
    height, width = work.latent_size
    windows = [
        (
            window,
            transformer_needs(
                TransformerWork(
                    config=json.dumps(config, sort_keys=True),
                    layout=window.layout,
                    latent_shape=(int(config["in_channels"]), height, width),
                    batch_size=window.batch_size,
                    dtype=work.dtype,
                    targets=window.targets,
                    is_quantized=work.quantized is not None,
                    quantized_bytes=work.quantized.size_bytes if work.quantized is not None else None,
                ),
                build,
            ),
        )
        for window in work.windows
    ]
    return FilmNeeds(
        text=text_needs(
            json.dumps(text, sort_keys=True),
            num_tokens=int(config["max_text_seq_length"]),
            dtype=work.dtype,
            build=build,
        ),
        windows=windows,
        vae_bytes=weights_bytes(build("vae", vae), work.vae_dtype),
        vae=work.family.vae_costs(vae, (max(work.scenes), height, width), dtype=work.vae_dtype),
        work=work,
    )


def choose(
    needs: FilmNeeds,
    target: Target,
    *,
    memory: MemoryName = "auto",
    decode: DecodeName = "auto",
    modes: Sequence[MemoryMode] = MEMORY_MODES,
) -> Choice:
    """Choose the fastest modes that fit the device; if none does, those that need least.

    Args:
        memory: The mode that was asked for, or `auto`.
        decode: The decode strategy that was asked for, or `auto`.
        modes: Modes that the backend has.
    """
    strategies: tuple[DecodeStrategy, ...] = (
        tuple(each for each in DECODE_STRATEGIES if each != "cpu") if decode == "auto" else (decode,)
    )
    tried = modes if memory == "auto" else (memory,)
    for mode in tried:
        for strategy in strategies:
            if _fits(max(needs.stage_bytes(mode, strategy).values()), target):
                before = tried[tried.index(mode) - 1] if mode != tried[0] else mode
                reason = _reason(needs, target, before, strategies[-1])
                return Choice(memory=mode, decode=strategy, is_fitting=True, reason=reason)
    last = Choice(memory=tried[-1], decode=strategies[-1], is_fitting=False, reason="")
    return replace(last, reason=_reason(needs, target, last.memory, last.decode))


def _fits(num_bytes: int, target: Target) -> bool:
    return num_bytes * _MARGIN <= target.free_bytes


def _reason(needs: FilmNeeds, target: Target, mode: MemoryMode, decode: DecodeStrategy) -> str:
    """Say what a mode needs and what there is."""
    peaks = needs.stage_bytes(mode, decode)
    stage = max(peaks, key=peaks.__getitem__)
    return (
        f"the stage {stage!r} needs {gib(peaks[stage])} in the mode {mode}, and {target.name} has "
        f"{gib(target.free_bytes)} free"
    )


def least_memory(needs: FilmNeeds, choice: Choice) -> int:
    """Return the free memory that a film needs under a choice."""
    return int(max(needs.stage_bytes(choice.memory, choice.decode).values()) * _MARGIN)


def flop_text(flops: float) -> str:
    """Spell a number of operations: `3.1 GFLOP` or, from a million million on, `1,307 TFLOP`."""
    size, unit = (flops / 1e12, "TFLOP") if flops >= 1e12 else (flops / 1e9, "GFLOP")
    return f"{size:,.4g} {unit}"


def gib(num_bytes: int) -> str:
    """Write a size in GiB, or in MiB if it is less than one."""
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"

"""Running out of memory costs time and never a film: at any scene, in any way of decoding."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from m2d.errors import Remedy
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.cogvideox.vae_memory import sliced
from m2d.families.family import DECODE_STRATEGIES, DecodeStrategy
from m2d.families.loading import load_vae
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.pipeline.decoding import DecodingError, SceneDecoder, is_out_of_memory
from m2d.progress import SilentReporter
from tests.m2d.model.tiny_model import tiny_codec

# Made anew for every failure: an error that was raised keeps the tensors of its stack.
ERRORS: dict[str, Callable[[], Exception]] = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "cpu": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate"),
    "python": MemoryError,
}
NEXT = {
    "sliced": "in slices (slower, the same frames)",
    "tiled": "in tiles (slower; frames differ slightly, most where tiles meet)",
    "cpu": "on the CPU (much slower)",
}


@pytest.fixture(autouse=True, scope="module")
def quick_collection() -> Iterator[None]:
    """Decoding collects garbage after a failure; the libraries need not be searched every time."""
    gc.freeze()
    yield
    gc.unfreeze()


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


class FakeCodec:
    """What decoding touches of the VAE, on a device that is not the CPU, with memory for some ways only.

    Scene i is told by its 2 i + 1 latent frames, the way by what was done to the codec.
    """

    def __init__(
        self,
        *,
        short: Sequence[tuple[int, DecodeStrategy]],
        error: Callable[[], Exception],
        device: str = "meta",
    ) -> None:
        self.config = SimpleNamespace(
            scaling_factor=1.0,
            shift_factor=None,
            temporal_compression_ratio=4,
            block_out_channels=(8, 8, 8),
        )
        self.device, self.dtype = torch.device(device), torch.float32
        self.decoder, self.use_tiling = nn.Identity(), False
        self.tried: list[tuple[int, DecodeStrategy]] = []
        self.short = short
        self.error = error

    def to(self, device: str) -> FakeCodec:
        self.device = torch.device(device)
        return self

    def enable_tiling(self, **sizes: float) -> None:
        assert sizes["tile_sample_min_height"] == sizes["tile_sample_min_width"] == 16
        self.use_tiling = True

    def decode(self, latents_BCFHW: Tensor) -> SimpleNamespace:
        scene = latents_BCFHW.shape[2] // 2
        self.tried.append((scene, self.strategy))
        if self.tried[-1] in self.short:
            raise self.error()
        sample = torch.full((1, 3, 8 * scene + 1, 32, 32), scene / 4)
        sample[..., 0] = -1.0  # a picture of one colour would be refused
        return SimpleNamespace(sample=sample)

    @property
    def strategy(self) -> DecodeStrategy:
        is_sliced = len(self.decoder._forward_hooks) > 0
        if self.device.type == "cpu" and is_sliced and not self.use_tiling:
            return "cpu"
        return "tiled" if self.use_tiling else "sliced" if is_sliced else "plain"


def latents_of(num_latent_frames: int, *, size: tuple[int, int] = (8, 8)) -> Tensor:
    return torch.randn(num_latent_frames, 4, *size, generator=torch.Generator().manual_seed(1))


def decoder_of(codec: Any, reporter: SilentReporter | None = None) -> SceneDecoder:
    return SceneDecoder(lambda: CogVideoXVae(codec), reporter=reporter or SilentReporter())


@pytest.mark.parametrize("scene", [0, 1, 2])
@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("kind", ERRORS)
def test_memory_that_runs_out_anywhere_leads_to_the_next_way_which_is_kept(scene, failing, kind):
    codec = FakeCodec(
        short=[(scene, strategy) for strategy in DECODE_STRATEGIES[:failing]], error=ERRORS[kind]
    )
    reporter = Notes()
    decoder = decoder_of(codec, reporter)
    films, strategies = [], []
    for number in range(3):
        films.append(decoder.decode(latents_of(2 * number + 1), scene=number))
        strategies.append(decoder.strategy)
    worked = DECODE_STRATEGIES[failing]
    assert [film.shape for film in films] == [(1, 32, 32, 3), (9, 32, 32, 3), (17, 32, 32, 3)]
    assert strategies == ["plain" if number < scene else worked for number in range(3)]
    assert codec.tried == [
        *((number, "plain") for number in range(scene)),
        *((scene, strategy) for strategy in DECODE_STRATEGIES[: failing + 1]),
        *((number, worked) for number in range(scene + 1, 3)),
    ]
    assert reporter.notes == [
        f"decoding scene {scene + 1} ran out of memory; trying again {NEXT[strategy]}"
        for strategy in DECODE_STRATEGIES[1 : failing + 1]
    ]


@pytest.mark.parametrize("scene", [0, 1, 2])
@pytest.mark.parametrize("kind", ERRORS)
def test_only_when_no_way_is_left_decoding_fails_and_says_that_nothing_is_lost(scene, kind):
    codec = FakeCodec(short=[(scene, strategy) for strategy in DECODE_STRATEGIES], error=ERRORS[kind])
    decoder = decoder_of(codec)
    for number in range(scene):
        decoder.decode(latents_of(2 * number + 1), scene=number)
    message = (
        rf"scene {scene + 1} ran out of memory in every way \(plain, sliced, tiled, cpu\); its latents are "
        "on disk$"
    )
    with pytest.raises(
        DecodingError, match=message, check=lambda error: error.remedy is Remedy.FREE_MEMORY_AND_RESUME
    ):
        decoder.decode(latents_of(2 * scene + 1), scene=scene)


def test_a_codec_on_the_cpu_has_no_cpu_to_go_to():
    codec = FakeCodec(short=[(0, "plain"), (0, "sliced"), (0, "tiled")], error=MemoryError, device="cpu")
    codec.short = [*codec.short, (0, "cpu")]  # how the fake names slices on the CPU
    with pytest.raises(DecodingError, match=r"in every way \(plain, sliced, tiled\); its latents"):
        decoder_of(codec).decode(latents_of(1), scene=0)


def test_other_failures_are_no_lack_of_memory():
    codec = FakeCodec(short=[(0, "plain")], error=lambda: RuntimeError("expected 4 channels"))
    reporter = Notes()
    with pytest.raises(RuntimeError, match="expected 4 channels"):
        decoder_of(codec, reporter).decode(latents_of(1), scene=0)
    assert reporter.notes == []
    assert codec.tried == [(0, "plain")]


def test_what_a_failed_try_held_is_free_before_the_next_one_begins():
    held: list[weakref.ref[Tensor]] = []

    class Hungry(FakeCodec):
        def decode(self, latents_BCFHW: Tensor) -> SimpleNamespace:
            assert [each() for each in held] == [None] * len(held)
            activations = torch.zeros(1000)
            held.append(weakref.ref(activations))
            return super().decode(latents_BCFHW)

    codec = Hungry(short=[(0, "plain"), (0, "sliced")], error=MemoryError)
    decoder_of(codec).decode(latents_of(1), scene=0)
    assert len(held) == 3


@pytest.mark.parametrize("num_latent_frames", [1, 2, 3, 5, 8])
def test_with_enough_memory_frames_are_those_of_decode_scene(num_latent_frames):
    codec, latents = tiny_codec(), latents_of(num_latent_frames)
    decoder = decoder_of(codec)
    np.testing.assert_array_equal(decoder.decode(latents, scene=0), CogVideoXVae(codec).decode(latents))
    assert decoder.strategy == "plain"


@pytest.mark.parametrize("num_latent_frames", [1, 2, 3, 5, 8])
def test_slices_give_the_same_frames(num_latent_frames):
    codec, latents = tiny_codec(), latents_of(num_latent_frames)
    expected = CogVideoXVae(codec).decode(latents)
    with sliced(codec):
        np.testing.assert_array_equal(CogVideoXVae(codec).decode(latents), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in codec.modules())


def short_of_memory(codec: Any, *, until: Callable[[Any], bool]) -> Any:
    """Make the codec run out of memory until its state is as wanted, or until what is returned is removed."""

    def refuse(decoder: nn.Module, inputs: Any) -> None:
        del decoder, inputs
        if not until(codec):
            raise ERRORS["cpu"]()

    return codec.decoder.register_forward_pre_hook(refuse)


@pytest.fixture(scope="module")
def puppet_codec() -> Any:
    return load_vae(resolve_model(BUILTIN_PUPPET), device="cpu", dtype=torch.float32).module


def smooth_frames(num_frames: int, height: int, width: int) -> Tensor:
    time, y, x = torch.meshgrid(
        torch.linspace(0, 1, num_frames),
        torch.linspace(0, 1, height),
        torch.linspace(0, 1, width),
        indexing="ij",
    )
    channels = [(6 * x + 3 * y + time).sin(), (9 * y - 2 * x).cos(), (12 * x * y + 1).sin()]
    return torch.stack(channels, dim=1)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (5, 3), (16, 5), (11, 24)])
@pytest.mark.parametrize("num_latent_frames", [1, 2, 5])
def test_tiles_give_the_same_picture_but_for_small_differences(puppet_codec, size, num_latent_frames):
    frames = smooth_frames(2 * num_latent_frames - 1, 4 * size[0], 4 * size[1])
    latents = CogVideoXVae(puppet_codec).encode_clips(frames[None])[0]
    expected = CogVideoXVae(puppet_codec).decode(latents).astype(int)
    refusal = short_of_memory(puppet_codec, until=lambda codec: codec.use_tiling)
    decoder = decoder_of(puppet_codec)
    tiled = decoder.decode(latents, scene=0)
    refusal.remove()
    assert decoder.strategy == "tiled"
    assert tiled.shape == expected.shape
    misplaced = min(np.abs(np.roll(expected, 4, axis) - expected).mean() for axis in (1, 2))
    assert np.abs(tiled - expected).mean() < 0.5 * misplaced
    assert torch.equal(CogVideoXVae(puppet_codec).encode_clips(frames[None])[0], latents)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that live at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for tensor in tree_iter(output):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def test_every_way_down_needs_less_memory():
    codec, latents = tiny_codec(), latents_of(5, size=(16, 24))
    peaks = {}
    for strategy, until in {
        "plain": lambda codec: codec is not None,
        "sliced": lambda codec: len(codec.decoder._forward_hooks) > 0,
        "tiled": lambda codec: codec.use_tiling,
    }.items():
        short_of_memory(codec, until=until)
        decoder = decoder_of(codec)
        with LiveBytes() as counted:
            decoder.decode(latents, scene=0)
        assert decoder.strategy == strategy
        peaks[strategy] = counted.peak
    # Measured: 34.2, 16.9 and 5.3 MiB. Here slices wait in the same memory; beside a GPU they save more.
    assert peaks["sliced"] < 0.6 * peaks["plain"]
    assert peaks["tiled"] < 0.4 * peaks["sliced"]


@pytest.mark.parametrize(
    "error", [*(make() for make in ERRORS.values()), RuntimeError("CUDA error: out of memory")]
)
def test_lack_of_memory_is_recognised_on_every_device(error):
    assert is_out_of_memory(error)


def test_torchs_own_failure_to_allocate_is_recognised():
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator") as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(12)])
def test_other_errors_are_not_taken_for_lack_of_memory(error):
    assert not is_out_of_memory(error)


def with_nan(codec: Any) -> None:
    torch.nn.init.constant_(codec.decoder.conv_out.conv.bias, torch.nan)


def without_signal(codec: Any) -> None:
    for parameter in codec.decoder.parameters():
        torch.nn.init.zeros_(parameter)


def with_zero_scale(codec: Any) -> None:
    codec.register_to_config(scaling_factor=0.0)


def in_half_precision(codec: Any) -> None:
    torch.nn.init.constant_(codec.half().decoder.conv_out.conv.bias, torch.inf)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (with_nan, r"scene 2: the VAE.s output is NaN or infinite in .* values, computed in float32"),
        (with_zero_scale, "computed in float32; its weights or its config are corrupt; get the model again"),
        (in_half_precision, "computed in float16; compute this part in float32"),
        (without_signal, r"every pixel to the one colour \(128, 128, 128\)"),
    ],
)
def test_what_is_no_picture_ends_the_run_before_anything_is_written(
    damage: Callable[[Any], None], message: str
) -> None:
    codec = tiny_codec()
    damage(codec)
    with pytest.raises(DecodingError, match=rf"{message}.*No film was written; the latents are kept"):
        decoder_of(codec).decode(latents_of(3), scene=1)

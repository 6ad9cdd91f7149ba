"""Checks with the same messages in every backend: whether it can run, its targets, the shapes of its inputs.

Backends outside m2d may use them, too. Imports no torch.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from m2d.errors import BackendUnavailable, InputError, LayoutMismatch, Remedy
from m2d.layout import SceneLayout
from m2d.placement.modes import MemoryMode, MemoryName, Quantized

if TYPE_CHECKING:
    from torch import Tensor

    from m2d.backend import Backend


def require_available(backend: Backend, device: str) -> None:
    """Check that a backend can run on a device here.

    Raises:
        BackendUnavailable: It cannot; the message says why.
    """
    reason = backend.unavailable_reason(device)
    if reason is not None:
        raise BackendUnavailable(f"backend {backend.name!r}: {reason}", remedy=Remedy.SHOW_DOCTOR)


def memory_modes(backend: Backend) -> tuple[MemoryMode, ...]:
    """Return the memory modes that a backend has, fastest first."""
    modes: tuple[MemoryMode, ...] = getattr(backend, "memory_modes", ("full",))
    return modes


def check_memory(backend: Backend, *, memory: MemoryName, quantized: Quantized | None) -> None:
    """Check that a backend has a memory mode, and can quantize weights if that is asked for.

    Raises:
        InputError: It does not.
    """
    modes = memory_modes(backend)
    if memory not in ("auto", *modes):
        raise InputError(f"{backend.name} has no mode {memory}; it has {', '.join(modes)}", argument="memory")
    if quantized is not None and not getattr(backend, "can_quantize", False):
        raise InputError(f"{backend.name} cannot run quantized weights; eager can", argument="quantize")


def chosen_targets(layout: SceneLayout, targets: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the scenes whose velocity is computed; None means all.

    Raises:
        InputError: The layout has no such scene.
    """
    everything = tuple(range(layout.num_scenes))
    if targets is None:
        return everything
    if not targets or not set(targets) <= set(everything):
        raise InputError(f"targets: got scenes {list(targets)}, the layout has 0 to {layout.num_scenes - 1}")
    return targets


def check_inputs(
    layout: SceneLayout,
    latents_BFCHW: Tensor,
    prompt_embeds_BLD: Tensor,
    timesteps_BN: Tensor,
    *,
    patch_size: int,
) -> None:
    """Check that the inputs of `predict` have the sizes of `layout`.

    Args:
        patch_size: Height and width of a token, in latent pixels.

    Raises:
        LayoutMismatch: A size differs; the message names all that do.
    """
    height, width = latents_BFCHW.shape[-2:]
    refuse_differences(
        layout,
        {
            "latent frames": (latents_BFCHW.shape[1], sum(layout.latent_frames)),
            "tokens per frame": ((height // patch_size) * (width // patch_size), layout.tokens_per_frame),
            "text tokens": (prompt_embeds_BLD.shape[1], layout.num_text_tokens),
            "timesteps": (timesteps_BN.shape[1], layout.num_scenes),
        },
    )


def refuse_differences(layout: SceneLayout, found: Mapping[str, tuple[object, object]]) -> None:
    """Reject inputs whose sizes differ from the layout's.

    Args:
        found: For each name, the size of the input and the size in the layout.

    Raises:
        LayoutMismatch: Some differ; the message names them all.
    """
    wrong = [f"{name}: got {got}, the layout has {own}" for name, (got, own) in found.items() if got != own]
    if wrong:
        raise LayoutMismatch(
            f"this denoiser was prepared for layout {layout.digest()[:12]}; " + "; ".join(wrong)
        )

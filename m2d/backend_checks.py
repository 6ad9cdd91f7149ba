"""What every backend refuses, in the same words: targets and inputs that are not the layout's.

Owns these checks and their messages, for m2d's backends and anybody's; runs nothing and imports no torch.
"""

# B batch, N scenes, F latent frames, C latent channels, H W latent height and width, L text tokens, D width

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from m2d.errors import InputError, LayoutMismatch
from m2d.layout import SceneLayout

if TYPE_CHECKING:
    from torch import Tensor


def chosen_targets(layout: SceneLayout, targets: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the scenes whose velocity is wanted; None are all.

    Raises:
        InputError: Scenes that the layout does not have.
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
    """Make sure that a call of `predict` is one of `layout`.

    Args:
        layout: What the denoiser was prepared for.
        latents_BFCHW: As in `Denoiser.predict`; so are the others.
        prompt_embeds_BLD: Prompts.
        timesteps_BN: Timesteps.
        patch_size: Height and width of a token in latents.

    Raises:
        LayoutMismatch: It is not; every number that differs is named.
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
    """Refuse a call that has other numbers than the layout.

    Args:
        layout: What the denoiser was prepared for.
        found: By name: what the call has, and what the layout has.

    Raises:
        LayoutMismatch: Some differ; all that do are named.
    """
    wrong = [f"{name}: got {got}, the layout has {own}" for name, (got, own) in found.items() if got != own]
    if wrong:
        raise LayoutMismatch(
            f"this denoiser was prepared for layout {layout.digest()[:12]}; " + "; ".join(wrong)
        )

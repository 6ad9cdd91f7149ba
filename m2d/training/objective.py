"""The training objective: velocity error per scene (Eq. 2 and Eq. 3 of arXiv 2503.19881).

Owns which latents are noised and which errors count; draws no indices and updates no weights.
"""

# B batch, N scenes, F latent frames (of all scenes), C latent channels, H W latent height and width,
# L text tokens (of all scenes), D text width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from m2d.diffusion.velocity import VelocitySchedule
from m2d.layout import SceneLayout


class TrainingBatch(NamedTuple):
    """The clean latents and prompt embeddings of one step, with noise for the target scenes.

    Attributes:
        timesteps_BN: Timestep per scene, int64; 0 for context.
        is_target_BN: Scenes that are noised and count in the loss.
        has_image_BN: Target scenes whose first token's latent frames are clean and do not count.
    """

    latents_BFCHW: Tensor
    noise_BFCHW: Tensor
    prompt_embeds_BLD: Tensor
    timesteps_BN: Tensor
    is_target_BN: Tensor
    has_image_BN: Tensor


def velocity_errors(
    model: Callable[..., Tensor],
    batch: TrainingBatch,
    *,
    schedule: VelocitySchedule,
    layout: SceneLayout,
    scene_guidance: float = 0.0,
) -> Tensor:
    """Predict the velocity and return its mean squared error per sample and scene (B, N).

    Context scenes enter clean, as at generation; `masked_loss` ignores their errors.

    Args:
        model: A scene transformer, maybe wrapped: predicts the velocity BFCHW.
        scene_guidance: Share of the difference between the prediction and that for isolated scenes that is
            added to the velocity; see `ObjectiveRecipe`.
    """
    num_scenes = layout.num_scenes
    frames_per_scene = layout.latent_frames[0]
    timesteps_BF = batch.timesteps_BN.repeat_interleave(frames_per_scene, dim=1)
    is_noised_BNF = batch.is_target_BN[..., None].repeat(1, 1, frames_per_scene)
    is_noised_BNF[..., : layout.frames_per_token] &= ~batch.has_image_BN[..., None]
    is_noised_BF = is_noised_BNF.flatten(1)
    noisy_BFCHW = schedule.add_noise(batch.latents_BFCHW, batch.noise_BFCHW, timesteps_BF)
    noisy_BFCHW = torch.where(is_noised_BF[:, :, None, None, None], noisy_BFCHW, batch.latents_BFCHW)
    velocity_BFCHW = schedule.velocity(batch.latents_BFCHW, batch.noise_BFCHW, timesteps_BF)
    inputs = (noisy_BFCHW, batch.prompt_embeds_BLD, batch.timesteps_BN)
    apart_BFCHW = None
    if scene_guidance:
        # First, while the activations of the pass with gradients do not take memory yet.
        with torch.no_grad():
            apart_BFCHW = model(*inputs, layout=replace(layout, mask="isolated")).float()
    predicted_BFCHW = model(*inputs, layout=layout).float()
    if apart_BFCHW is not None:
        shared_BFCHW = predicted_BFCHW.detach() - apart_BFCHW
        velocity_BFCHW = velocity_BFCHW + scene_guidance * shared_BFCHW
    squared_BFCHW = (predicted_BFCHW - velocity_BFCHW).square()
    errors_BNF = squared_BFCHW.mean(dim=(2, 3, 4)).reshape(-1, num_scenes, frames_per_scene)
    # Errors of context scenes are measured whole, and not used.
    counts_BNF = is_noised_BNF | ~batch.is_target_BN[..., None]
    return (errors_BNF * counts_BNF).sum(dim=2) / counts_BNF.sum(dim=2).clamp(min=1)


def masked_loss(errors_BN: Tensor, is_target_BN: Tensor, *, num_targets: Tensor | None = None) -> Tensor:
    """Average the errors of the target scenes: the batch's sum of Eq. 2 and Eq. 3, per target scene.

    Args:
        num_targets: Target scenes of the whole batch if this is a part of it: the losses of the parts then
            add up to the loss of the batch. None if this is the whole batch.
    """
    weights_BN = is_target_BN.to(errors_BN.dtype)
    total = weights_BN.sum() if num_targets is None else num_targets.to(errors_BN)
    return (errors_BN * weights_BN).sum() / total

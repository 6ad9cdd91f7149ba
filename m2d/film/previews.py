"""Previews: a small picture of the current estimate, drawn every few denoising steps into the run folder."""

# B batch (1), F latent frames of all scenes, P pixel frames, C channels, H W height and width

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from m2d.errors import Remedy
from m2d.files import remove_file, write_bytes
from m2d.folders import make_folder, remove_empty_folder
from m2d.layout import SceneLayout
from m2d.pipeline.decoding import DecodingError, is_out_of_memory
from m2d.pipeline.observer import WindowStep
from m2d.recipe.plan import RunPlan
from m2d.video.run_folder import run_folder_of
from m2d.video.sheet import strip_png

if TYPE_CHECKING:
    from m2d.families.family import SceneVae


PREVIEWS = "previews"
_NUM_PREVIEWS = 10


class PreviewSaver:
    """Draws about ten previews of every window into the run folder."""

    def __init__(self, plan: RunPlan, vae: Callable[[], SceneVae]) -> None:
        """Draw previews of `plan`; `vae` returns the model's VAE, the same one at every call."""
        self._folder = run_folder_of(plan.output) / PREVIEWS
        self._every = max(1, plan.sampling.num_inference_steps // _NUM_PREVIEWS)
        self._vae = vae

    def save(self, step: WindowStep) -> None:
        """Draw the current estimate if a preview of this step is due; errors as `save_preview`."""
        event, scenes = step.event, step.part.window.scenes
        if event.step % self._every == 0 or step.is_last:
            save_preview(
                self._folder / f"scenes-{scenes[0] + 1}-{scenes[-1] + 1}",
                event.x0(),
                step.part.layout,
                self._vae(),
                step=event.step,
                total=event.total,
                scene_numbers=scenes,
            )


def save_preview(
    folder: Path,
    x0_BFCHW: Tensor,
    layout: SceneLayout,
    vae: SceneVae,
    *,
    step: int,
    total: int,
    scene_numbers: Sequence[int],
) -> Path:
    """Write `step-0010.png`: the first frame of every scene of a window, side by side; return its path.

    Only the first latent frame of each scene is decoded: it is one frame of the film, depends on no other
    latent frame, and costs little beside a denoising step.

    Args:
        folder: Folder of one window's pictures; created if missing. A picture of the same step is replaced.
        x0_BFCHW: The current estimate of all scenes' clean latents, from `StepEvent.x0`.
        layout: The window's layout.
        vae: The model's VAE.
        step: Number of finished steps, of `total`.
        scene_numbers: The scenes' numbers in the film, from 0; shown from 1.

    Raises:
        DecodingError: There is not enough memory for the VAE beside the transformer.
        OutputError: The picture cannot be written.
        ValueError: The number of `scene_numbers` differs from the number of scenes.
    """
    if len(scene_numbers) != layout.num_scenes:
        raise ValueError(
            f"scene_numbers is for {len(scene_numbers)} scenes, the layout has {layout.num_scenes}"
        )
    try:
        frames = [_first_frame(vae, x0_BFCHW[0], layout, scene) for scene in range(layout.num_scenes)]
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise DecodingError(
            f"the preview of step {step} ran out of memory", remedy=Remedy.RESUME_WITHOUT_PREVIEWS
        ) from error
    labels = [f"scene {number + 1}" for number in scene_numbers]
    path = folder / f"step-{step:04d}.png"
    make_folder(folder)
    write_bytes(path, strip_png(frames, labels, title=f"step {step} of {total}"))
    return path


def remove_previews(folder: Path) -> None:
    """Remove the pictures of an earlier run from the folders in `folder`, and empty folders.

    Raises: as `remove_file`.
    """
    for window in sorted(folder.glob("scenes-*")):
        if window.is_symlink() or not window.is_dir():
            continue
        for picture in sorted(window.glob("step-*.png")):
            remove_file(picture)
        remove_empty_folder(window)
    remove_empty_folder(folder)


def _first_frame(vae: SceneVae, x0_FCHW: Tensor, layout: SceneLayout, scene: int) -> np.ndarray:
    """Decode the first frame HWC of a scene."""
    start = layout.frame_span(scene).start
    first_FCHW = x0_FCHW[start : start + layout.frames_per_token]
    with vae.decoding("sliced", first_FCHW):
        frame_HWC: np.ndarray = vae.decode(first_FCHW)[0]
    return frame_HWC

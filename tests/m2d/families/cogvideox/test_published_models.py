"""One scene of every published model against the stock diffusers pipeline of the same folder and noise.

In the suite with a few channels; with `-m long` two layers of the published width, T5-XXL and VAE too.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from m2d import Story, StoryPipeline
from m2d.families.registry import known_model
from tests.m2d.families.cogvideox.stock import (
    FULL_WIDTH,
    both_widths,
    relative_rms,
    stock_latents,
    write_model,
)

# float32, two layers, four steps: measured 0.7e-6 to 1.2e-6.
TOLERANCE = 1e-5
SIZES = {"height": 48, "width": 80}
FRAMES = {
    "cogvideox-2b": 9,
    "cogvideox-5b": 9,
    "cogvideox-5b-i2v": 9,
    "cogvideox1.5-5b": 17,
    "cogvideox1.5-5b-i2v": 17,
}
PROMPT, NEGATIVE = "a red hat jumps over the wall", "blue"


@pytest.fixture(scope="module", params=both_widths(FRAMES))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = write_model(tmp_path_factory.mktemp("models") / request.param)
    if takes_image(path):
        sharpen(path)
    ramp_HW = np.linspace(0, 255, SIZES["height"] * SIZES["width"]).reshape(SIZES["height"], SIZES["width"])
    picture_HWC = np.stack([ramp_HW, ramp_HW[::-1], ramp_HW[:, ::-1]], axis=-1).astype(np.uint8)
    Image.fromarray(picture_HWC).save(path.parent / "first.png")
    yield path
    # Gigabytes, at full width.
    shutil.rmtree(path)


def takes_image(folder: Path) -> bool:
    return folder.name.removesuffix(FULL_WIDTH).endswith("-i2v")


def sharpen(folder: Path) -> None:
    """Take the randomness from a VAE's encoder: diffusers draws an image's latents, m2d takes their mean."""
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    channels = len(weights["encoder.conv_out.conv.bias"]) // 2
    weights["encoder.conv_out.conv.weight"][channels:] = 0
    weights["encoder.conv_out.conv.bias"][channels:] = -100
    save_file(weights, path, metadata={"format": "pt"})


def m2d_latents(folder: Path, scheduler: str, video: dict[str, int], **scene: Any) -> torch.Tensor:
    sampling = {"num_inference_steps": 4, "guidance_scale": 6.0, "scheduler": scheduler}
    story = Story(
        title="One scene",
        scenes=[{"prompt": PROMPT, "negative_prompt": NEGATIVE, **scene}],
        sampling=sampling,
        video=video,
    )
    return StoryPipeline.from_pretrained(folder)(story).latents[0]


@pytest.mark.parametrize("scheduler", ["ddim", "dpm"])
def test_one_scene_equals_the_stock_pipeline(folder: Path, scheduler: str) -> None:
    sizes = {**SIZES, "num_frames": FRAMES[folder.name.removesuffix(FULL_WIDTH)]}
    picture = folder.parent / "first.png" if takes_image(folder) else None
    found = m2d_latents(folder, scheduler, sizes, **({"image": str(picture)} if picture else {}))
    expected = stock_latents(
        folder,
        scheduler,
        tuple(found.shape),
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        num_inference_steps=4,
        guidance_scale=6.0,
        **sizes,
        **({"image": Image.open(picture)} if picture else {}),
    )
    assert relative_rms(found, expected) < TOLERANCE


@pytest.mark.parametrize("name", FRAMES)
def test_the_number_of_parameters_is_that_of_the_config(name: str) -> None:
    from diffusers import CogVideoXTransformer3DModel

    known = known_model(name)
    assert known is not None
    with torch.device("meta"):
        # Their positions are tables, not parameters, and take seconds to compute.
        tables = {"use_rotary_positional_embeddings": True, "use_learned_positional_embeddings": False}
        model = CogVideoXTransformer3DModel(**known.transformer | tables)
    assert sum(parameter.numel() for parameter in model.parameters()) == known.num_parameters

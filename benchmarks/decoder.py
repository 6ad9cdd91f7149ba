"""The VAE's decoder on latents that the transformers predict, beside another decoder and the drawn truth.

Run: `python -m benchmarks.decoder --before FOLDER [--now FOLDER] [--stories 8] [--sheets docs/sheets]`.
FOLDER is a model folder with the other decoder, of the same latents. Writes
`benchmarks/results/decoder.json` and fails when a target is missed; with `--sheets` also
`decoder-small.png` and `decoder-large.png`.

Held-out stories are rendered, encoded and noised; each model predicts the clean latents, and both decoders
decode these and the encoder's own latents.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks.sheets import small_png
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.loading import load_vae
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.files import write_bytes, write_json
from m2d.model.pixels import to_pixels
from m2d.puppet.training.predicted_stories import PredictedStories, PredictedStory, Predictor
from m2d.puppet.training.vae_decoder import HELD_OUT_SEED, decoding_figures

RESULT = Path(__file__).parent / "results" / "decoder.json"
MODELS = {"small": BUILTIN_PUPPET, "large": f"{BUILTIN_PUPPET}-large"}
TIMESTEPS, CHANGING = (20, 450), 0.5
LEAST_GAIN_DB, LEAST_OUTLINE_GAIN = 1.5, 0.30
# Of a sheet: story, scene and frame of each row.
ROWS = ((0, 0, 7), (1, 1, 7), (2, 2, 7))
_HEIGHT, _GAP, _HEAD = 480, 12, 40
_LARGEST_BYTES = 700_000


def measure(
    before: AutoencoderKLCogVideoX, now: AutoencoderKLCogVideoX, stories: PredictedStories, *, count: int
) -> dict[str, Any]:
    """Return the figures of both decoders, what the second one gains, and the time to decode a scene."""
    figures = {
        name: decoding_figures(vae, stories, count=count) for name, vae in (("before", before), ("now", now))
    }
    old, new = figures["before"], figures["now"]
    latents_FCHW = stories.get(0).predicted_NFCHW[0]
    seconds = _decoding_seconds({"before": before, "now": now}, latents_FCHW)
    return {
        **figures,
        "stories": count,
        "gain_actors_db": round(new["made.psnr_actors_db"] - old["made.psnr_actors_db"], 3),
        "outline_error_less": round(1 - new["made.outline_error"] / old["made.outline_error"], 4),
        "decode_scene_cpu_s": seconds,
    }


def sheet(
    before: AutoencoderKLCogVideoX,
    now: AutoencoderKLCogVideoX,
    stories: list[tuple[PredictedStory, int, int]],
) -> Image.Image:
    """Draw a frame of each story: as the world draws it, before, and now.

    Args:
        stories: A story with the indices of scene and frame.
    """
    rows = [
        (
            to_pixels(story.frames_NPCHW[scene])[frame],
            CogVideoXVae(before).decode(story.predicted_NFCHW[scene])[frame],
            CogVideoXVae(now).decode(story.predicted_NFCHW[scene])[frame],
        )
        for story, scene, frame in stories
    ]
    pictures = [[_enlarged(frame) for frame in row] for row in rows]
    width, height = pictures[0][0].size
    canvas = Image.new("RGB", (3 * (width + _GAP) + _GAP, _HEAD + len(rows) * (height + _GAP)), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(24)
    for column, title in enumerate(("as drawn", "decoder before", "decoder now")):
        left = _GAP + column * (width + _GAP)
        draw.text((left, 6), title, font=font, fill="black")
        for row, parts in enumerate(pictures):
            canvas.paste(parts[column], (left, _HEAD + row * (height + _GAP)))
    return canvas


def _enlarged(frame_HWC: np.ndarray) -> Image.Image:
    frame = Image.fromarray(frame_HWC)
    return frame.resize((frame.width * _HEIGHT // frame.height, _HEIGHT), Image.Resampling.LANCZOS)


def _decoding_seconds(vaes: Mapping[str, AutoencoderKLCogVideoX], latents_FCHW: Tensor) -> dict[str, float]:
    """Return the median CPU time of five decodings by each, in turns after a first one."""
    seconds: dict[str, list[float]] = {name: [] for name in vaes}
    for _ in range(6):
        for name, vae in vaes.items():
            started_s = time.process_time()
            CogVideoXVae(vae).decode(latents_FCHW)
            seconds[name].append(time.process_time() - started_s)
    return {name: round(statistics.median(times[1:]), 3) for name, times in seconds.items()}


def _vae(folder: str) -> AutoencoderKLCogVideoX:
    vae: AutoencoderKLCogVideoX = load_vae(Path(folder), device="cpu", dtype=torch.float32).module
    return vae


def main() -> int:
    """Measure both models; return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", required=True, help="model folder with the other decoder")
    parser.add_argument("--now", help="model folder with the decoder; default: that of each embedded model")
    parser.add_argument("--small", default=MODELS["small"], help="model that predicts small scenes")
    parser.add_argument("--large", default=MODELS["large"], help="model that predicts large scenes")
    parser.add_argument("--stories", type=int, default=8, help="held-out stories per model")
    parser.add_argument("--cache", type=Path, help="folder that keeps predicted stories for the next run")
    parser.add_argument("--sheets", type=Path, help="folder for the sheets of single frames")
    parser.add_argument("--json", type=Path, default=RESULT, help="file of the figures")
    given = parser.parse_args()
    torch.set_num_threads(1)
    before, results, misses = _vae(given.before), {}, []
    for name in MODELS:
        model = getattr(given, name)
        now = _vae(given.now or str(resolve_model(model).path))
        stories = PredictedStories(
            predictor=Predictor.load(model),
            vae=before,
            seed=HELD_OUT_SEED,
            timesteps=TIMESTEPS,
            changing=CHANGING,
            folder=given.cache and given.cache / name,
        )
        results[name] = figures = measure(before, now, stories, count=given.stories)
        gain, less = figures["gain_actors_db"], figures["outline_error_less"]
        sys.stdout.write(f"{name}: actors {gain:+.2f} dB, outlines {-100 * less:+.0f} %: {figures}\n")
        if gain < LEAST_GAIN_DB or less < LEAST_OUTLINE_GAIN:
            misses.append(name)
        if given.sheets:
            rows = [(stories.get(story), scene, frame) for story, scene, frame in ROWS]
            png = small_png(sheet(before, now, rows), limit_bytes=_LARGEST_BYTES)
            write_bytes(given.sheets / f"decoder-{name}.png", png)
    write_json(given.json, results)
    if misses:
        sys.stderr.write(f"below {LEAST_GAIN_DB} dB or {LEAST_OUTLINE_GAIN:.0%}: {', '.join(misses)}\n")
    return int(bool(misses))


if __name__ == "__main__":
    sys.exit(main())

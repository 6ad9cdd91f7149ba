"""Memory and minutes of every published model on cards of 8 to 80 GB, by prediction: none was measured.

Run: `python -m benchmarks.memory_table`. Writes `benchmarks/results/memory_table.json` and the tables in
`docs/models.md`, and fails when the transformer of the 5B model takes more above its weights than allowed.

Three scenes of the model's own size, in 16 bits, with the steps of its authors; the VAE in float32.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from m2d.families.family import KnownModel
from m2d.families.registry import NEW_MODELS
from m2d.files import write_json
from m2d.layout import SceneLayout
from m2d.placement.cards import CARDS, Card
from m2d.placement.prediction import FilmNeeds, FilmWork, WindowWork, card_target, choose, film_needs
from m2d.reading import read_text

RESULTS = Path(__file__).parent / "results" / "memory_table.json"
DOCUMENT = Path(__file__).parents[1] / "docs" / "models.md"
START, END = (
    "<!-- memory: written by `python -m benchmarks.memory_table`, do not edit -->",
    "<!-- end of memory -->",
)
SIZES_GB = {8: "RTX 4060", 12: "RTX 4070", 16: "RTX 4080", 24: "RTX 4090", 48: "L40S", 80: "H100 SXM"}
NUM_SCENES, NUM_STEPS = 3, 50
# Bytes above the weights: the bounds for three scenes of 49x480x720.
MOST_ABOVE_WEIGHTS = {"batched": 8e9, "sequential": 4.5e9}
BOUNDED = "CogVideoX-5b"


def work_of(model: KnownModel, *, is_batched: bool, vae_dtype: torch.dtype = torch.float32) -> FilmWork:
    """Return three scenes of a published model's own size."""
    config = model.transformer
    patch, patch_t = int(config["patch_size"]), int(config.get("patch_size_t") or 1)
    height, width = model.height // model.spatial_compression, model.width // model.spatial_compression
    frames = (model.num_frames - 1) // model.temporal_compression + 1
    frames = -(-frames // patch_t) * patch_t
    layout = SceneLayout.build(
        "mask2dit",
        text_tokens=[int(config["max_text_seq_length"])] * NUM_SCENES,
        latent_frames=[frames] * NUM_SCENES,
        tokens_per_frame=(height // patch) * (width // patch),
        frames_per_token=patch_t,
    )
    window = WindowWork(
        layout=layout, num_calls=NUM_STEPS * (1 if is_batched else 2), batch_size=2 if is_batched else 1
    )
    return FilmWork(
        family=NEW_MODELS,
        configs={"transformer": config, "vae": model.vae, "text_encoder": model.text_encoder},
        dtype=getattr(torch, model.dtype),
        latent_size=(height, width),
        windows=[window],
        scenes=[frames] * NUM_SCENES,
        num_prompts=NUM_SCENES + 1,
        num_images=NUM_SCENES if model.takes_image else 0,
        vae_dtype=vae_dtype,
    )


def card_row(needs: FilmNeeds, smaller: FilmNeeds, card: Card) -> dict[str, Any]:
    """Return the modes that fit a card, the peak of every stage and the minutes.

    Args:
        smaller: What the film takes with the VAE in 16 bits, which is used where nothing else fits.
    """
    target = card_target(card, is_half=True)
    choice = choose(needs, target)
    is_half = not choice.is_fitting
    if is_half:
        needs, target = smaller, card_target(card, is_half=True, is_vae_half=True)
        choice = choose(needs, target)
    stages = needs.stages(choice, target.rates)
    return {
        "card": card.name,
        "fits": choice.is_fitting,
        "memory": choice.memory,
        "decode": choice.decode,
        "vae_dtype": "bfloat16" if is_half else "float32",
        "peak_bytes": {stage.name: stage.peak_bytes for stage in stages},
        "minutes": round(sum(stage.seconds for stage in stages) / 60, 1),
    }


def model_rows(model: KnownModel) -> dict[str, Any]:
    """Return what one model takes, with guidance batched and one prediction at a time."""
    cards = {card.name: card for card in CARDS}
    found: dict[str, Any] = {}
    for guidance in ("batched", "sequential"):
        needs, smaller = (
            film_needs(work_of(model, is_batched=guidance == "batched", vae_dtype=dtype))
            for dtype in (torch.float32, torch.bfloat16)
        )
        window, transformer = needs.windows[0]
        found[guidance] = {
            "above_weights_bytes": transformer.activation_bytes,
            "transformer_bytes": transformer.weights_bytes,
            "text_encoder_bytes": needs.text.weights_bytes,
            "decode_bytes": {name: needs.vae_bytes + size for name, size in needs.vae.decode_bytes.items()},
            "step_flops": transformer.flops * window.num_calls // NUM_STEPS,
            "cards": {str(size): card_row(needs, smaller, cards[name]) for size, name in SIZES_GB.items()},
        }
    return found


def tables(report: Mapping[str, Any]) -> str:
    """Return the Markdown that `docs/models.md` shows."""
    heads = " | ".join(f"{size} GB ({name})" for size, name in SIZES_GB.items())
    lines = [f"| model, guidance | {heads} |", "|---" * (len(SIZES_GB) + 1) + "|"]
    for model, rows in report["models"].items():
        for guidance in ("batched", "sequential"):
            cells = [_cell(rows[guidance]["cards"][str(size)]) for size in SIZES_GB]
            lines.append(f"| {model}, {guidance} | {' | '.join(cells)} |")
    lines += [
        "",
        "| model | transformer | above: batched, sequential | text encoder | decode: plain, sliced, tiled |",
    ]
    lines.append("|---|---|---|---|---|")
    for model, rows in report["models"].items():
        batched = rows["batched"]
        above = ", ".join(_gib(rows[name]["above_weights_bytes"]) for name in ("batched", "sequential"))
        decode = ", ".join(_gib(size) for size in batched["decode_bytes"].values())
        weights, text = _gib(batched["transformer_bytes"]), _gib(batched["text_encoder_bytes"])
        lines.append(f"| {model} | {weights} | {above} | {text} | {decode} GiB |")
    return "\n".join(lines)


def readme_rows(report: Mapping[str, Any]) -> list[str]:
    """Return the rows of README's table of models, batched guidance."""
    rows = []
    for names in (("CogVideoX-2b",), ("CogVideoX-5b", "-I2V", "Mask2DiT"), ("CogVideoX1.5-5B", "-I2V")):
        known = NEW_MODELS.known_models[names[0].lower()]
        found = report["models"][known.name]["batched"]
        cards = {size: found["cards"][str(size)] for size in SIZES_GB}
        times = [_minutes(row["minutes"]) if row["fits"] else "-" for row in cards.values()]
        shape = f"{known.width}x{known.height}, {known.num_frames}"
        cells = (", ".join(names), known.licence, shape, f"{_gib(found['transformer_bytes'])} GiB")
        rows.append(f"| {' | '.join(cells)} | {' | '.join(times)} |")
    return rows


def with_tables(document: str, report: Mapping[str, Any]) -> str:
    """Return the document with its tables replaced."""
    before, _, rest = document.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{tables(report)}\n{END}{after}"


def _cell(row: Mapping[str, Any]) -> str:
    if not row["fits"]:
        return "no"
    half = "*" if row["vae_dtype"] == "bfloat16" else ""
    return f"{row['memory']}, {row['decode']}{half}; {_minutes(row['minutes'])}"


def _minutes(minutes: float) -> str:
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}"


def main() -> int:
    """Count, write the figures and the tables, and report whether the bounds are kept."""
    # Mask2DiT, trained on several scenes, has the sizes of CogVideoX-5b.
    published = [model for model in NEW_MODELS.known_models.values() if model.num_scenes is None]
    models = {model.name: model_rows(model) for model in published}
    above = {name: models[BOUNDED][name]["above_weights_bytes"] for name in MOST_ABOVE_WEIGHTS}
    is_kept = all(above[name] <= most for name, most in MOST_ABOVE_WEIGHTS.items())
    report = {
        "what": "three scenes of each model's own size, counted on the meta device; no card was measured",
        "torch": torch.__version__,
        "num_steps": NUM_STEPS,
        "targets": {"above_weights_bytes": MOST_ABOVE_WEIGHTS, "model": BOUNDED},
        "is_kept": is_kept,
        "models": models,
    }
    write_json(RESULTS, report)
    DOCUMENT.write_text(with_tables(read_text(DOCUMENT, limit_bytes=1 << 20), report), "utf-8")
    sys.stdout.write(tables(report) + "\n")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())

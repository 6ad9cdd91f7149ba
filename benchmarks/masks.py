"""Error of the plan's unmasked attention against attention with a dense mask, for every mask, in float32.

Run: `python -m benchmarks.masks`. Writes `benchmarks/results/masks.json` and fails above the tolerance.

The model's own `SceneAttnProcessor` executes the plan; the oracle is diffusers' CogVideoX processor with the
dense mask. Values and outputs are not projected, because projections would make errors look small.
"""

# B batch, L tokens, T text tokens, V video tokens, D width, K head dim, R = K/2.

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import diffusers
import torch
from diffusers.models.attention_processor import Attention, CogVideoXAttnProcessor2_0
from torch import Tensor

from m2d.files import write_json
from m2d.layout import MASKS, SceneLayout
from m2d.model.attention import SceneAttnProcessor
from m2d.model.block_plan import scenes_plan

RESULTS = Path(__file__).parent / "results" / "masks.json"
TOLERANCE = 1e-6  # a few units in the last place of float32 at the outputs' magnitude (2 to 4)
SEED = 2503
NUM_LAYOUTS = 100
WINDOWS = ("window:1", "window:2", "window:3")
MEASURED_MASKS = (*(mask for mask in MASKS if mask != "window:k"), *WINDOWS)
BATCH, HEADS, HEAD_DIM = 2, 2, 32


class Comparison(NamedTuple):
    """Largest absolute errors, with all queries and with target queries, and largest absolute output."""

    error: float
    error_targets: float
    output: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskFigures:
    """The figures of one mask.

    Attributes:
        max_abs_error: Largest error of all outputs of all layouts, with all tokens as queries.
        max_abs_error_targets: The same with some scenes' video tokens as the only queries (the last block).
        max_abs_output: The oracle's largest output, for scale.
        most_tokens: Tokens of the longest layout.
    """

    max_abs_error: float
    max_abs_error_targets: float
    max_abs_output: float
    most_tokens: int


def random_layout(mask: str, draw: random.Random) -> SceneLayout:
    """Draw a story of 2 to 6 scenes with unequal text and frame lengths."""
    scenes = range(draw.randint(2, 6))
    return SceneLayout.build(
        mask,
        text_tokens=[draw.randint(1, 40) for _ in scenes],
        latent_frames=[draw.randint(1, 4) for _ in scenes],
        tokens_per_frame=draw.randint(1, 24),
    )


def make_attention() -> Attention:
    """Make a CogVideoX attention without projections of values and outputs."""
    width = HEADS * HEAD_DIM
    attention = Attention(
        query_dim=width,
        dim_head=HEAD_DIM,
        heads=HEADS,
        qk_norm="layer_norm",
        eps=1e-6,
        bias=True,
        out_bias=True,
    )
    with torch.no_grad():
        for layer in (attention.to_v, attention.to_out[0]):
            layer.weight.copy_(torch.eye(width))
            layer.bias.zero_()
    return attention.eval().requires_grad_(False)


def attend_dense(
    attention: Attention, tokens_BLD: Tensor, *, layout: SceneLayout, angles_VR: Tensor
) -> Tensor:
    """Attend with diffusers' processor and a dense mask; (B, L, D)."""
    text_BTD, video_BVD = tokens_BLD.tensor_split((layout.num_text_tokens,), dim=1)
    angles_VK = angles_VR.repeat_interleave(2, dim=-1)
    video_BVD, text_BTD = CogVideoXAttnProcessor2_0()(
        attention,
        video_BVD,
        text_BTD,
        attention_mask=torch.from_numpy(layout.dense()).expand(len(tokens_BLD), -1, -1),
        image_rotary_emb=(angles_VK.cos(), angles_VK.sin()),
    )
    return torch.cat([text_BTD, video_BVD], dim=1)


def compare(layout: SceneLayout, *, targets: tuple[int, ...], generator: torch.Generator) -> Comparison:
    """Compare plan and oracle on one layout, with all queries and with those of some target scenes."""
    attention = make_attention()
    tokens_BLD = torch.randn(BATCH, layout.num_tokens, HEADS * HEAD_DIM, generator=generator)
    angles_VR = torch.rand(layout.num_video_tokens, HEAD_DIM // 2, generator=generator) * 6.0
    rotary_VR2 = torch.stack([angles_VR.cos(), angles_VR.sin()], dim=-1)
    expected_BLD = attend_dense(attention, tokens_BLD, layout=layout, angles_VR=angles_VR)
    rows = torch.cat(
        [torch.arange(layout.num_tokens)[layout.video_span(scene).as_slice] for scene in targets]
    )
    run = SceneAttnProcessor()
    all_BLD = run(attention, tokens_BLD, plan=scenes_plan(layout).plan, rotary_VR2=rotary_VR2)
    last_plan = scenes_plan(layout, targets=targets).last_plan
    some_BQD = run(attention, tokens_BLD, plan=last_plan, rotary_VR2=rotary_VR2)
    return Comparison(
        error=(all_BLD - expected_BLD).abs().max().item(),
        error_targets=(some_BQD - expected_BLD[:, rows]).abs().max().item(),
        output=expected_BLD.abs().max().item(),
    )


def measure(mask: str, *, num_layouts: int, seed: int = SEED) -> MaskFigures:
    """Compare plan and oracle on random layouts of one mask."""
    draw = random.Random(f"{seed} {mask}")
    torch.manual_seed(seed)  # seeds the attention's own weights, because modules take no generator
    generator = torch.Generator().manual_seed(seed)
    layouts = [random_layout(mask, draw) for _ in range(num_layouts)]
    compared = []
    for layout in layouts:
        targets = tuple(sorted(draw.sample(range(layout.num_scenes), draw.randint(1, layout.num_scenes))))
        compared.append(compare(layout, targets=targets, generator=generator))
    return MaskFigures(
        max_abs_error=max(each.error for each in compared),
        max_abs_error_targets=max(each.error_targets for each in compared),
        max_abs_output=max(each.output for each in compared),
        most_tokens=max(layout.num_tokens for layout in layouts),
    )


def main() -> int:
    """Measure every mask, write the figures, and report whether all are within the tolerance."""
    figures = {mask: measure(mask, num_layouts=NUM_LAYOUTS) for mask in MEASURED_MASKS}
    worst = max(max(each.max_abs_error, each.max_abs_error_targets) for each in figures.values())
    report = {
        "what": "plan against dense-mask attention, max abs error, float32, CPU",
        "seed": SEED,
        "num_layouts_per_mask": NUM_LAYOUTS,
        "scenes": [2, 6],
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "tolerance": TOLERANCE,
        "max_abs_error": worst,
        "within_tolerance": worst <= TOLERANCE,
        "masks": {mask: asdict(each) for mask, each in figures.items()},
    }
    write_json(RESULTS, report)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if worst <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())

"""Bytes, memory and operations of one CogVideoX-5B block at full size, against the official scheme.

Run: `python -m benchmarks.accounting`. Writes `benchmarks/results/accounting.json` and fails when a target is
missed. Counted on the meta device in seconds, without weights or GPU; the figures are the same every time.
"""

# B batch, N scenes, T text tokens, V video tokens, D width, E width of the timestep embedding, R pairs.

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks.baselines.official import OfficialBlock
from benchmarks.baselines.stock import stock_model
from benchmarks.cases import BLOCK_5B, Case, make_transformer
from m2d.files import write_json
from m2d.model.block_plan import scenes_plan
from m2d.model.execution import choose_execution
from m2d.placement.counting import Counts, count

RESULTS = Path(__file__).parent / "results" / "accounting.json"
LARGEST_BYTES_RATIO = 0.50
LARGEST_PEAK_RATIO = 0.50
LARGEST_FLOPS_ERROR = 0.001


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockCounts:
    """The counts of one block: ours, the official scheme, and stock diffusers without a mask."""

    ours: Counts
    official: Counts
    official_with_context: Counts
    stock: Counts


def attention_flops(case: Case) -> int:
    """Return the operations under the default mask: video to all videos; text and its video to each other."""
    scenes, text = case.num_scenes, case.text_tokens
    video = case.latent_frames * case.grid[0] * case.grid[1]
    pairs = (scenes * video) ** 2 + 2 * scenes * text * video + scenes * text**2
    return 4 * case.batch_size * case.num_heads * 64 * pairs


def block_flops(case: Case) -> int:
    """Return the operations of a block: attention, and 4 + 8 square products per token.

    Four are projections, eight are the feed-forward. The adaptive norms, a millionth, are left out.
    """
    tokens = case.batch_size * case.layout.num_tokens
    return attention_flops(case) + 2 * tokens * 12 * (case.num_heads * 64) ** 2


def count_block(case: Case = BLOCK_5B, dtype: torch.dtype = torch.bfloat16) -> BlockCounts:
    """Count one block of a case in all three implementations, on the meta device."""
    layout, width = case.layout, case.num_heads * 64
    with torch.device("meta"):
        text_BTD = torch.empty(case.batch_size, layout.num_text_tokens, width, dtype=dtype)
        video_BVD = torch.empty(case.batch_size, layout.num_video_tokens, width, dtype=dtype)
        temb_BNE = torch.empty(case.batch_size, case.num_scenes, case.time_width, dtype=dtype)
        rotary_VR2 = torch.empty(layout.num_video_tokens, 32, 2)
        cos_sin = (torch.empty(layout.num_video_tokens, 64), torch.empty(layout.num_video_tokens, 64))
    transformer = make_transformer(case, device="meta", dtype=dtype)
    ours = transformer.transformer_blocks[0]
    official = OfficialBlock(stock_model(transformer).transformer_blocks[0], case.num_scenes)
    stock = stock_model(transformer).transformer_blocks[0]
    tensors = [text_BTD, video_BVD, temb_BNE, rotary_VR2, *cos_sin]
    plan, execution = scenes_plan(layout).plan, choose_execution(layout)
    one_temb_BE = temb_BNE[:, 0]

    def counted(block: nn.Module, run: Callable[[], object]) -> Counts:
        return count(run, held=[*tensors, *block.parameters()])

    return BlockCounts(
        ours=counted(ours, lambda: ours(text_BTD, video_BVD, temb_BNE, rotary_VR2, plan, None, execution)),
        official=counted(official, lambda: official(text_BTD, video_BVD, one_temb_BE, cos_sin)),
        official_with_context=counted(official, lambda: official(text_BTD, video_BVD, temb_BNE, cos_sin)),
        stock=counted(stock, lambda: stock(video_BVD, text_BTD, one_temb_BE, cos_sin)),
    )


def main() -> int:
    """Count, write the figures and report whether the targets are met."""
    counts = count_block()
    bytes_ratio = counts.ours.moved_bytes / counts.official.moved_bytes
    peak_ratio = counts.ours.peak_bytes / counts.official.peak_bytes
    formula = attention_flops(BLOCK_5B)
    flops_error = abs(counts.ours.attention_flops / formula - 1)
    is_kept = (
        bytes_ratio <= LARGEST_BYTES_RATIO
        and peak_ratio <= LARGEST_PEAK_RATIO
        and flops_error <= LARGEST_FLOPS_ERROR
    )
    report = {
        "what": "one CogVideoX-5B block, bfloat16, counted on the meta device",
        "case": BLOCK_5B.name,
        "batch_size": BLOCK_5B.batch_size,
        "torch": torch.__version__,
        "moved_bytes_ratio": bytes_ratio,
        "peak_bytes_ratio": peak_ratio,
        "attention_flops_formula": formula,
        "attention_flops_error": flops_error,
        "targets": {
            "moved_bytes_ratio": LARGEST_BYTES_RATIO,
            "peak_bytes_ratio": LARGEST_PEAK_RATIO,
            "attention_flops_error": LARGEST_FLOPS_ERROR,
        },
        "is_kept": is_kept,
        "counts": asdict(counts),
    }
    write_json(RESULTS, report)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())

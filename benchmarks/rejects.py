"""Training on a dataset in which every seventh video is broken.

Run: `python -m benchmarks.rejects [--clips 300] [--broken 40]`. Writes `benchmarks/results/rejects.json` and
fails when a target is missed: every broken video is listed with its reason and no valid one, nothing crashes,
no video takes longer than 20 s, all samples of an epoch are complete, and a dataset of broken videos alone
ends with an error that names them.
"""

from __future__ import annotations

import argparse
import collections
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import m2d
from benchmarks.broken_videos import break_videos, turn_video
from m2d.cli.console import make_reporter
from m2d.errors import DatasetError
from m2d.files import write_json
from m2d.puppet.dataset_files import RenderPlan
from m2d.tasks.render import render
from m2d.tasks.train import plan_training, run

RESULTS = Path(__file__).parent / "results" / "rejects.json"
LONGEST_S = 20.0
_RECIPE = """\
title: rejects
stage: base
model: builtin:puppet
init: random
transformer: {{num_layers: 1, num_attention_heads: 2, attention_head_dim: 16, patch_size: 2,
  time_embed_dim: 16, max_text_tokens: 64}}
data: {{source: {source}, sampling: official, held_out: 12, workers: 2, time_limit_s: {longest_s},
  max_rejected: {share}}}
video: {{num_frames: 9, height: 64, width: 64, fps: 8}}
num_scenes: 1
steps: {steps}
batch_size: 12
optimizer: {{name: adamw, lr: 1.0e-3}}
evaluation: {{num_samples: 12}}
"""


def rendered(folder: Path, *, num_clips: int) -> tuple[Path, list[Path]]:
    """Write `num_clips` clips, long enough for the official sampling, with their table."""
    plan = RenderPlan(out=folder, num_stories=num_clips, num_scenes=1, num_frames=33, file_format="csv")
    table = render(plan, make_reporter(quiet=False))
    return table, sorted((folder / "videos").iterdir())


def train(table: Path, folder: Path, *, share: float, num_samples: int) -> float:
    """Train one epoch and return the seconds it took."""
    recipe = folder / "recipe.yaml"
    steps = num_samples // 12
    recipe.write_text(_RECIPE.format(source=table, longest_s=LONGEST_S, share=share, steps=steps))
    started_s = time.monotonic()
    run(plan_training(recipe, run=folder / "run", cache=folder / "cache"), make_reporter(quiet=False))
    return time.monotonic() - started_s


def listed(run_folder: Path) -> dict[str, str]:
    """Return the names of the rejected videos with their reasons."""
    lines = (run_folder / "rejected.jsonl").read_text().splitlines()
    return {Path(line["video"]).name: line["reason"] for line in map(json.loads, lines)}


def measure(folder: Path, *, num_clips: int, num_broken: int) -> dict[str, Any]:
    """Break some clips, train, and compare the list with the broken clips; then break all of them."""
    table, videos = rendered(folder / "data", num_clips=num_clips)
    broken = break_videos(videos, count=num_broken)
    turned = [video for video in videos if video not in broken][:5]
    for video in turned:
        turn_video(video, degrees=90)
    duration_s = train(table, folder, share=0.2, num_samples=num_clips - 12)
    found = listed(folder / "run")
    reasons = collections.defaultdict(set)
    for video, kind in broken.items():
        reasons[kind].add(found.get(video.name, "NOT LISTED"))
    break_videos(videos, count=len(videos))
    return {
        "num_clips": num_clips,
        "num_broken": num_broken,
        "num_listed": len(found.keys() & {video.name for video in broken}),
        "num_sound_listed": len(found.keys() - {video.name for video in broken}),
        "num_timeouts": sum("is not decoded after" in reason for reason in found.values()),
        "num_turned_and_used": len({video.name for video in turned} - found.keys()),
        "training_s": round(duration_s, 1),
        "reasons": {kind: sorted(texts) for kind, texts in sorted(reasons.items())},
        "all_broken": refused(table, folder / "all"),
    }


def refused(table: Path, folder: Path) -> dict[str, Any]:
    """Train on broken videos alone and return how the training ends."""
    folder.mkdir()
    started_s = time.monotonic()
    try:
        train(table, folder, share=0.2, num_samples=24)
    except DatasetError as error:
        lines = str(error).splitlines()
        return {
            "exit_code": error.exit_code,
            "message": lines[0].replace(str(folder), "RUN"),
            "num_named": sum(".mp4:" in line for line in lines),
            "num_listed": len(listed(folder / "run")),
            "after_s": round(time.monotonic() - started_s, 1),
        }
    return {"exit_code": 0, "message": "trained", "num_named": 0, "num_listed": 0, "after_s": 0.0}


def is_reached(result: dict[str, Any]) -> bool:
    """Return whether all targets are met."""
    is_complete = result["num_listed"] == result["num_broken"] and not result["num_sound_listed"]
    is_refused = result["all_broken"]["exit_code"] == 2 and result["all_broken"]["num_named"] > 0
    return is_complete and not result["num_timeouts"] and is_refused and result["num_turned_and_used"] == 5


def main() -> int:
    """Measure, write the results, and fail when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--broken", type=int, default=40)
    parser.add_argument("--out", type=Path, default=RESULTS)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), num_clips=wanted.clips, num_broken=wanted.broken)
    reached = is_reached(result)
    write_json(wanted.out, {"m2d": m2d.__version__, "reached": reached, **result})
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())

"""Kills trainings by `kill -9` at random moments, resumes them, and compares the results bit for bit.

Run: `python -m benchmarks.train_kills [--kills N]`. Writes `benchmarks/results/train_kills.json` and fails if
weights, average or optimizer state after any chain of interruptions differ from those of an uninterrupted
run, if a run cannot resume, or if a file is left over. The transformer is tiny, because the order of writes
to the disk does not depend on its size.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.child import END, Child, PipeReporter
from m2d.files import sha256_file, write_json
from m2d.progress import SilentReporter
from m2d.tasks.train import plan_training, run
from m2d.training.state import FOLDER, find_checkpoint

RESULTS = Path(__file__).parent / "results" / "train_kills.json"
NUM_KILLS = 50
SEED = 411
AGAIN = 0.4
"""Share of the resumed runs that are killed, too."""
STAGE = "train sft"
PARTS = ("weights", "ema", "optimizer")
# 12 training stories in batches of 4: an epoch has three steps, and every other step has a checkpoint.
RECIPE = """\
title: kills
stage: sft
model: {model}
init: random
transformer: {{num_layers: 2, num_attention_heads: 2, attention_head_dim: 16, patch_size: 4,
  time_embed_dim: 16, max_text_tokens: 40}}
data: {{source: builtin:puppet, num_stories: 14, held_out: 2}}
video: {{num_frames: 9, height: 32, width: 32}}
num_scenes: 3
objective: {{conditional_probability: 0.5}}
steps: 20
batch_size: 4
accumulate: 2
optimizer: {{name: muon, lr: 1.0e-3, matrix_lr: 3.0e-3}}
checkpoint: {{every_steps: 2, keep: 3}}
evaluation: {{every_steps: 7, num_samples: 2}}
log_every_steps: 3
export_dtype: float32
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One killed training and its outcome.

    Attributes:
        after_s: Seconds into the first run's training at which it was killed.
        steps: Steps of the newest valid checkpoint after each kill; -1 for none.
        num_runs: Runs until the end.
        wrong: Faults.
    """

    after_s: float
    steps: tuple[int, ...]
    num_runs: int
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A training whose uninterrupted run is done.

    Attributes:
        recipe: The recipe file.
        cache: Encoded stories.
        digests: sha256 of the uninterrupted run's last checkpoint, by part.
        train_s: Seconds of the uninterrupted run's training.
    """

    recipe: Path
    cache: Path
    digests: dict[str, str]
    train_s: float

    def start(self, folder: Path) -> Child:
        """Train in `folder` in a child process, from its newest checkpoint if there is one."""
        return Child(lambda reporter: _train(self.recipe, folder, self.cache, reporter))


def prepare(folder: Path, *, model: str = "builtin:puppet") -> Prepared:
    """Do the uninterrupted run, after importing and encoding everything once."""
    torch.set_num_threads(1)
    recipe, cache, straight = folder / "kills.yaml", folder / "cache", folder / "straight"
    recipe.write_text(RECIPE.format(model=model), encoding="ascii")
    _train(recipe, folder / "warm-up", cache, SilentReporter())
    child = Child(lambda reporter: _train(recipe, straight, cache, reporter))
    code = child.wait()
    if code:
        raise RuntimeError(f"the uninterrupted run failed with {code}: {child.error}")
    return Prepared(recipe=recipe, cache=cache, digests=_digests(straight), train_s=child.spans_s()[STAGE])


def kill_often(prepared: Prepared, folder: Path, *, count: int, seed: int = SEED) -> Iterator[Kill]:
    """Kill `count` trainings, each at a uniformly drawn moment, and resume each to its end."""
    draw = random.Random(seed)
    for index in range(count):
        yield kill_and_resume(prepared, folder / f"run-{index}", draw)


def kill_and_resume(prepared: Prepared, folder: Path, draw: random.Random) -> Kill:
    """Kill a training, resume it to its end, and compare; remove the folder if there is no fault."""
    after_s, steps, wrong, num_runs = draw.uniform(0, prepared.train_s), [], [], 0
    wait_s: float | None = after_s
    while True:
        num_runs += 1
        child = prepared.start(folder)
        if wait_s is not None and child.wait_for(STAGE):
            time.sleep(wait_s)
            child.kill(with_encoder=False)
        code = child.wait()
        if child.stage == END:
            break
        if code != -9:
            wrong.append(f"run {num_runs} failed by itself with {code}: {child.error}")
            break
        steps.append(_newest_step(folder, wrong))
        wait_s = draw.uniform(0, prepared.train_s) if draw.random() < AGAIN else None
    wrong += [part for part, digest in _digests(folder).items() if digest != prepared.digests[part]]
    wrong += [f"left over: {path.name}" for path in folder.rglob("*.part")]
    if not wrong:
        shutil.rmtree(folder)
    return Kill(after_s=round(after_s, 3), steps=tuple(steps), num_runs=num_runs, wrong=tuple(wrong))


def _train(recipe: Path, folder: Path, cache: Path, reporter: SilentReporter | PipeReporter) -> None:
    resume = any((folder / FOLDER).glob("step-*"))
    run(plan_training(recipe, run=folder, cache=cache, resume=resume, num_threads=1), reporter)


def _newest_step(folder: Path, wrong: list[str]) -> int:
    found = find_checkpoint(folder)
    wrong += [f"rejected: {why}" for why in found.rejected]
    return int(found.path.name.rpartition("-")[2]) if found.path is not None else -1


def _digests(folder: Path) -> dict[str, str]:
    path = find_checkpoint(folder).path
    return {part: sha256_file(path / f"{part}.safetensors") if path else "" for part in PARTS}


def write_kills(out: Path, kills: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> int:
    """Write what became of killed runs, and return the exit code: 1 if any lost something.

    Args:
        kills: One record for each; `wrong` lists its faults.
    """
    with_losses = sum(bool(kill["wrong"]) for kill in kills)
    report = {
        **facts,
        "kills": len(kills),
        "with_losses": with_losses,
        "each": list(kills),
        "machine": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
    }
    write_json(out, report)
    sys.stdout.write(f"{out}: {len(kills)} kills, {with_losses} with losses\n")
    return 1 if with_losses else 0


def main() -> int:
    """Kill, resume, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=NUM_KILLS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepared = prepare(Path(name))
        kills = list(kill_often(prepared, Path(name), count=words.kills))
    facts = {
        "kills_of_runs_that_went_on": sum(len(kill.steps) - 1 for kill in kills if kill.steps),
        "seed": SEED,
        "train_s": round(prepared.train_s, 2),
    }
    return write_kills(words.out, [asdict(kill) for kill in kills], facts)


if __name__ == "__main__":
    sys.exit(main())

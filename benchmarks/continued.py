"""Scenes that continue an external video: how far colours jump after the frame that is given.

Run: `python -m benchmarks.continued [--model builtin:puppet|FOLDER] [--stories 20] [--videos FOLDER]`. Writes
`benchmarks/results/continued.json` (or `--out`), and fails unless every rendered scene of a held-out story is
continued within `MOST_CONTINUED_JUMP` levels and no other video is.

The rendered scenes have no record, so they are external videos of pictures that the model knows. `--videos`
is a folder of videos that it does not know; without it, only the first half is measured.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from m2d.cli.console import make_reporter
from m2d.errors import M2DError
from m2d.files import write_json
from m2d.film.make import RunOptions
from m2d.progress import Reporter, SilentReporter
from m2d.puppet.captions import plain_caption
from m2d.puppet.dataset_files import RenderPlan
from m2d.puppet.story import sample_story
from m2d.recipe.overrides import Overrides
from m2d.registry import get_backend
from m2d.tasks import extend
from m2d.tasks.render import render
from m2d.video.joining import MOST_CONTINUED_JUMP

RESULTS = Path(__file__).parent / "results" / "continued.json"
# A collection that no training recipe draws from.
STORY_SEED = 887
PROMPT = "Beach at noon. Actor1 (round red body, no hat) waves."


def jump_of(
    video: Path, prompt: str, *, model: str, folder: Path, context_prompt: str | None = None
) -> float:
    """Continue a video by one scene, and return the recorded jump in levels."""
    request = extend.Extension(
        film=video,
        prompts=(prompt,),
        context_prompts=() if context_prompt is None else (context_prompt,),
        model=model,
        join="continue",
    )
    made = extend.run(
        request,
        find_backend=get_backend,
        reporter=SilentReporter(),
        overrides=Overrides(out=folder / "continued.mp4"),
        options=RunOptions(force=True),
    )
    jump = made.provenance.scenes[-1].colour_jump
    assert jump is not None
    return round(jump, 2)


def measure(model: str, *, num_stories: int, videos: list[Path], reporter: Reporter) -> dict[str, Any]:
    """Continue the first scene of every story by its second, and every video."""
    known, unknown = [], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = folder / "clips"
        render(RenderPlan(num_stories=num_stories, out=data, seed=STORY_SEED), SilentReporter())
        clips = sorted(data.glob("videos/*-scene-1.mp4"))
        with reporter.stage("continue", total=len(clips) + len(videos)) as progress:
            for index, clip in enumerate(clips):
                story = sample_story(seed=STORY_SEED, index=index, num_scenes=3)
                first, second = (plain_caption(story, each) for each in story.scenes[:2])
                known.append(jump_of(clip, second, model=model, folder=folder, context_prompt=first))
                progress.advance()
            for video in videos:
                unknown[video.name] = jump_of(video, PROMPT, model=model, folder=folder)
                progress.advance()
    return {"known": known, "unknown": unknown}


def main() -> int:
    """Run the command; the exit status is 1 when a jump is on the wrong side, 2 for wrong input."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="builtin:puppet")
    parser.add_argument("--stories", type=int, default=20, metavar="N")
    parser.add_argument("--videos", type=Path, metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args()
    videos = sorted(each for each in args.videos.iterdir() if each.suffix != ".md") if args.videos else []
    try:
        found = measure(args.model, num_stories=args.stories, videos=videos, reporter=make_reporter())
    except M2DError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    holds = max(found["known"]) <= MOST_CONTINUED_JUMP < min(found["unknown"].values(), default=255)
    report = {
        "model": args.model,
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "most_continued_jump": MOST_CONTINUED_JUMP,
        **found,
        "all_hold": holds,
    }
    write_json(args.out, report)
    sys.stdout.write(f"known pictures: at most {max(found['known'])} levels; others: {found['unknown']}\n")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())

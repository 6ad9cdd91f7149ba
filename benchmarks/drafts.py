"""Drafts against films: the sheet of `m2d generate --preview` and the film after it, on held-out stories.

Run: `python -m benchmarks.drafts [--model builtin:puppet-large|FOLDER] [--stories 40] [--scenes 3]`. Writes
`benchmarks/results/drafts.json` (or `--out`) and fails when the target is missed.

Both are read by the model's attribute classifier. A draft predicts its film if in every scene tree and sun
stand within 5 % of the picture's width, and the horizon within 5 % of its height, of where they stand in the
film, and the scene has the same actors with the same colours. With more scenes than the model makes at once,
later scenes are drawn after estimates of earlier ones.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.puppet_films import BACKEND, Sampling, SceneGenerator, default_scene, read_films
from m2d.cli.console import make_reporter
from m2d.errors import M2DError
from m2d.evaluation.intervals import Tally, figure_of
from m2d.families.source import ModelSource, resolve_model
from m2d.files import write_json
from m2d.film.draft import DRAFT_SHARE
from m2d.progress import Reporter
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, Reading, load_classifier
from m2d.puppet.captions import plain_caption
from m2d.puppet.labels import NUM_SLOTS, UNPROMPTED_RANGES
from m2d.puppet.story import sample_story
from m2d.recipe.fields import DEFAULT_MODEL

RESULTS = Path(__file__).parent / "results" / "drafts.json"
# A collection that no training recipe draws from.
STORY_SEED = 884
FARTHEST, LEAST_PREDICTED = 0.05, 0.9
PLACES = ("tree_x", "sun_x", "horizon_y")
REQUIRED = (*PLACES, "cast", "colour")


def agreements(draft: Reading, film: Reading) -> dict[str, Tensor]:
    """Return per property whether each scene of the drafts agrees with that of the films, (B,) booleans."""
    found = {}
    for name in PLACES:
        low, high = UNPROMPTED_RANGES[name]
        column = list(UNPROMPTED_RANGES).index(name)
        gaps_B = (draft.numbers[:, column] - film.numbers[:, column]).abs() * (high - low)
        found[name] = gaps_B <= FARTHEST
    slots = [f"actor{slot + 1}" for slot in range(NUM_SLOTS)]
    found["cast"] = torch.stack([_same(draft, film, f"{slot}.on_stage") for slot in slots]).all(0)
    for look in ("colour", "shape", "hat", "action"):
        # What the classifier reads of an absent actor means nothing.
        found[look] = torch.stack(
            [_same(draft, film, f"{slot}.{look}") | (film.classes[f"{slot}.on_stage"] == 0) for slot in slots]
        ).all(0)
    found["setting"] = _same(draft, film, "setting") & _same(draft, film, "time")
    return found


def _same(draft: Reading, film: Reading, column: str) -> Tensor:
    return draft.classes[column] == film.classes[column]


def measure(source: ModelSource, *, num_stories: int, num_scenes: int, reporter: Reporter) -> dict[str, Any]:
    """Draw and make all stories with a model, by its own sampling, and return its figures."""
    scene = default_scene(source)
    reader = load_classifier(
        source.path / CLASSIFIER_FILE, num_frames=scene.num_frames, height=scene.height, width=scene.width
    )
    sampling = Sampling.of(source)
    generator = SceneGenerator(source, sampling)
    drafts, films = [], []
    with reporter.stage("draw and make stories", total=num_stories) as progress:
        for index in range(num_stories):
            story = sample_story(seed=STORY_SEED, index=index, num_scenes=num_scenes)
            prompts = [plain_caption(story, each) for each in story.scenes]
            draft, film = generator.draft_and_film(
                prompts, mask=source.mask, seed=STORY_SEED + index, share=DRAFT_SHARE
            )
            drafts.append(draft)
            films.append(film)
            progress.advance()
    found = agreements(read_films(reader, torch.cat(drafts)), read_films(reader, torch.cat(films)))
    found["all required"] = torch.stack([found[name] for name in REQUIRED]).all(0)
    by_story = {name: flags.view(num_stories, num_scenes) for name, flags in found.items()}
    figures = {name: share(flags_SN.all(1)[:, None]) for name, flags_SN in by_story.items()}
    scenes = {name: share(flags_SN) for name, flags_SN in by_story.items()}
    value = figures["all required"]["value"]
    return {
        "model": {"name": Path(source.name).name, "digest": source.digest},
        "num_stories": num_stories,
        "scenes_per_story": num_scenes,
        "sampling": {**asdict(sampling), "backend": BACKEND},
        "draft_share_of_steps": DRAFT_SHARE,
        "stories": figures,
        "scenes": scenes,
        "required": LEAST_PREDICTED,
        "holds": value >= LEAST_PREDICTED,
    }


def share(flags_SN: Tensor) -> dict[str, Any]:
    """Return the share of true flags with its interval over stories (axis 0), as JSON values."""
    flags = flags_SN.numpy().astype(np.float64)
    figure = figure_of(Tally(amounts_S=flags.sum(1), counts_S=np.full(len(flags), flags.shape[1], float)))
    return figure.as_json()


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", action="append", help=f"default: {DEFAULT_MODEL} and builtin:puppet")
    parser.add_argument("--stories", type=int, default=40)
    parser.add_argument("--scenes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


def main() -> int:
    """Measure, write the figures and report whether the target is met."""
    given = _parse()
    reporter = make_reporter()
    models: list[dict[str, Any]] = []
    try:
        for name in given.model or [DEFAULT_MODEL, "builtin:puppet"]:
            source = resolve_model(name)
            models.append(
                measure(source, num_stories=given.stories, num_scenes=given.scenes, reporter=reporter)
            )
    except M2DError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    report = {
        "what": "drafts of held-out puppet stories against the films that follow, both read back; 95 % "
        "intervals, bootstrap over stories",
        "story_seed": STORY_SEED,
        "models": models,
        "all_hold": all(model["holds"] for model in models),
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers")},
    }
    write_json(given.out, report)
    for model in models:
        predicted = model["stories"]["all required"]["value"]
        sys.stdout.write(f"{model['model']['name']}: {predicted:.1%} of the drafts predict their film\n")
    return 0 if report["all_hold"] else 1


if __name__ == "__main__":
    sys.exit(main())

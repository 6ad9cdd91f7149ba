"""Data sets of puppet films, whose truth is known: changes of shots, and windows of one story."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from benchmarks.data_set_films import changes_of, f1, pipeline_of, shots_of
from benchmarks.paper import difference_of, scores_by_story
from benchmarks.paper_studies import RECIPES, SCORES, evaluate, run_m2d
from m2d.curation.cut_detectors import DETECTORS
from m2d.curation.embed import EmbedderChoice, Vectors, likeness
from m2d.curation.pipeline import outputs_of
from m2d.curation.relate import runs_of
from m2d.curation.settings import RelateSettings
from m2d.curation.shots import Shot
from m2d.evaluation.intervals import Tally, figure_of
from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.stop import StopRequest
from m2d.tasks.data import BuildPlan, build

_TEST_SEED = 105
_SHUFFLED = 2000
_FINE_TUNING_RATE = 1e-4
_ACTOR = re.compile(r"Actor\d")


def truth_of(film: Path) -> list[dict[str, Any]]:
    """Return the true shots of a puppet film."""
    truth: list[dict[str, Any]] = json.loads(film.with_suffix(".captions.json").read_text())
    return truth


def puppet_films(folder: Path, *, seed: int, minutes: float) -> list[Path]:
    """Render films at a steady and at a varying rate."""
    quiet = SilentReporter(), StopRequest()
    steady = FilmPlan(out=folder, num_films=2, minutes=minutes, seed=seed)
    varying = FilmPlan(out=folder, minutes=minutes, seed=seed + 1, fps=16, varying=True)
    return [*render_films(steady, *quiet), *render_films(varying, *quiet)]


def measure_cuts(folder: Path, minutes: float) -> dict[str, Any]:
    """Detect changes in puppet films with every detector."""
    films = puppet_films(folder / "films", seed=5, minutes=minutes)
    found: dict[str, Any] = {}
    for name in DETECTORS:
        parts = []
        for film in films:
            truth = [(one["end_s"], two["start_s"]) for one, two in pairwise(truth_of(film))]
            parts.append((changes_of(shots_of(film, folder, name)), truth))
        # One time axis for all films.
        detected = [1e6 * n + each for n, (changes, _) in enumerate(parts) for each in changes]
        true = [(1e6 * n + a, 1e6 * n + b) for n, (_, truth) in enumerate(parts) for a, b in truth]
        found[name] = f1(detected, true)
    return {"films": len(films), "minutes_each": minutes, "target_f1": 0.97, "detectors": found}


class _Built(NamedTuple):
    """The shots of a data set of puppet films, with their vectors and what the truth says."""

    choice: EmbedderChoice
    sim_range: tuple[float, float]
    vectors: list[Vectors]
    shots: list[Shot]
    stories: list[tuple[str, int]]
    actors: list[set[str]]


def _built(folder: Path, *, seed: int, minutes: float) -> _Built:
    films = folder / f"films-{seed}"
    if not films.is_dir():
        puppet_films(films, seed=seed, minutes=minutes)
    data_set = folder / f"set-{seed}"
    stages = ("scan", "clips", "shots", "filter", "relate")
    build(BuildPlan(folder=data_set, films=films, stages=stages), SilentReporter())
    pipeline = pipeline_of(data_set)
    shots, related = pipeline.kept_shots(), pipeline.related()
    truths = [_truth_of_shot(shot, films) for shot in shots]
    return _Built(
        choice=related.embedder,
        sim_range=related.sim_range,
        vectors=outputs_of(pipeline.embed.read()),
        shots=shots,
        stories=[(shot.film, each["story"]) for shot, each in zip(shots, truths, strict=True)],
        actors=[set(_ACTOR.findall(each["caption"])) for each in truths],
    )


def _truth_of_shot(shot: Shot, films: Path) -> dict[str, Any]:
    middle_s = (shot.start_s + shot.end_s) / 2
    truth = truth_of(films / shot.film)
    return min(truth, key=lambda each: abs((each["start_s"] + each["end_s"]) / 2 - middle_s))


def _windows(built: _Built) -> dict[str, list[list[int]]]:
    """Return windows of three shots by kind: successive ones of one story, those of them whose neighbours
    share an actor, successive ones of two or three stories, and shuffled ones of three stories.
    """
    count, stories = len(built.shots), built.stories
    runs = runs_of(built.shots, max_gap_s=RelateSettings().max_gap_s)
    successive = [run[at : at + 3] for run in runs for at in range(len(run) - 2)]
    kinds = {window[0]: len({stories[place] for place in window}) for window in successive}
    true = [window for window in successive if kinds[window[0]] == 1]
    draw = np.random.default_rng(1)
    drawn = [list(map(int, draw.choice(count, 3, replace=False))) for _ in range(_SHUFFLED)]
    return {
        "true": true,
        "sharing": [
            window
            for window in true
            if all(built.actors[one] & built.actors[two] for one, two in pairwise(window))
        ],
        "crossing": [window for window in successive if kinds[window[0]] > 1],
        "shuffled": [window for window in drawn if len({stories[place] for place in window}) == 3],
    }


def measure_relate(folder: Path, minutes: float, num_films: int) -> dict[str, Any]:
    """Count kept windows of one story and of different stories, on films that no other part uses."""
    kept: dict[str, list[bool]] = {}
    of_story: dict[tuple[str, int], list[bool]] = {}
    for number in range(num_films // 3):
        built = _built(folder, seed=_TEST_SEED + 2 * number, minutes=minutes)
        for kind, windows in _windows(built).items():
            for window in windows:
                found = likeness(built.choice, [built.vectors[place] for place in window])
                is_kept = built.sim_range[0] <= found <= built.sim_range[1]
                kept.setdefault(kind, []).append(is_kept)
                if kind == "true":
                    of_story.setdefault(built.stories[window[0]], []).append(is_kept)
    result: dict[str, Any] = {
        "range": built.sim_range,
        "films": num_films // 3 * 3,
        "minutes_each": minutes,
        "targets": {"kept_of_true": 0.95, "kept_of_shuffled": 0.05},
    }
    for kind, each in kept.items():
        result |= {f"{kind}_windows": len(each), f"kept_of_{kind}": round(float(np.mean(each)), 4)}
    tally = Tally(
        amounts_S=np.array([float(sum(each)) for each in of_story.values()]),
        counts_S=np.array([float(len(each)) for each in of_story.values()]),
    )
    figure = figure_of(tally)
    interval = [round(figure.low, 4), round(figure.high, 4)]
    return result | {"true_stories": len(of_story), "kept_of_true_interval_95": interval}


def measure_train(folder: Path, steps: int) -> dict[str, Any]:
    """Train the embedded model for a few steps on a data set that was built from films."""
    films = folder / "films"
    render_films(FilmPlan(out=films, minutes=2.0, seed=31), SilentReporter(), StopRequest())
    run = [sys.executable, "-m", "m2d"]
    data_set = folder / "set"
    subprocess.run([*run, "data", "build", str(films), "--out", str(data_set), "-q"], check=True)
    command = [*run, "train", "--data", str(data_set), "--stage", "sft", "--model", "builtin:puppet", "-q"]
    command += ["--out", str(folder / "run"), "--cache", str(folder / "cache"), "--set", f"steps={steps}"]
    trained = subprocess.run([*command, "--json"], check=True, capture_output=True, text=True)
    stories = (data_set / "stories.jsonl").read_text().splitlines()
    result: dict[str, Any] = json.loads(trained.stdout)
    return {"stories": len(stories), "steps": steps, "result": sorted(result)}


def measure_finetuned(folder: Path, *, num_films: int, minutes: float, num_stories: int) -> dict[str, Any]:
    """Fine-tune the embedded model on a set built from films and on the world itself; compare their films.

    Both trainings follow `recipes/paper/pretraining.yaml`, with a learning rate for fine-tuning: with
    the recipe's own, the model forgets what the few stories of a set do not show. A shot of a film shows
    one action in 2.5 to 5 s, the world in 1.1 s: from films, as many frames are taken at half the rate.
    """
    films, data_set = folder / "films", folder / "set"
    if not films.is_dir():
        plan = FilmPlan(out=films, num_films=num_films, minutes=minutes, seed=771)
        render_films(plan, SilentReporter(), StopRequest())
    if not (data_set / "stories.jsonl").exists():
        run_m2d("data", "build", films, "--out", data_set)
    world = yaml.safe_load((RECIPES / "pretraining.yaml").read_text())
    world |= {
        "init": "builtin:puppet",
        "optimizer": {"name": "adamw", "lr": _FINE_TUNING_RATE, "betas": [0.9, 0.99]},
    }
    built = world | {"data": {"source": str(data_set), "held_out": 8}, "video": world["video"] | {"fps": 4}}
    found = {}
    for name, recipe in {"films": built, "world": world}.items():
        model = folder / "runs" / name / "model"
        if not model.is_dir():
            path = folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(recipe))
            run_m2d("train", "--stage", "sft", path, "--out", model.parent)
        found[name] = evaluate(name, model, folder / "evaluated", mask="mask2dit", num_stories=num_stories)
    stories = {name: scores_by_story(each["scenes"]) for name, each in found.items()}
    return {
        "films": num_films,
        "minutes_each": minutes,
        "stories_of_the_set": len((data_set / "stories.jsonl").read_text().splitlines()),
        "steps": world["steps"],
        "evaluated_stories": num_stories,
        "target_points": 3,
        "figures": {
            name: {score: each["figures"][score] for score in SCORES} for name, each in found.items()
        },
        "films_minus_world": {
            score: difference_of(stories["films"], stories["world"], score)
            for score in ("visual", "semantic", "sequence")
        },
    }

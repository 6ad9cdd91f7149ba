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

from benchmarks.data_set_films import changes_of, f1, pipeline_of, shots_of
from m2d.curation.cut_detectors import DETECTORS
from m2d.curation.embed import EmbedderChoice, Vectors, similarities
from m2d.curation.pipeline import outputs_of
from m2d.curation.puppet_likeness import evidence_of
from m2d.curation.shots import Shot
from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.stop import StopRequest
from m2d.tasks.data import BuildPlan, build

_FIT_SEEDS = (205, 206)
_FIT_STEPS, _SHRINKAGE = 4000, 0.01
_SHUFFLED = 8000
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


class _Windows(NamedTuple):
    """Three successive shots of one story, those of them whose neighbours share an actor, and three shots of
    different stories; likeness of the neighbours, (W, 2).
    """

    true: np.ndarray
    sharing: np.ndarray
    shuffled: np.ndarray


class _Built(NamedTuple):
    """The shots of a data set of puppet films, with their features and what the truth says."""

    folder: Path
    choice: EmbedderChoice
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
    shots = pipeline.kept_shots()
    truths = [_truth_of_shot(shot, films) for shot in shots]
    return _Built(
        folder=data_set,
        choice=EmbedderChoice(name="puppet", width=shots[0].width, height=shots[0].height),
        vectors=outputs_of(pipeline.embed.read()),
        shots=shots,
        stories=[(shot.film, each["story"]) for shot, each in zip(shots, truths, strict=True)],
        actors=[set(_ACTOR.findall(each["caption"])) for each in truths],
    )


def _truth_of_shot(shot: Shot, films: Path) -> dict[str, Any]:
    middle_s = (shot.start_s + shot.end_s) / 2
    truth = truth_of(films / shot.film)
    return min(truth, key=lambda each: abs((each["start_s"] + each["end_s"]) / 2 - middle_s))


def _windows(built: _Built, sims: np.ndarray) -> _Windows:
    count, stories = len(built.shots), built.stories
    successive = [range(start, start + 3) for start in range(count - 2)]
    true = [window for window in successive if len({stories[place] for place in window}) == 1]
    sharing = [
        window
        for window in true
        if all(built.actors[one] & built.actors[two] for one, two in pairwise(window))
    ]
    draw = np.random.default_rng(1)
    drawn = [draw.choice(count, 3, replace=False) for _ in range(_SHUFFLED)]
    shuffled = [window for window in drawn if len({stories[place] for place in window}) == 3]
    return _Windows(
        *(
            np.array([[sims[one, two] for one, two in pairwise(window)] for window in each])
            for each in (true, sharing, shuffled)
        )
    )


def _kept(sims_W2: np.ndarray, least: float, largest: float) -> float:
    is_kept_W = (sims_W2.min(axis=1) >= least) & (sims_W2.max(axis=1) <= largest)
    return round(float(is_kept_W.mean()), 4)


def measure_relate(folder: Path, minutes: float) -> dict[str, Any]:
    """Compare windows of one story with windows of shots of different stories, on films of their own."""
    built = _built(folder, seed=105, minutes=minutes)
    windows = _windows(built, similarities(built.choice, built.vectors))
    least, largest = pipeline_of(built.folder).related().sim_range
    return {
        "range": [least, largest],
        "films": 3,
        "minutes_each": minutes,
        "targets": {"kept_of_true": 0.95, "kept_of_shuffled": 0.05},
    } | {
        name: value
        for kind, sims in windows._asdict().items()
        for name, value in (
            (f"{kind}_windows", len(sims)),
            (f"kept_of_{kind}", _kept(sims, least, largest)),
        )
    }


def measure_fit(folder: Path, minutes: float) -> dict[str, Any]:
    """Fit the weights of the likeness on films that no other part uses; show what each limit would keep."""
    sets = [_built(folder, seed=seed, minutes=minutes) for seed in _FIT_SEEDS]
    rows, labels = [], []
    for built in sets:
        evidence = evidence_of(_features(built))
        one, two = np.triu_indices(len(built.shots), 1)
        rows.append(np.stack([each[one, two] for each in evidence.values()], axis=1))
        labels += [built.stories[a] == built.stories[b] for a, b in zip(one, two, strict=True)]
    weights, bias = _regression(np.concatenate(rows), np.array(labels))
    joined = []
    for built in sets:
        evidence = evidence_of(_features(built))
        score = bias + sum(w * each for w, each in zip(weights, evidence.values(), strict=True))
        joined.append(_windows(built, 1 / (1 + np.exp(-score))))
    names = list(evidence_of(_features(sets[0])))
    windows = _Windows(*(np.concatenate(each) for each in zip(*joined, strict=True)))
    return {
        "seeds": _FIT_SEEDS,
        "pairs": len(labels),
        "pairs_of_one_story": int(sum(labels)),
        "weights": {name: round(float(weight), 2) for name, weight in zip(names, weights, strict=True)},
        "bias": round(bias, 2),
        "windows": [len(each) for each in windows],
        "kept_true_sharing_shuffled": {
            f"{least:.2f}": [_kept(each, least, 1.0) for each in windows]
            for least in np.arange(0.2, 0.71, 0.05)
        },
    }


def _features(built: _Built) -> dict[str, np.ndarray]:
    arrays = [each.arrays() for each in built.vectors]
    return {name: np.stack([each[name] for each in arrays]).astype(np.float64) for name in arrays[0]}


def _regression(rows_RE: np.ndarray, is_true_R: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights and bias of a logistic regression that counts both classes equally."""
    mean_E, spread_E = rows_RE.mean(axis=0), rows_RE.std(axis=0)
    scaled_RE = (rows_RE - mean_E) / spread_E
    share_R = np.where(is_true_R, 0.5 / is_true_R.sum(), 0.5 / (~is_true_R).sum())
    weights_E, bias = np.zeros(rows_RE.shape[1]), 0.0
    for _ in range(_FIT_STEPS):
        error_R = share_R * (1 / (1 + np.exp(-(scaled_RE @ weights_E + bias))) - is_true_R)
        weights_E -= scaled_RE.T @ error_R + _SHRINKAGE * weights_E
        bias -= float(error_R.sum())
    weights_E /= spread_E
    return weights_E, bias - float(weights_E @ mean_E)


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

"""The data set pipeline against its targets.

Run: `python -m benchmarks.data_set PART... [--film bbb.mp4]`; parts are `cuts`, `relate`, `film`,
`baselines`, `kills` and `broken`. Each writes its own entry of `benchmarks/results/data_set.json`. `film`
and `baselines` need Big Buck Bunny at 720p. Puppet films are rendered as needed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.broken_videos import break_videos, write_video
from m2d.curation.cut_detectors import DETECTORS
from m2d.curation.data_set import open_data_set
from m2d.curation.embed import EmbedderChoice, similarities
from m2d.curation.pipeline import Pipeline, outputs_of
from m2d.curation.scan import ScanTask, divide, scan_film
from m2d.curation.settings import ShotSettings
from m2d.curation.shots import Shot, ShotsTask, divide_range
from m2d.curation.stage_file import Outcome
from m2d.files import write_json
from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.recipe.settings import parse_settings
from m2d.stop import StopRequest
from m2d.tasks.data import BuildPlan, build

RESULTS = Path(__file__).parent / "results" / "data_set.json"
HAND_CHECKED = Path(__file__).parent / "big_buck_bunny.json"
# A detected change counts if it is this near to a true one, or inside a true transition.
_NEAR_S = 0.1
_NUM_BOOTSTRAPS = 2000
Change = tuple[float, float]


def f1(found_s: Sequence[float], truth_s: Sequence[Change]) -> dict[str, float | int]:
    """Return F1, precision and recall of detected changes; a true one counts once."""
    used: set[int] = set()
    for found in found_s:
        near = [
            n for n, (a, b) in enumerate(truth_s) if a - _NEAR_S <= found <= b + _NEAR_S and n not in used
        ]
        used |= set(near[:1])
    hits = len(used)
    return {
        "f1": round(2 * hits / max(len(found_s) + len(truth_s), 1), 4),
        "precision": round(hits / max(len(found_s), 1), 4),
        "recall": round(hits / max(len(truth_s), 1), 4),
        "true_changes": len(truth_s),
        "found": len(found_s),
    }


def shots_of(path: Path, folder: Path, detector: str, *, dissolves: bool = True) -> list[Shot]:
    """Return the shots of a film, all of its ranges."""
    line = scan_film(ScanTask(path=path, place=path.name, key="scan"))
    settings = ShotSettings(detector=detector, dissolves=dissolves)  # type: ignore[arg-type]  # checked there
    shots: list[Shot] = []
    for number, clip in enumerate(outputs_of(divide([line], clip_s=settings.clip_s))):
        stills = folder / f"{path.stem}-{number}.zip"
        task = ShotsTask(path=path, clip=clip, settings=settings, stills=stills, key="shots")
        shots += divide_range(task).outputs
    return shots


def changes_of(shots: Sequence[Shot]) -> list[float]:
    """Return when shots change: the middle of a transition."""
    return [(one.end_s + two.start_s) / 2 for one, two in pairwise(shots)]


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


def measure_relate(folder: Path, minutes: float) -> dict[str, Any]:
    """Compare windows of one story with windows of shots of different stories, on unseen puppet films."""
    films = folder / "films"
    puppet_films(films, seed=105, minutes=minutes)
    plan = BuildPlan(
        folder=folder / "set", films=films, stages=("scan", "clips", "shots", "filter", "relate")
    )
    build(plan, SilentReporter())
    pipeline = pipeline_of(folder / "set")
    shots = pipeline.kept_shots()
    choice = EmbedderChoice(name="puppet", width=shots[0].width, height=shots[0].height)
    sims = similarities(choice, outputs_of(pipeline.embed.read()))
    least, largest = pipeline.related().sim_range
    stories = [story_of(shot, films) for shot in shots]

    def is_kept(places: Sequence[int]) -> bool:
        return all(least <= sims[one, two] <= largest for one, two in pairwise(places))

    windows = [range(start, start + 3) for start in range(len(shots) - 2)]
    true = [window for window in windows if len({stories[place] for place in window}) == 1]
    draw = np.random.default_rng(1)
    shuffled = [draw.choice(len(shots), 3, replace=False) for _ in range(5000)]
    shuffled = [window for window in shuffled if len({stories[place] for place in window}) == 3]
    return {
        "range": [least, largest],
        "true_windows": len(true),
        "kept_of_true": round(float(np.mean([is_kept(list(window)) for window in true])), 4),
        "shuffled_windows": len(shuffled),
        "kept_of_shuffled": round(float(np.mean([is_kept(list(window)) for window in shuffled])), 4),
        "targets": [0.95, 0.05],
    }


def story_of(shot: Shot, films: Path) -> tuple[str, int]:
    """Return the true story of a shot."""
    middle_s = (shot.start_s + shot.end_s) / 2
    truth = truth_of(films / shot.film)
    return shot.film, min(truth, key=lambda each: abs((each["start_s"] + each["end_s"]) / 2 - middle_s))[
        "story"
    ]


def pipeline_of(data_set: Path) -> Pipeline:
    """Open a built data set."""
    return Pipeline(open_data_set(data_set), workers=0, reporter=SilentReporter(), stop=StopRequest())


def measure_film(folder: Path, film: Path) -> dict[str, Any]:
    """Build a data set of a real film in a process of its own; then measure cuts and similarities."""
    began_s, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "m2d", "data", "build", str(film), "--out", str(folder / "set")]
    subprocess.run([*command, "--workers", "2", "--json"], check=True, stdout=subprocess.DEVNULL)
    wall_s, after = time.monotonic() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    pipeline = pipeline_of(folder / "set")
    lines = pipeline.shots.read()
    shots = outputs_of(lines)
    duration_s = outputs_of(pipeline.scan.read())[0].duration_s
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "duration_s": duration_s,
        "wall_s": round(wall_s, 1),
        "cpu_s": round(cpu_s, 1),
        "load_average": round(os.getloadavg()[0], 2),
        "peak_bytes_of_one_process": after.ru_maxrss * 1024,
        "cpu_s_per_hour": round(cpu_s * 3600 / duration_s, 1),
        "targets": {"wall_s": 300, "bytes": 2 << 30},
        "stages": {
            count.stage: [count.inputs, count.kept, count.inputs - count.kept] for count in pipeline.counts()
        },
        "cuts": hand_checked({"m2d": changes_of(shots)}),
        "similarity": sequences(pipeline),
    }


def hand_checked(found: dict[str, list[float]]) -> dict[str, Any]:
    """Compare detected changes with the list that was made by looking."""
    listed = json.loads(HAND_CHECKED.read_text())
    truth = [(start_s, end_s) for start_s, end_s in listed["changes_s"]]
    inside = {
        name: [each for each in changes if listed["from_s"] <= each <= listed["to_s"]]
        for name, changes in found.items()
    }
    return {"target_f1": 0.95, "detectors": {name: f1(each, truth) for name, each in inside.items()}}


def sequences(pipeline: Pipeline) -> dict[str, Any]:
    """Return how well similarity separates neighbours from shots that are more than two minutes apart."""
    shots = pipeline.kept_shots()
    related = pipeline.related()
    near = np.array([each for _, _, each in related.pairs])
    choice = EmbedderChoice(name=related.embedder, width=shots[0].width, height=shots[0].height)
    sims = similarities(choice, outputs_of(pipeline.embed.read()))
    far = np.array(
        [
            sims[one, two]
            for one in range(len(shots))
            for two in range(one)
            if shots[one].start_s - shots[two].end_s > 120
        ]
    )
    draw = np.random.default_rng(1)
    aucs = [
        auc(draw.choice(near, len(near)), draw.choice(far, min(len(far), 500)))
        for _ in range(_NUM_BOOTSTRAPS)
    ]
    return {
        "neighbours": len(near),
        "far_pairs": len(far),
        "auc": round(auc(near, far), 4),
        "interval_95": [round(float(each), 4) for each in np.quantile(aucs, [0.025, 0.975])],
    }


def auc(near: np.ndarray, far: np.ndarray) -> float:
    """Return how often a neighbour is more similar than a far shot."""
    return float((near[:, None] > far[None]).mean() + 0.5 * (near[:, None] == far[None]).mean())


def measure_baselines(folder: Path, film: Path) -> dict[str, Any]:
    """Detect the changes of a real film with the other detectors."""
    names: list[str] = [name for name in DETECTORS if name != "m2d"]
    return hand_checked({name: changes_of(shots_of(film, folder, name, dissolves=False)) for name in names})


def measure_kills(folder: Path, num_kills: int) -> dict[str, Any]:
    """Kill a build at random moments until it is done; compare with a straight run."""
    films = folder / "films"
    render_films(FilmPlan(out=films, num_films=3, minutes=0.4, seed=9), SilentReporter(), StopRequest())
    settings = parse_settings(["relate.min_sim=0.3", "shots.clip_s=6"])
    straight = folder / "straight"
    build(BuildPlan(folder=straight, films=films, settings=settings, workers=2), SilentReporter())
    draw, kills, resumed = random.Random(1), 0, 0
    different: list[str] = []
    while kills < num_kills:
        killed = folder / f"killed-{resumed}"
        command = [sys.executable, "-m", "m2d", "data", "build", str(films), "--out", str(killed), "-q"]
        command += ["--workers", "2", "--set", "relate.min_sim=0.3", "--set", "shots.clip_s=6"]
        while kills < num_kills:
            process = subprocess.Popen(command)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(1, 25))
                break
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        subprocess.run(command, check=True)
        different += [
            name for name in contents(straight) if contents(killed).get(name) != contents(straight)[name]
        ]
        resumed += 1
    return {"kills": kills, "builds": resumed, "different_files": sorted(set(different))}


def contents(data_set: Path) -> dict[str, bytes]:
    """Return all files of a data set but the one that names the films' folder."""
    return {
        str(path.relative_to(data_set)): path.read_bytes()
        for path in sorted(data_set.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def measure_broken(folder: Path, num_videos: int, num_broken: int) -> dict[str, Any]:
    """Build from a folder in which many videos are broken."""
    films = folder / "films"
    films.mkdir(parents=True)
    videos = [write_video(films / f"{number:04d}.mp4", seed=number) for number in range(num_videos)]
    broken = {path.name for path in break_videos(videos, count=num_broken)}
    began_s = time.monotonic()
    plan = BuildPlan(
        folder=folder / "set",
        films=films,
        settings=parse_settings(["shots.time_limit_s=60"]),
        stages=("scan", "clips", "shots", "filter"),
        workers=2,
    )
    counts = build(plan, SilentReporter()).counts
    pipeline = pipeline_of(folder / "set")
    lines: list[Outcome[Any]] = [*pipeline.scan.read(), *pipeline.clips.read(), *pipeline.shots.read()]
    listed = {line.place.split(" ")[0] for line in lines if not line.is_kept}
    return {
        "videos": num_videos,
        "broken": len(broken),
        "broken_and_listed": len(broken & listed),
        "valid_and_listed": sorted(listed - broken)[:10],
        "is_exact": all(count.inputs == count.kept + sum(count.rejected.values()) for count in counts),
        "wall_s": round(time.monotonic() - began_s, 1),
    }


def parts(arguments: argparse.Namespace) -> Iterator[tuple[str, Callable[[Path], dict[str, Any]]]]:
    """Yield the parts that were asked for."""
    known: dict[str, Callable[[Path], dict[str, Any]]] = {
        "cuts": lambda folder: measure_cuts(folder, arguments.minutes),
        "relate": lambda folder: measure_relate(folder, arguments.minutes),
        "film": lambda folder: measure_film(folder, arguments.film),
        "baselines": lambda folder: measure_baselines(folder, arguments.film),
        "kills": lambda folder: measure_kills(folder, arguments.kills),
        "broken": lambda folder: measure_broken(folder, arguments.videos, arguments.broken),
    }
    for name in arguments.parts:
        yield name, known[name]


def main() -> None:
    """Measure the parts and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--film", type=Path)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--broken", type=int, default=220)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name, measure in parts(arguments):
        with tempfile.TemporaryDirectory() as folder:
            result = measure(Path(folder))
        found = json.loads(arguments.results.read_text()) if arguments.results.is_file() else {}
        write_json(arguments.results, found | {name: result})


if __name__ == "__main__":
    main()

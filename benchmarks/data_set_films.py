"""Data sets of real films: changes against a hand-checked list, similarity of neighbours, time and memory."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from m2d.curation.cut_detectors import DETECTORS
from m2d.curation.data_set import open_data_set
from m2d.curation.embed import EmbedderChoice, similarities
from m2d.curation.pipeline import Pipeline, outputs_of
from m2d.curation.scan import ClipRange, ScanTask, divide, scan_film
from m2d.curation.settings import ShotSettings
from m2d.curation.shots import Shot, ShotsTask, divide_range, range_frames
from m2d.progress import SilentReporter
from m2d.stop import StopRequest
from m2d.video.cuts import THUMBNAIL_SIDE, ShownPicture

_HAND_CHECKED = Path(__file__).parent / "big_buck_bunny.json"
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
    listed = json.loads(_HAND_CHECKED.read_text())
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


def measure_baselines(film: Path, names: Sequence[str]) -> dict[str, Any]:
    """Detect the changes of the checked part of a real film by detectors alone, and by all of stage `shots`.

    Args:
        names: Detectors; `shots` is the whole stage, with dissolves; `scenedetect` is that package by itself.
    """
    listed = json.loads(_HAND_CHECKED.read_text())
    line = scan_film(ScanTask(path=film, place=film.name, key="scan"))
    clip = ClipRange(film=line.outputs[0], start_s=0.0, end_s=listed["to_s"] + 2)
    results = {}
    for name in names:
        before_s = time.process_time()
        found = {name: _changes_in(film, clip, name)}
        results[name] = hand_checked(found)["detectors"][name]
        results[name]["cpu_s"] = round(time.process_time() - before_s, 1)
    return results


def _changes_in(film: Path, clip: ClipRange, name: str) -> list[float]:
    if name == "scenedetect":
        from scenedetect import AdaptiveDetector, detect

        scenes = detect(str(film), AdaptiveDetector(), end_time=clip.end_s, backend="pyav")
        return [start.seconds for start, _ in scenes[1:]]
    if name == "shots":
        with tempfile.TemporaryDirectory() as folder:
            stills = Path(folder) / "stills.zip"
            task = ShotsTask(path=film, clip=clip, settings=ShotSettings(), stills=stills, key="shots")
            return changes_of(divide_range(task).outputs)
    times_s: list[float] = []

    def shown() -> Iterator[ShownPicture]:
        for time_s, frame in range_frames(film, clip):
            times_s.append(time_s)
            picture_HWC = frame.thumbnail(side=THUMBNAIL_SIDE)
            yield ShownPicture(time_s, picture_HWC, bool(frame.picture.key_frame))

    return [times_s[cut] for cut in DETECTORS[name](shown())]

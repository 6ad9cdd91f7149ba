"""Data sets of real films: changes against a hand-checked list, similarity of neighbours, time and memory."""

from __future__ import annotations

import json
import math
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

import av
import numpy as np

from m2d.curation.cut_detectors import DETECTORS
from m2d.curation.data_set import open_data_set
from m2d.curation.embed import likeness
from m2d.curation.pipeline import Pipeline, outputs_of
from m2d.curation.scan import ClipRange, ScanTask, divide, scan_film
from m2d.curation.settings import ShotSettings
from m2d.curation.shots import Shot, ShotsTask, divide_range, range_frames
from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.stop import StopRequest
from m2d.video.cuts import THUMBNAIL_SIDE, ShownPicture

_HAND_CHECKED = Path(__file__).parent / "big_buck_bunny.json"
# A detected change counts if it is this near to a true one, or inside a true transition.
_NEAR_S = 0.1
_NUM_BOOTSTRAPS = 2000
# Seconds decoded before and after a checked part.
_AROUND_S = 2.0
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
        "cuts": {
            "target_f1": 0.95,
            "parts": {part: hand_checked(changes_of(shots), part) for part in checked_parts()},
        },
        "similarity": sequences(pipeline),
    }


def measure_memory(folder: Path, minutes: Sequence[float]) -> dict[str, Any]:
    """Build data sets of films that differ in length alone, each in a process of its own."""
    plan = FilmPlan(out=folder / "piece", minutes=1.0, seed=41, upscale=2, fps=8)
    (piece,) = render_films(plan, SilentReporter(), StopRequest())
    lengths = {}
    for length in sorted(minutes):
        film = folder / f"{length:g}" / "film.mp4"
        film.parent.mkdir()
        duration_s = repeat_film(piece, film, until_s=60 * length)
        # Repeated shots are to reach every stage.
        command = [sys.executable, "-m", "m2d", "data", "build", str(film), "--out", str(film.parent / "set")]
        command += ["--set", "filter.max_duplicate=0", "--workers", "1", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        counts = pipeline_of(film.parent / "set").counts()
        lengths[f"{length:g}"] = {
            "duration_s": round(duration_s, 1),
            "peak_bytes_of_one_process": usage.ru_maxrss * 1024,
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
            "shots": next(count.kept for count in counts if count.stage == "filter"),
        }
    return {"minutes": lengths, "picture": [plan.side * plan.upscale] * 2, "fps": plan.fps}


def repeat_film(film: Path, out: Path, *, until_s: float) -> float:
    """Write a film again and again into one file, without encoding; return its length in seconds."""
    with av.open(str(film)) as source, av.open(str(out), "w") as target:
        (stream,) = source.streams.video
        target.metadata.update(source.metadata)
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.dts is not None]
        times = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        end = max(pts + (packet.duration or 0) for packet, (pts, _) in zip(packets, times, strict=True))
        assert stream.time_base is not None
        rounds = math.ceil(until_s / float(end * stream.time_base))
        for number in range(rounds):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                packet.stream = copy
                packet.time_base = stream.time_base
                packet.pts, packet.dts = pts + number * end, dts + number * end
                target.mux(packet)
        return float(rounds * end * stream.time_base)


def checked_parts() -> dict[str, dict[str, Any]]:
    """Return the parts of Big Buck Bunny whose changes were found by looking.

    Detectors were mended while `seen` was looked at; `blind` was listed after that.
    """
    parts: dict[str, dict[str, Any]] = json.loads(_HAND_CHECKED.read_text())["parts"]
    return parts


def hand_checked(found_s: Sequence[float], part: str) -> dict[str, float | int]:
    """Compare detected changes with the list of one part."""
    listed = checked_parts()[part]
    inside = [each for each in found_s if listed["from_s"] <= each <= listed["to_s"]]
    return f1(inside, [(start_s, end_s) for start_s, end_s in listed["changes_s"]])


def sequences(pipeline: Pipeline) -> dict[str, Any]:
    """Return how well similarity separates neighbours from shots that are more than two minutes apart."""
    shots, related = pipeline.kept_shots(), pipeline.related()
    vectors = outputs_of(pipeline.embed.read())
    near = np.array([each for _, _, each in related.judged])
    far = np.array(
        [
            likeness(related.embedder, [vectors[one], vectors[two]])
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


def measure_baselines(film: Path, names: Sequence[str], part: str) -> dict[str, Any]:
    """Detect the changes of a checked part of a real film by detectors alone, and by all of stage `shots`.

    Args:
        names: Detectors; `shots` is the whole stage, with dissolves; `scenedetect` is that package by itself.
        part: One of `checked_parts`.
    """
    listed = checked_parts()[part]
    line = scan_film(ScanTask(path=film, place=film.name, key="scan"))
    start_s = max(listed["from_s"] - _AROUND_S, 0.0)
    clip = ClipRange(film=line.outputs[0], start_s=start_s, end_s=listed["to_s"] + _AROUND_S)
    results = {}
    for name in names:
        before_s = time.process_time()
        results[name] = hand_checked(_changes_in(film, clip, name), part)
        results[name]["cpu_s"] = round(time.process_time() - before_s, 1)
    return {"target_f1": 0.95, part: results}


def _changes_in(film: Path, clip: ClipRange, name: str) -> list[float]:
    if name == "scenedetect":
        from scenedetect import AdaptiveDetector, detect

        span = {"start_time": clip.start_s, "end_time": clip.end_s}
        scenes = detect(str(film), AdaptiveDetector(), **span, backend="pyav")
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

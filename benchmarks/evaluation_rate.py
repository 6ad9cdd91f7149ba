"""Measures rate and memory of `m2d eval` on clips of 49 frames of 720x480, and that it resumes.

Run, after `m2d models get i3d efficientnet minilm lpips`: `python -m benchmarks.evaluation_rate`. Writes
`benchmarks/results/evaluation_rate.json` and the table of `docs/evaluation.md`; fails if memory grows, or if
a killed and resumed evaluation has another result. Half of the clips are the reference of the other half.
The rate for 1,000 clips is extrapolated; their memory is measured, with copies of measured clips, which
`m2d eval` takes from its cache. Only an idle machine gives an honest rate: the load is recorded.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import torch

from benchmarks.page import with_block
from benchmarks.startup import Run, run_m2d
from m2d.cache_root import cache_root
from m2d.files import write_bytes, write_json
from m2d.recipe.schema import Recipe, Scene
from m2d.recipe.writer import to_yaml
from m2d.tasks.eval import RESULTS as RESULT_FILE

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "evaluation_rate.json", ROOT / "docs" / "evaluation.md"
BLOCK = "rate"
NUM_FRAMES, SIZE, FPS = 49, "720x480", 8
NUM_CLIPS = 60
MANY = 1000
MOST = 1.1
# Moving pictures of ffmpeg; the noise that is added to them keeps every frame different.
_SOURCES = (
    "gradients=size={size}:rate={fps}:seed={seed}:speed=0.02:nb_colors=6",
    "mandelbrot=size={size}:rate={fps}:start_scale={scale}",
    "life=size=90x60:rate={fps}:random_seed={seed}:mold=20:life_color=#e0c060:death_color=#204080,scale={size}",
    "testsrc2=size={size}:rate={fps},hue=h={seed}*17",
)


def write_clips(folder: Path, *, count: int, first: int) -> None:
    """Write clips whose number, from `first` on, is their seed."""
    folder.mkdir()
    for seed in range(first, first + count):
        scale = 3 / (1 + seed % 50)
        source = _SOURCES[seed % len(_SOURCES)].format(size=SIZE, fps=FPS, seed=seed, scale=scale)
        picture = f"{source},format=yuv420p,noise=alls=4:allf=t:all_seed={seed}"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-nostdin", "-f", "lavfi"]
        command += [
            "-i",
            picture,
            "-frames:v",
            str(NUM_FRAMES),
            "-preset",
            "veryfast",
            "-crf",
            "28",
            "-threads",
            "1",
        ]
        subprocess.run([*command, str(folder / f"clip-{seed:04d}.mp4")], check=True)


def write_prompts(folder: Path, clips: Path) -> None:
    """Write a recipe for every clip."""
    folder.mkdir()
    for clip in clips.iterdir():
        recipe = Recipe(title=clip.stem, output=clip.name, scenes=(Scene(prompt=f"Pattern {clip.stem}."),))
        (folder / f"{clip.stem}.yaml").write_text(to_yaml(recipe))


class Sets:
    """Videos, prompts and reference of one evaluation, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Take what `write` or `copy_of` wrote."""
        self.folder = folder

    @classmethod
    def write(cls, folder: Path, *, count: int) -> Sets:
        """Write `count` clips, half of them as the reference."""
        folder.mkdir()
        write_clips(folder / "videos", count=count // 2, first=0)
        write_clips(folder / "reference", count=count // 2, first=count)
        write_prompts(folder / "prompts", folder / "videos")
        return cls(folder)

    def resized(self, folder: Path, *, count: int) -> Sets:
        """Take some of the clips, or copies of them under other names until there are enough."""
        folder.mkdir()
        for name in ("videos", "reference"):
            clips = sorted((self.folder / name).iterdir())
            (folder / name).mkdir()
            for number in range(count // 2):
                os.link(clips[number % len(clips)], folder / name / f"clip-{number:04d}.mp4")
        write_prompts(folder / "prompts", folder / "videos")
        return Sets(folder)

    def words(self, out: str) -> list[str]:
        """Return the command."""
        parts = {name: str(self.folder / name) for name in ("reference", "prompts")}
        options = [word for name, part in parts.items() for word in (f"--{name}", part)]
        places = [str(self.folder / "videos"), "--out", str(self.folder / out)]
        return ["eval", *places, *options, "--embedder", "natural", "--force", "--quiet"]

    def result(self, out: str) -> bytes:
        """Return the written result."""
        return (self.folder / out / RESULT_FILE).read_bytes()


@contextmanager
def own_cache(folder: Path) -> Iterator[Path]:
    """Use an empty cache that has the networks; yield the folder of its measurements."""
    networks = cache_root() / "networks"
    folder.mkdir()
    (folder / "networks").symlink_to(networks)
    before = os.environ.get("M2D_CACHE")
    os.environ["M2D_CACHE"] = str(folder)
    try:
        yield folder / "evaluation"
    finally:
        os.environ.pop("M2D_CACHE")
        if before is not None:
            os.environ["M2D_CACHE"] = before


def measure_kill(sets: Sets, folder: Path, *, count: int) -> dict[str, Any]:
    """Kill an evaluation after a third of its clips, repeat it, and compare with one that was not killed."""
    with own_cache(folder) as measurements:
        command = [sys.executable, "-m", "m2d", *sets.words("resumed")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and len(_measured(measurements)) < count // 3:
                time.sleep(0.1)
            process.kill()
        was_killed = process.returncode < 0
        kept = _measured(measurements)
        again = run_m2d(*sets.words("resumed"))
        now = _measured(measurements)
    return {
        "num_clips": count,
        "was_killed": was_killed,
        "num_measured_before": len(kept),
        "num_measured_after": len(now) - len(kept),
        "is_kept": kept.items() <= now.items(),
        "is_same_result": sets.result("resumed") == sets.result("report"),
        "wall_s_again": round(again.wall_s, 1),
    }


def _measured(folder: Path) -> dict[str, int]:
    """Return the complete measurements, each with the time at which it was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*/*.safetensors")}


def measure(folder: Path, *, num_clips: int) -> dict[str, Any]:
    """Evaluate a third of the clips, all of them, and copies of them."""
    load_before = os.getloadavg()[0]
    every = Sets.write(folder / "all", count=num_clips)
    # An even part, so that half of it can be the reference.
    num_few = num_clips // 6 * 2
    few = every.resized(folder / "few", count=num_few)
    with own_cache(folder / "cache-few"):
        first = run_m2d(*few.words("report"))
    killed = measure_kill(few, folder / "cache-killed", count=num_few)
    with own_cache(folder / "cache-all"):
        whole = run_m2d(*every.words("report"))
        many = run_m2d(*every.resized(folder / "many", count=MANY).words("report"))
    shutil.rmtree(folder / "many")
    per_minute = 60 * num_clips / whole.wall_s
    return {
        "what": f"m2d eval --embedder natural, clips of {NUM_FRAMES} frames of {SIZE}, half as reference",
        "measured": [_row(num_few, first), _row(num_clips, whole)],
        "copies": _row(MANY, many),
        "clips_per_minute": round(per_minute, 2),
        "hours_for_1000_extrapolated": round(MANY / per_minute / 60, 2),
        "peak_ratio": round(whole.peak_bytes / first.peak_bytes, 3),
        "peak_ratio_of_copies": round(many.peak_bytes / first.peak_bytes, 3),
        "most": MOST,
        "killed": killed,
        "threads": torch.get_num_threads(),
        "load_average": {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
    }


def holds(report: dict[str, Any]) -> bool:
    """Whether memory is flat, and a killed evaluation resumed with the same result."""
    killed = report["killed"]
    is_resumed = killed["was_killed"] and killed["is_kept"] and killed["is_same_result"]
    is_counted = killed["num_measured_before"] + killed["num_measured_after"] == killed["num_clips"]
    is_flat = max(report["peak_ratio"], report["peak_ratio_of_copies"]) <= MOST
    return bool(is_flat and is_resumed and is_counted)


def table(report: Mapping[str, Any] | None) -> str:
    """Return the table of the page; without a report, which command writes it."""
    if report is None:
        return "Rate and memory: not measured yet; `python -m benchmarks.evaluation_rate` does."
    (few, whole), many = report["measured"], report["copies"]
    killed, load = report["killed"], report["load_average"]
    seconds, per_minute = f"{whole['wall_s']:.0f} s", f"{report['clips_per_minute']:.1f} clips a minute"
    peaks = [f"{each['peak_bytes'] / 1e6:.0f} MB with {each['num_clips']:,}" for each in (few, whole, many)]
    resumed = f"repeated, {killed['num_measured_after']} were measured; the same result"
    machine = f"{report['threads']} threads, load average {load['before']:g} before, {load['after']:g} after"
    return "\n".join(
        [
            f"| clips of {NUM_FRAMES} frames of {SIZE}, half of them the reference | |",
            "|---|---|",
            f"| rate, measured on {whole['num_clips']} | {seconds}: {per_minute} |",
            f"| 1,000 clips, extrapolated | {report['hours_for_1000_extrapolated']:.1f} h |",
            f"| peak memory; the {MANY:,} are copies | {', '.join(peaks)} |",
            f"| {killed['num_clips']} clips, killed after {killed['num_measured_before']} | {resumed} |",
            "",
            f"<sub>[`evaluation_rate.json`](../benchmarks/results/evaluation_rate.json), {machine}</sub>",
        ]
    )


def _row(num_clips: int, run: Run) -> dict[str, Any]:
    return {
        "num_clips": num_clips,
        "wall_s": round(run.wall_s, 1),
        "cpu_s": round(run.cpu_s, 1),
        "peak_bytes": run.peak_bytes,
    }


def main() -> int:
    """Measure, write the figures, and exit with 1 if they do not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--clips", type=int, default=NUM_CLIPS, help="at least 60: a Frechet distance needs 10"
    )
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), num_clips=asked.clips)
    write_json(RESULTS, report | {"holds": holds(report)})
    write_bytes(PAGE, with_block(PAGE.read_text("utf-8"), BLOCK, table(report)).encode())
    sys.stdout.write(f"{RESULTS}: {report['clips_per_minute']} clips a minute\n")
    return 0 if holds(report) else 1


if __name__ == "__main__":
    sys.exit(main())

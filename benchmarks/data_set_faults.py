"""Data sets under faults: builds that are killed at random moments, and folders with many broken videos."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from benchmarks.broken_videos import break_videos, write_video
from benchmarks.data_set_films import pipeline_of
from m2d.curation import pipeline as stages
from m2d.curation.stage_file import Outcome
from m2d.progress import SilentReporter
from m2d.puppet.film_files import FilmPlan, render_films
from m2d.recipe.settings import parse_settings
from m2d.stop import StopRequest
from m2d.tasks.data import BuildPlan, build

# Functions whose every call is written down, so that work done twice is seen.
_COUNTED = ("scan_film", "divide_range", "embed_shot")
_ANSWER_S = 0.2


def measure_kills(folder: Path, num_kills: int) -> dict[str, Any]:
    """Kill builds at random moments until each is done; compare with a straight build.

    A build is a forked process with one worker, so that most kills fall into the work and not into imports.
    """
    films, started = folder / "films", folder / "started"
    plan = FilmPlan(out=films, num_films=3, minutes=0.3, seed=9, upscale=2, fps=8)
    render_films(plan, SilentReporter(), StopRequest())
    with _captions() as (url, asked):
        settings = ["relate.min_sim=-1", "relate.num_shots=2", "relate.max_shots=2", "shots.clip_s=6"]
        settings.append(f"caption.url={url}")
        # Both lie equally deep, so that their paths to the films are the same.
        straight, killed = folder / "straight", folder / "killed"
        began_s = time.monotonic()
        _end(_forked(films, straight, settings, folder / "straight-started"))
        straight_s = time.monotonic() - began_s
        expected, num_items = _contents(straight), len(set((folder / "straight-started").read_text().split()))
        num_answers = len(asked)
        asked.clear()
        draw, kills, builds = random.Random(1), 0, 0
        different: set[str] = set()
        twice = paid_twice = 0
        while kills < num_kills:
            shutil.rmtree(killed, ignore_errors=True)
            started.unlink(missing_ok=True)
            asked.clear()
            is_done = False
            while not is_done:
                process = _forked(films, killed, settings, started)
                delay_s = draw.uniform(0, straight_s / 2) if kills < num_kills else None
                is_done = _end(process, after_s=delay_s)
                kills += not is_done
            builds += 1
            found = _contents(killed)
            different |= {name for name in expected | found if found.get(name) != expected.get(name)}
            lines = started.read_text().split()
            twice += len(lines) - len(set(lines))
            paid_twice += len(asked) - len(set(asked))
    return {
        "kills": kills,
        "finished_builds": builds,
        "straight_s": round(straight_s, 1),
        "items_of_a_build": num_items,
        "answers_of_a_build": num_answers,
        "different_files": sorted(different),
        "items_done_twice": twice,
        "answers_asked_twice": paid_twice,
    }


def _forked(films: Path, folder: Path, settings: list[str], started: Path) -> int:
    """Start a build in a forked process and return its id."""
    process = os.fork()
    if process:
        return process
    try:
        for name in _COUNTED:
            setattr(stages, name, _written_down(getattr(stages, name), started))
        plan = BuildPlan(folder=folder, films=films, settings=parse_settings(settings), workers=0)
        build(plan, SilentReporter())
    except BaseException as error:
        print(error)  # noqa: T201 - nothing else of this process is seen
        os._exit(1)
    os._exit(0)


def _written_down(function: Callable[[Any], Any], started: Path) -> Callable[[Any], Any]:
    def counted(task: Any) -> Any:
        with started.open("a") as file:
            file.write(f"{function.__name__}:{task.key}\n")
        return function(task)

    return counted


def _end(process: int, *, after_s: float | None = None) -> bool:
    """Wait for a build, and kill it after some time; return whether it ended by itself."""
    until_s = time.monotonic() + (after_s or 0)
    while after_s is None or time.monotonic() < until_s:
        ended, status = os.waitpid(process, 0 if after_s is None else os.WNOHANG)
        if ended:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) == 0


@contextmanager
def _captions() -> Iterator[tuple[str, list[str]]]:
    """Run a caption endpoint; yield its address and the digests of the requests that it has answered."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = json.loads(body)["messages"][1]["content"]
            text = json.dumps(
                {"captions": ["A park at noon."] * sum(part["type"] == "text" for part in parts)}
            )
            reply = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            time.sleep(_ANSWER_S)
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)
            asked.append(hashlib.sha256(body).hexdigest())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()


def _contents(data_set: Path) -> dict[str, bytes]:
    """Return all files of a data set."""
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
    # Data sets take videos of varying rates.
    broken = {path.name for path in break_videos(videos, count=num_broken, without={"variable-rate"})}
    began_s = time.monotonic()
    plan = BuildPlan(
        folder=folder / "set",
        films=films,
        settings=parse_settings(["shots.time_limit_s=60"]),
        stages=("scan", "clips", "shots"),
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
        "broken_but_not_listed": sorted(broken - listed)[:10],
        "valid_and_listed": sorted(listed - broken)[:10],
        "is_exact": all(count.inputs == count.kept + sum(count.rejected.values()) for count in counts),
        "wall_s": round(time.monotonic() - began_s, 1),
    }

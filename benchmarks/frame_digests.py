"""Digests of the frames of twenty stories, extensions, a re-roll and a resumed run: do any change?

Run: `python -m benchmarks.frame_digests --record` before a change that must not touch a frame, and
`python -m benchmarks.frame_digests` after it; it exits with 1 when a digest differs. Digests depend on the
processor and on library versions, so `results/frame_digests.json` is valid only on the kind of machine that
recorded it. All films are computed by one thread.

Every film is made by the commands themselves, each in a new process, in a few denoising steps.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import imageio_ffmpeg

from benchmarks.machine import describe_machine
from m2d.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).parent / "results" / "frame_digests.json"
MODELS = ("builtin:puppet", "builtin:puppet-large")
STEPS = 3
# More steps for the run that is stopped, so that the signal comes between two of them.
STOPPED_STEPS = 12
LONGEST_S = 600.0
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


class Case(NamedTuple):
    """A film, and the function that makes it in a folder and returns the digest of its frames."""

    name: str
    digest: Callable[[Path], str]


def run_m2d(*words: str) -> str:
    """Run a command that makes a film and return the digest of the film's frames.

    Raises:
        RuntimeError: It failed; the message ends with what it wrote to stderr.
    """
    command = [sys.executable, "-m", "m2d", *words, "--json", "--force"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=LONGEST_S, check=False, env=ONE_THREAD
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}:\n{done.stderr[-2000:]}")
    digest: str = json.loads(done.stdout)["frames_sha256"]
    return digest


def stories() -> dict[str, str]:
    """Return the text of every story recipe, README's first one included, by name."""
    found = {path.stem: path.read_text("utf-8") for path in sorted((ROOT / "recipes/stories").glob("*.yaml"))}
    blocks = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return {"readme": next(block for block in blocks if "builtin:puppet" in block), **found}


def cases() -> Iterator[Case]:
    """Yield all cases; later ones use the films of earlier ones."""
    for model in MODELS:
        for name, text in stories().items():
            yield Case(f"{name}, {model}", _Story(name, text, model).digest)
    yield Case("extension, a cut and a continued scene", _extension)
    yield Case("extension of a film that m2d did not make", _external)
    yield Case("re-roll of the second scene", _reroll)
    yield Case("run that was stopped and resumed", _resumed)


class _Story(NamedTuple):
    name: str
    text: str
    model: str

    def digest(self, folder: Path) -> str:
        recipe, out = folder / f"{self.name}.yaml", folder / f"{self.name}-{self.model.split(':')[1]}.mp4"
        recipe.write_text(self.text, "utf-8")
        return run_m2d(
            "generate", str(recipe), "--out", str(out), "--model", self.model, "--steps", str(STEPS)
        )


def _extension(folder: Path) -> str:
    cut, longer = folder / "cut.mp4", folder / "continued.mp4"
    run_m2d(
        "extend", str(_film(folder)), "--prompt", "Actor1 bows.", "--out", str(cut), "--steps", str(STEPS)
    )
    words = ("--prompt", "Actor2 waves.", "--join", "continue", "--out", str(longer), "--steps", str(STEPS))
    return run_m2d("extend", str(cut), *words)


def _external(folder: Path) -> str:
    plain, longer = folder / "plain.mp4", folder / "plain-longer.mp4"
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    source = str(_film(folder))
    options = ("-map", "0:v", "-map_metadata", "-1", "-map_chapters", "-1", "-c", "copy", "-bitexact")
    subprocess.run([ffmpeg, "-y", "-i", source, *options, str(plain)], capture_output=True, check=True)
    words = ("--prompt", "Actor1 (round red body, wool cap) waves.", "--out", str(longer))
    return run_m2d("extend", str(plain), *words, "--steps", str(STEPS), "--model", MODELS[0])


def _reroll(folder: Path) -> str:
    out = folder / "rerolled.mp4"
    words = ("--scene", "2", "--seed", "11", "--out", str(out), "--steps", str(STEPS))
    return run_m2d("reroll", str(_film(folder)), *words)


def _resumed(folder: Path) -> str:
    out = folder / "resumed.mp4"
    words = ["generate", str(folder / "first-snow.yaml"), "--out", str(out), "--steps", str(STOPPED_STEPS)]
    command = [sys.executable, "-m", "m2d", *words]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ONE_THREAD)
    step, began_s = folder / "resumed.m2d/journal/step.safetensors", time.monotonic()
    while process.poll() is None and not step.exists() and time.monotonic() - began_s < LONGEST_S:
        time.sleep(0.02)
    process.terminate()
    if process.wait() == 0:
        raise RuntimeError("the run ended before it was stopped; raise STOPPED_STEPS")
    return run_m2d(*words, "--resume")


def _film(folder: Path) -> Path:
    """Return a film of the smaller model that an earlier case made."""
    return folder / "first-snow-puppet.mp4"


def main() -> int:
    """Record the digests, or compare them with the recorded ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true", help="write the digests instead of comparing")
    record = parser.parse_args().record
    expected = {} if record else json.loads(RESULTS.read_text("utf-8"))["digests"]
    digests: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases():
            digests[case.name] = case.digest(Path(folder))
            verdict = (
                "" if record else "same" if expected.get(case.name) == digests[case.name] else "DIFFERENT"
            )
            sys.stdout.write(f"{digests[case.name][:16]}  {case.name}  {verdict}\n")
            sys.stdout.flush()
    if record:
        write_json(RESULTS, {"steps": STEPS, "digests": digests, "machine": describe_machine("cpu")})
        return 0
    num_different = sum(expected.get(name) != digest for name, digest in digests.items())
    sys.stdout.write(f"{num_different} of {len(digests)} differ from {RESULTS.name}\n")
    return int(num_different > 0 or expected.keys() != digests.keys())


if __name__ == "__main__":
    sys.exit(main())

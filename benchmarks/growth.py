"""Quality of growing puppet films: chains of extensions, re-rolled scenes, and the time of an added scene.

Run: `python -m benchmarks.growth [--model builtin:puppet|FOLDER] [--stories 20]`. Writes
`benchmarks/results/growth.json` and fails when a target is missed.

Every film is made by the tasks behind `m2d generate`, `m2d extend` and `m2d reroll`, in a temporary folder:
- chain: held-out stories of 23 scenes. Three are generated, then twenty appended, each from its context,
  which `--context` chooses. The attribute classifier reads what the last scene shows, and how far its
  unprompted properties are from those of scene 1; 1 is their distance from scene 1 of other stories.
- background: the difference of the first and the last scene, in levels of 255, at pixels that no actor of
  either covers (`pixels`: pixel by pixel; `colours`: of histograms, which ignore motion).
- contrast, colour: the change from the first to the last scene, each as a share of its drawing's, because
  scenes show different actors.
- re-roll: the middle scene of held-out stories regenerated. The other scenes must keep their frames bit for
  bit. Unprompted properties of the new scene are compared with those of its neighbours, where 1 is the
  distance in joint generation.
- time: twelve scenes appended to a film in one run, with the denoising and decoding of each against the
  first; and twelve `m2d extend` commands of one scene, from start to exit.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.growing_films import NUM_JOINT, STORY_SEED, Films, frames_of, prompt_of
from benchmarks.growth_times import measure_time
from benchmarks.puppet_films import default_scene, read_films
from benchmarks.quality_targets import Check, check_report, summary
from m2d.cli.console import make_reporter
from m2d.errors import CheckpointError, M2DError
from m2d.evaluation.consistency import tally_means
from m2d.evaluation.frame_measures import FrameMeter, FrameStatistics
from m2d.evaluation.intervals import Tally, figure_of, ratio_of
from m2d.families.loading import load_vae
from m2d.families.opening import BUILTIN_PUPPET
from m2d.families.source import resolve_model
from m2d.files import write_json
from m2d.model.pixels import to_pixels
from m2d.progress import Clock
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, AttributeClassifier, Reading, load_classifier
from m2d.puppet.clips import render_batch
from m2d.puppet.labels import UNPROMPTED_RANGES
from m2d.puppet.render import Clip, render_clips
from m2d.puppet.story import Story, sample_story
from m2d.puppet.story_scores import tally_prompted
from m2d.video.joining import colour_jump

RESULTS = Path(__file__).parent / "results" / "growth.json"
NUM_ADDED = 20
CHAIN_TARGETS = {"on_stage": 0.95, "colour": 0.90, "setting": 0.90}
DRIFT_TARGET, BACKGROUND_TARGET = 0.40, 6.0
LOOKS = ("contrast", "colour")
LOOKS_TARGET = 0.03
REROLL_TARGET, TIME_TARGET = 1.10, 1.10


def measure_chain(
    films: Films,
    stories: Sequence[Story],
    reader: AttributeClassifier,
    clock: Clock,
    *,
    num_added: int = NUM_ADDED,
) -> dict[str, Any]:
    """Extend every story, and compare the last scene with its prompt and with the first."""
    first, last, jumps, pixels, looks = [], [], [], [], []
    with clock.stage("chain", total=len(stories)) as progress:
        for number, story in enumerate(stories):
            film = films.generate(story, num_scenes=NUM_JOINT, name=f"chain-{number}").film
            films.extend(film, *(prompt_of(story, NUM_JOINT + added) for added in range(num_added)))
            frames_NPCHW = frames_of(film, films.vae)
            first.append(frames_NPCHW[0])
            last.append(frames_NPCHW[-1])
            found = background(story, frames_NPCHW[0], frames_NPCHW[-1])
            looks.append(changes(story, frames_NPCHW[0], frames_NPCHW[-1]))
            pixels.append(found["pixels"])
            jumps.append(found["colours"])
            progress.advance()
    read_first = read_films(reader, torch.stack(first))
    read_last = read_films(reader, torch.stack(last))
    ends = [Story(backdrop=story.backdrop, cast=story.cast, scenes=(story.scenes[-1],)) for story in stories]
    tallies = tally_prompted(ends, read_last)
    return {
        "num_stories": len(stories),
        "num_scenes": NUM_JOINT + num_added,
        "context": films.context,
        "changes": {name: figure_of(tally_means([each[name] for each in looks])).as_json() for name in LOOKS},
        "last_scene": {name: figure_of(tally).as_json() for name, tally in tallies.items()},
        "drift": drift(read_first, read_last),
        "background_levels": {
            "pixels": round(statistics.mean(pixels), 3),
            "colours": round(statistics.mean(jumps), 3),
            "pixels_worst": round(max(pixels), 3),
        },
    }


def drift(first: Reading, last: Reading) -> dict[str, float]:
    """Return unprompted differences of two scenes, as a share of those from the first of other stories."""
    ours_SV = (last.numbers - first.numbers).abs().double()
    num_stories = len(ours_SV)
    others_SSV = (last.numbers[:, None] - first.numbers[None]).abs().double()
    is_other_SS = ~torch.eye(num_stories, dtype=torch.bool)
    theirs_V = others_SSV[is_other_SS].mean(0)
    shares_V = ours_SV.mean(0) / theirs_V
    names = list(UNPROMPTED_RANGES)
    figures = {name: round(float(share), 4) for name, share in zip(names, shares_V, strict=True)}
    return {**figures, "all": round(float(ours_SV.mean() / theirs_V.mean()), 4)}


def changes(story: Story, first_PCHW: Tensor, last_PCHW: Tensor) -> dict[str, float]:
    """Return by how much contrast and colour change between scenes, each relative to its drawing."""
    num_frames, _, height, width = first_PCHW.shape
    clips = [Clip(story, story.scenes[0]), Clip(story, story.scenes[-1])]
    drawn = render_clips(clips, num_frames=num_frames, height=height, width=width)
    shares = []
    for made_PCHW, drawn_PCHW in ((first_PCHW, drawn[0]), (last_PCHW, drawn[1])):
        made, true = _statistics(made_PCHW), _statistics(drawn_PCHW)
        shares.append({name: getattr(made, name) / getattr(true, name) for name in LOOKS})
    return {name: shares[1][name] / shares[0][name] - 1 for name in LOOKS}


def _statistics(frames_PCHW: Tensor) -> FrameStatistics:
    meter = FrameMeter()
    for frame_HWC in to_pixels(2 * frames_PCHW - 1):
        meter.add(frame_HWC)
    return meter.finish()


def background(story: Story, first_PCHW: Tensor, last_PCHW: Tensor) -> dict[str, float]:
    """Return the difference of two scenes at pixels that no actor covers, in levels of 255."""
    scene_shape = {"num_frames": len(first_PCHW), "height": first_PCHW.shape[2], "width": first_PCHW.shape[3]}
    batch = render_batch([Clip(story, story.scenes[0]), Clip(story, story.scenes[-1])], **scene_shape)
    # Each actor stays on its half but the model may place it differently: add two pixels around the drawing.
    covered_HW = (
        torch.nn.functional.max_pool2d(batch.actors_BP1HW.amax((0, 1)), 5, stride=1, padding=2)[0] > 0
    )
    ends = [frames_PCHW.median(0).values[:, ~covered_HW] * 255 for frames_PCHW in (first_PCHW, last_PCHW)]
    as_frames = [end_CX.round().byte().T[None, None].numpy() for end_CX in ends]
    return {
        "pixels": float((ends[0] - ends[1]).abs().mean()),
        "colours": colour_jump(as_frames[0], as_frames[1]),
    }


def measure_rerolls(
    films: Films, stories: Sequence[Story], reader: AttributeClassifier, clock: Clock
) -> dict[str, Any]:
    """Regenerate the middle scene of every story."""
    before, after, is_kept = [], [], []
    with clock.stage("re-roll", total=len(stories)) as progress:
        for number, story in enumerate(stories):
            made = films.generate(story, num_scenes=NUM_JOINT, name=f"reroll-{number}")
            rerolled_film = films.reroll(made.film, 1)
            digests = [
                [scene.frames_sha256 for scene in each.provenance.scenes] for each in (made, rerolled_film)
            ]
            is_kept.append(digests[0][::2] == digests[1][::2] and digests[0][1] != digests[1][1])
            before.append(frames_of(made.film, films.vae))
            after.append(frames_of(rerolled_film.film, films.vae))
            progress.advance()
    joint, rerolled = (middle_gaps(read_films(reader, torch.cat(group))) for group in (before, after))
    return {
        "num_stories": len(stories),
        "others_identical": sum(is_kept) / len(is_kept),
        "difference_joint": figure_of(joint).as_json(),
        "difference_rerolled": figure_of(rerolled).as_json(),
        "relative": ratio_of(rerolled, joint).as_json(),
    }


def middle_gaps(reading: Reading) -> Tally:
    """Tally unprompted differences between the middle scene of every story and its two neighbours."""
    numbers_SNV = reading.numbers.double().reshape(-1, NUM_JOINT, reading.numbers.shape[-1])
    gaps_SX = (numbers_SNV[:, [0, 2]] - numbers_SNV[:, [1]]).abs().flatten(1)
    counts_S = torch.full((len(gaps_SX),), gaps_SX.shape[1], dtype=torch.float64)
    return Tally(amounts_S=gaps_SX.sum(1).numpy(), counts_S=counts_S.numpy())


def checks_of(report: Mapping[str, Any]) -> list[Check]:
    """Return the figures that have a target."""
    chain, rerolls, times = report["chain"], report["reroll"], report["time"]
    return [
        *(
            Check(
                name=f"last scene.{name}",
                value=chain["last_scene"][name]["value"],
                bound="at least",
                target=target,
            )
            for name, target in CHAIN_TARGETS.items()
        ),
        Check(name="drift over the chain", value=chain["drift"]["all"], bound="at most", target=DRIFT_TARGET),
        Check(
            name="background",
            value=chain["background_levels"]["colours"],
            bound="at most",
            target=BACKGROUND_TARGET,
        ),
        *(
            Check(
                name=f"change of {name}",
                value=abs(chain["changes"][name]["value"]),
                bound="at most",
                target=LOOKS_TARGET,
            )
            for name in LOOKS
        ),
        Check(name="re-roll keeps others", value=rerolls["others_identical"], bound="at least", target=1.0),
        Check(
            name="re-roll drift", value=rerolls["relative"]["value"], bound="at most", target=REROLL_TARGET
        ),
        Check(
            name="time, 12th to 1st",
            value=times["one_run"]["last_to_first"],
            bound="at most",
            target=TIME_TARGET,
        ),
        Check(
            name="time, 12th to 1st, a command each",
            value=times["a_command_each"]["last_to_first"],
            bound="at most",
            target=TIME_TARGET,
        ),
    ]


def measure(films: Films, *, num_stories: int, num_rerolls: int, clock: Clock) -> dict[str, Any]:
    """Measure everything and return the content of the results file.

    Args:
        films: Makes the films.
        num_stories: Stories whose chains are measured.
        num_rerolls: Stories with a re-rolled scene: more, because their difference is small.
        clock: Times the stages.

    Raises:
        CheckpointError: The attribute classifier cannot be loaded.
    """
    scene = default_scene(films.source)
    reader = load_classifier(
        films.source.path / CLASSIFIER_FILE,
        num_frames=scene.num_frames,
        height=scene.height,
        width=scene.width,
    )
    stories = [
        sample_story(seed=STORY_SEED, index=index, num_scenes=NUM_JOINT + NUM_ADDED)
        for index in range(max(num_stories, num_rerolls))
    ]
    report = {
        "what": "held-out puppet films that grow, read back; 95 % intervals, bootstrap over stories",
        "model": {"name": Path(films.source.name).name, "digest": films.source.digest},
        "story_seed": STORY_SEED,
        "sampling": {"num_inference_steps": films.steps, "guidance_scale": films.guidance},
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers", "transformers")},
        "time": measure_time(films, stories[0], clock),
        "chain": measure_chain(films, stories[:num_stories], reader, clock),
        "reroll": measure_rerolls(films, stories[:num_rerolls], reader, clock),
    }
    return {**report, **check_report(checks_of(report)), "seconds": clock.timings_s}


def with_times(report: Mapping[str, Any], films: Films, clock: Clock) -> dict[str, Any]:
    """Measure the times again, on an idle machine, and keep all other figures.

    Raises:
        CheckpointError: The figures belong to another model.
    """
    if report["model"]["digest"] != films.source.digest:
        raise CheckpointError(f"the figures belong to another model: {report['model']['digest']}")
    story = sample_story(seed=STORY_SEED, index=0, num_scenes=NUM_JOINT + NUM_ADDED)
    changed = {**report, "time": measure_time(films, story, clock)}
    return {**changed, **check_report(checks_of(changed))}


def main() -> int:
    """Measure, write the figures and report whether all targets are met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=BUILTIN_PUPPET, help="model folder, or builtin:puppet")
    parser.add_argument("--stories", type=int, default=20)
    parser.add_argument("--rerolls", type=int, default=60, help="stories with a re-rolled scene")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--context", default="first", choices=["first", "recent"], help="of added scenes")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--time-only", action="store_true", help="measure only the times again, and update OUT"
    )
    given = parser.parse_args()
    try:
        source = resolve_model(given.model)
        with tempfile.TemporaryDirectory() as folder:
            films = Films(
                folder=Path(folder),
                source=source,
                vae=load_vae(source, device="cpu", dtype=torch.float32),
                steps=given.steps,
                guidance=given.guidance,
                context=given.context,
            )
            clock = Clock(make_reporter())
            if given.time_only:
                report = with_times(json.loads(given.out.read_bytes()), films, clock)
            else:
                report = measure(films, num_stories=given.stories, num_rerolls=given.rerolls, clock=clock)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, report)
    except M2DError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{summary(report)}\n{given.out}\n")
    return 0 if report["all_hold"] else 1


if __name__ == "__main__":
    sys.exit(main())

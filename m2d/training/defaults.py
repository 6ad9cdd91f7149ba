"""Choose a training recipe from the clips, the model's own file and the machine.

Owns every choice that a user without a recipe leaves open. Reads no video: the clips were scanned before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel

from m2d.data.dataset_file import shots_of
from m2d.data.dataset_text import Shot, ShotGroup
from m2d.data.decode import Broken, ClipSize, VideoFacts
from m2d.data.frame_sampling import FpsRule, span_of
from m2d.data.scan import Scanned, ScannedData
from m2d.data.story_library import ClipForm, StoryLibrary
from m2d.errors import DatasetError, InputError
from m2d.families.source import ModelSource
from m2d.garbage import no_collection
from m2d.geometry import ModelGeometry
from m2d.recipe.loader import fit_document
from m2d.recipe.places import Places
from m2d.recipe.settings import Setting, same_start
from m2d.training.machine import Machine
from m2d.training.needs import training_needs
from m2d.training.recipe import DataRecipe, Stage, TrainingRecipe
from m2d.video.frame_times import SAME_RATE
from m2d.video.printable import counted

# Own clips may be long films.
DECODING_LIMIT_S = 120.0
# Rate and length are chosen so that at most this share of the clips is too slow or too short.
_LEFT_OUT = 0.1
_SHORTEST_LATENT_FRAMES = 2
_BATCH = 8
# Passes over the data, within these numbers of steps.
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 64, 60, 2000
# Adapters of small models take a higher rate; the other one is that of the recipes for CogVideoX.
_SMALL, _RATE_OF_SMALL, _RATE = 200_000_000, 3e-3, 1e-4
# Kernels and the allocator need the rest.
_USABLE_MEMORY = 5 / 6
# Fields that others are chosen by.
_DECIDING = (
    *("num_scenes", "steps", "batch_size", "device", "data.held_out"),
    *("video.num_frames", "video.height", "video.width", "video.fps"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenRecipe:
    """A recipe and the reasons for its values, one sentence each.

    Attributes:
        found: The recipe's dataset, as it was read and scanned for the choice.
    """

    recipe: TrainingRecipe
    reasons: tuple[str, ...]
    found: ScannedData


class _Shape(NamedTuple):
    stage: Stage
    num_scenes: int
    num_stories: int
    num_samples: int


class _Clips(BaseModel):
    data: DataRecipe


def data_of_clips(source: Path, settings: Sequence[Setting], machine: Machine) -> DataRecipe:
    """Return how the clips are read: as chosen here, and as the settings of `data` say.

    Raises:
        RecipeError: A setting is wrong.
        InputError: A setting names other clips.
    """
    of_data = [each for each in settings if each.key_path[0] == "data"]
    for each in of_data:
        if same_start(each.key_path, ("data", "source")):
            raise InputError(f"the clips are those of {source}; leave this out", argument=f"set {each.name}")
    chosen = {
        "source": str(source),
        "held_out": 0,
        "workers": min(machine.num_cores, 8),
        "time_limit_s": DECODING_LIMIT_S,
    }
    places = Places(path="the chosen recipe")
    return fit_document({"data": chosen}, _Clips, places=places, settings=of_data).value.data


def given_values(recipe: TrainingRecipe, settings: Sequence[Setting]) -> dict[str, Any]:
    """Return the values of a recipe that settings gave and other choices depend on, by field."""
    return {
        name: attrgetter(name)(recipe)
        for name in _DECIDING
        if any(same_start(each.key_path, tuple(name.split("."))) for each in settings)
    }


@no_collection()
def choose_recipe(
    found: ScannedData,
    *,
    model: ModelSource,
    stage: Stage | None,
    machine: Machine,
    data: DataRecipe,
    given: Mapping[str, Any] = MappingProxyType({}),
) -> ChosenRecipe:
    """Choose a recipe for the clips of a dataset; `fit_to_memory` completes it.

    Args:
        stage: The stage to train; None chooses it.
        data: How the clips were read.
        given: Values that are not chosen; see `given_values`.

    Raises:
        DatasetError: No clip can be read, or they are too few for `stage`.
    """
    geometry, source, groups, scanned = model.geometry, data.source, found.groups, found.scanned
    clips = _readable(groups, scanned)
    if not clips:
        shots = shots_of(groups)
        first = scanned[shots[0].video].found
        reason = first.reason if isinstance(first, Broken) else "is not used"
        raise DatasetError(
            f"{source}: no clip of {len(shots)} can be read; the first is {shots[0].video}: {reason}"
        )
    readable = _without_broken(groups, scanned)
    fps = given.get("video.fps") or _rate(clips, geometry)
    num_frames = given.get("video.num_frames") or _length(clips, geometry, fps=fps)
    height = given.get("video.height") or geometry.default_height
    size = ClipSize(height=height, width=given.get("video.width") or geometry.default_width, fit=data.fit)
    form = ClipForm(rule=FpsRule(fps=fps, num_frames=num_frames), size=size)

    def library(least_scenes: int) -> StoryLibrary:
        return StoryLibrary(readable, scanned, forms=[form], least_scenes=least_scenes, seed=1)

    most_scenes = given.get("num_scenes", geometry.num_scenes)
    shape = _shape(library(1), most_scenes, stage=stage, source=source, exactly="num_scenes" in given)
    held_out = given.get("data.held_out", _held_out(shape))
    document: dict[str, Any] = {
        "title": Path(source).resolve().stem or "clips",
        "stage": shape.stage,
        "model": model.name,
        "init": model.name,
        "data": {
            "source": source,
            "held_out": held_out,
            "workers": min(max(machine.num_cores // 2, 1), 8),
            "time_limit_s": DECODING_LIMIT_S,
        },
        "video": {"num_frames": num_frames, "height": size.height, "width": size.width, "fps": fps},
        "num_scenes": shape.num_scenes,
        "mask": model.mask,
        "device": given.get("device", machine.device),
        "precision": "bfloat16" if machine.has_bfloat16 else "float32",
    }
    num_training = shape.num_samples - held_out
    recipe = _sized(document, shape, machine=machine, num_training=num_training, given=given)
    reasons = _reasons(recipe, shape, geometry, num_clips=len(clips), given=given)
    return ChosenRecipe(recipe=recipe, reasons=reasons, found=found)


def fit_to_memory(recipe: TrainingRecipe, machine: Machine) -> TrainingRecipe:
    """Return the recipe with ways to save memory if it would not fit, and with the rate for the model's size.

    Builds the model without storage, which takes seconds. The last way is taken even if it does not suffice.

    Raises: as `training_needs`.
    """
    # A given batch may be smaller than the number of processes, which `training_needs` refuses in words.
    for saving in _savings(max(recipe.batch_size // machine.num_processes, 1)):
        fitted = recipe.model_copy(update=saving)
        needs = training_needs(fitted, num_devices=machine.num_processes)
        if needs.memory.total <= _USABLE_MEMORY * machine.memory_bytes:
            break
    if needs.model.num_parameters >= _SMALL:
        return fitted
    optimizer = fitted.optimizer.model_copy(update={"lr": _RATE_OF_SMALL})
    return fitted.model_copy(update={"optimizer": optimizer})


def _readable(groups: Sequence[ShotGroup], scanned: Mapping[Path, Scanned]) -> list[tuple[Shot, VideoFacts]]:
    found = [(shot, scanned[shot.video].found) for shot in shots_of(groups)]
    return [(shot, facts) for shot, facts in found if isinstance(facts, VideoFacts)]


def _without_broken(groups: Sequence[ShotGroup], scanned: Mapping[Path, Scanned]) -> Sequence[ShotGroup]:
    """Divide groups where a video cannot be read: the shots of a story follow each other."""
    if not any(isinstance(each.found, Broken) for each in scanned.values()):
        return groups
    runs: list[list[Shot]] = []
    for group in groups:
        runs.append([])
        for shot in group.shots:
            if isinstance(scanned[shot.video].found, Broken):
                runs.append([])
            else:
                runs[-1].append(shot)
    return [ShotGroup(shots=tuple(run), place=run[0].place) for run in runs if run]


def _rate(clips: Sequence[tuple[Shot, VideoFacts]], geometry: ModelGeometry) -> int:
    """The model's frames per second, or fewer if the clips have fewer."""
    rates = sorted(facts.fps for _, facts in clips)
    low = rates[int(_LEFT_OUT * len(rates))]
    return min(geometry.default_fps, max(int(low / (1 - SAME_RATE)), 1))


def _length(clips: Sequence[tuple[Shot, VideoFacts]], geometry: ModelGeometry, *, fps: int) -> int:
    """The model's number of frames, or the most that the clips have."""
    most = geometry.num_latent_frames(geometry.default_num_frames)
    # A video may be named in very many rows.
    parts = Counter((shot.video, shot.start_s, shot.end_s) for shot, _ in clips)
    firsts = {(shot.video, shot.start_s, shot.end_s): (shot, facts) for shot, facts in clips}
    for num_latent in range(most, _SHORTEST_LATENT_FRAMES, -1):
        rule = FpsRule(fps=fps, num_frames=geometry.num_frames(num_latent))
        short = sum(
            parts[part]
            for part, (shot, facts) in firsts.items()
            if rule.unsuitable(facts, span_of(shot, facts))
        )
        if short <= _LEFT_OUT * len(clips):
            return rule.num_frames
    return geometry.num_frames(min(_SHORTEST_LATENT_FRAMES, most))


def _shape(
    library: StoryLibrary, most_scenes: int, *, stage: Stage | None, source: str, exactly: bool
) -> _Shape:
    counts, num_shots = library.scene_counts, sum(library.scene_counts)
    if not counts:
        first = library.rejects[0]
        raise DatasetError(f"{source}: no clip can be used; the first is {first.video}: {first.reason}")
    least_scenes = most_scenes if exactly else 2
    in_stories = {n: sum(count >= n for count in counts) for n in range(least_scenes, most_scenes + 1)}
    # As many clips as possible in stories, then as many scenes as possible.
    best = max(in_stories, key=lambda n: (in_stories[n] * n, n), default=1)
    num_stories = in_stories.get(best, 0)
    if stage is None:
        has_stories = 2 * sum(count for count in counts if count >= best) >= num_shots
        stage = "sft" if num_stories and has_stories else "pretrain"
        if stage == "pretrain" and (len(counts) < 2 or most_scenes < 2):
            stage = "base"
    if stage == "sft":
        if not num_stories:
            scenes = f"{most_scenes} scenes" if exactly else "several scenes"
            raise DatasetError(
                f"{source}: no story of {scenes} for stage sft; put the clips of a story in a folder"
            )
        return _Shape("sft", best, num_stories, num_stories)
    if stage == "base":
        # A tenth of the stories, however long they are, is held out of ten or more.
        return _Shape("base", 1, len(counts), num_shots if len(counts) < 10 else len(counts))
    if len(counts) < 2:
        raise DatasetError(f"{source}: stage pretrain joins clips of different stories, and there is one")
    num_scenes = most_scenes if exactly else min(most_scenes, len(counts))
    return _Shape("pretrain", num_scenes, len(counts), len(counts))


def _held_out(shape: _Shape) -> int:
    """A tenth of the stories; none of a few."""
    tenth = min(shape.num_stories // 10, 32)
    if shape.stage != "pretrain" or not tenth:
        return tenth
    return max(tenth, shape.num_scenes) if shape.num_stories >= 5 * shape.num_scenes else 0


def _sized(
    document: dict[str, Any], shape: _Shape, *, machine: Machine, num_training: int, given: Mapping[str, Any]
) -> TrainingRecipe:
    """Complete a recipe with batch, steps and rates."""
    batch = given.get("batch_size") or _batch(num_training, machine.num_processes)
    passes = -(-_PASSES * num_training // batch)
    steps = given.get("steps") or min(max(passes, _FEWEST_STEPS), _MOST_STEPS)
    conditional = {"conditional_probability": 0.3, "targets": "random"} if shape.stage == "sft" else {}
    document |= {
        "objective": {"timesteps": "logit_normal", "uniform_share": 0.4, **conditional},
        "steps": steps,
        "batch_size": batch,
        "optimizer": {"name": "adamw", "lr": _RATE, "betas": [0.9, 0.99]},
        "lora": {"rank": 32, "parts": ["attention", "feed_forward"]},
        "schedule": {"name": "cosine", "warmup_steps": steps // 10, "final_fraction": 0.05},
        "ema_decay": 0.98,
        "log_every_steps": max(steps // 20, 1),
    }
    if document["data"]["held_out"]:
        document["evaluation"] = {"every_steps": -(-steps // 4), "num_samples": document["data"]["held_out"]}
    return TrainingRecipe.model_validate(document)


def _batch(num_samples: int, num_processes: int) -> int:
    most = min(max(_BATCH, num_processes), num_samples)
    return max(most - most % num_processes, num_processes)


def _savings(samples_per_process: int) -> list[dict[str, Any]]:
    """Ways to need less memory, the cheapest first."""
    parts = [n for n in range(1, samples_per_process + 1) if samples_per_process % n == 0]
    return [
        *({"accumulate": count} for count in parts),
        *({"accumulate": count, "gradient_checkpointing": True} for count in parts),
    ]


def _reasons(
    recipe: TrainingRecipe,
    shape: _Shape,
    geometry: ModelGeometry,
    *,
    num_clips: int,
    given: Mapping[str, Any],
) -> tuple[str, ...]:
    video, data = recipe.video, recipe.data
    of_clips = {
        "sft": f"{shape.num_stories} stories of at least {shape.num_scenes} scenes",
        "pretrain": f"{shape.num_stories} clips or stories, {shape.num_scenes} different ones in a sample",
        "base": f"{shape.num_samples} single clips",
    }[shape.stage]
    sizes = f"{counted(video.num_frames, 'frame')} of {video.width}x{video.height} at {video.fps} per second"
    is_model_size = (video.num_frames, video.fps) == (geometry.default_num_frames, geometry.default_fps)
    why_sizes = "as the model was trained" if is_model_size else "as most of the clips allow"
    if any(name.startswith("video.") for name in given):
        why_sizes = "as given"
    held_out = f"{data.held_out or 'none'} of them held out"
    return (
        f"{counted(num_clips, 'clip')} can be read",
        f"stage {shape.stage}: {of_clips}; {held_out}",
        f"{sizes}: {why_sizes}",
        f"{counted(recipe.steps, 'step')} of {counted(recipe.batch_size, 'sample')} on {recipe.device}, "
        "in low-rank adapters",
    )

"""Measure a set of videos, and compare it with a reference.

Owns what is measured and in what order; it writes nothing but the cache of measurements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

import m2d
from m2d.devices import DEVICE_NAMES, is_device_name
from m2d.errors import BackendUnavailable, CheckpointError, InputError, Remedy
from m2d.evaluation.cache import measured
from m2d.evaluation.embedder import Embedder
from m2d.evaluation.frechet import SetDistance, set_distance
from m2d.evaluation.given_embedder import GIVEN, WITH_TEXTS, GivenEmbedder, given_folder
from m2d.evaluation.lpips import Lpips
from m2d.evaluation.measure import Instruments, StoryMeasures, has_cut_detection
from m2d.evaluation.natural_embedder import (
    DISTANCE_NETWORKS,
    PROMPT_NETWORKS,
    VISUAL_NETWORKS,
    NaturalEmbedder,
)
from m2d.evaluation.networks import missing_networks
from m2d.evaluation.puppet_embedder import PuppetEmbedder, load_puppet_embedder
from m2d.evaluation.reference import copied_files, find_reference, repeated_files
from m2d.evaluation.report import Report
from m2d.evaluation.scores import features_of, figures, scene_rows, story_scores
from m2d.evaluation.stories import (
    LeftOut,
    VideoStory,
    check_given_prompts,
    check_own_prompts,
    find_stories,
    left_out,
    load_prompts,
)
from m2d.progress import Reporter
from m2d.recipe.plan import RunPlan
from m2d.video.open_film import FilmError

EmbedderChoice = Literal["auto", "puppet", "natural", "viclip", "clip", "dino", "videomae", "none"]
WITHOUT_TEXTS = {"none", *GIVEN} - {*WITH_TEXTS}
"""Choices that compare no prompts."""
_Measured = list[tuple[VideoStory, StoryMeasures]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalPlan:
    """What to evaluate.

    Attributes:
        paths: Films, folders of videos, run folders.
        reference: Videos whose features the set is compared with.
        prompts: A recipe, a folder of recipes or a JSON file of stories; None takes the films' own prompts.
        out: Folder of the report.
        embedder: `auto` is `puppet` for films of the embedded models, else `natural`.
        embedder_model: Folder or hub name of the weights of `viclip`, `clip`, `dino` or `videomae`.
        exports: Layouts of other benchmarks to write the scenes in, each into a folder of its name in `out`.
    """

    paths: tuple[Path, ...]
    reference: Path | None = None
    prompts: Path | None = None
    out: Path
    embedder: EmbedderChoice = "auto"
    embedder_model: str | None = None
    exports: tuple[str, ...] = ()
    device: str = "cpu"
    force: bool = False


class Found(NamedTuple):
    """The stories to measure, those of the reference, and the videos of both that cannot be read."""

    stories: list[VideoStory]
    unread: list[LeftOut]
    reference: list[VideoStory]
    unread_reference: list[LeftOut]


def evaluate(plan: EvalPlan, reporter: Reporter) -> Report:
    """Find and measure all videos; `plan.out` is neither read nor written.

    Measurements are cached by the content of the videos: a repeated call continues where an interrupted one
    stopped.

    Raises:
        InputError: No video can be read, a scene has no prompt, or the sets cannot be compared.
        BackendUnavailable: The device is not here.
        CheckpointError: Weights of the networks are missing or of another network.
    """
    check_device(plan.device)
    return measure(plan, find(plan), reporter)


def find(plan: EvalPlan) -> Found:
    """Find the stories to measure; raises as `evaluate`."""
    if plan.embedder_model is not None and plan.embedder not in GIVEN:
        takers = f"{', '.join(GIVEN[:-1])} or {GIVEN[-1]}"
        raise InputError(f"{plan.embedder} reads no weights; choose {takers}", argument="embedder_model")
    prompts = None if plan.prompts is None else load_prompts(plan.prompts)
    stories, unread = find_stories(plan.paths, prompts)
    _check_found(stories, unread)
    if prompts is not None:
        check_given_prompts(stories, prompts)
    elif plan.embedder not in WITHOUT_TEXTS:
        check_own_prompts(stories)
    if plan.reference is None:
        return Found(stories, unread, [], [])
    _check_has_features(plan)
    num_clips = sum(len(story.scenes) for story in stories)
    reference, unread_reference = find_reference(plan.reference, num_clips=num_clips, unread=unread)
    return Found(stories, unread, reference, unread_reference)


def check_before_films(plan: EvalPlan, films: Sequence[RunPlan]) -> None:
    """Check everything about an evaluation that is known before its films are made; raises as `evaluate`."""
    choice = chosen_embedder(plan.embedder, is_puppet=all(film.source.is_puppet for film in films))
    if choice == "natural":
        check_networks(has_prompts=True, has_reference=plan.reference is not None)
    if choice == "puppet":
        sizes = [
            ((scene.geometry.height, scene.geometry.width), film.output.name)
            for film in films
            for scene in film.scenes
        ]
        puppet = _puppet_embedder(sizes, plan.device)
    if plan.reference is not None:
        _check_has_features(plan)
        num_clips = sum(len(film.scenes) for film in films)
        reference, _ = find_reference(plan.reference, num_clips=num_clips)
        if choice == "puppet":
            _check_can_read(reference, puppet)


def measure(plan: EvalPlan, found: Found, reporter: Reporter) -> Report:
    """Measure what was found; raises as `evaluate`."""
    stories, unread, reference, unread_reference = found
    embedder = _embedder(plan, stories)
    if isinstance(embedder, PuppetEmbedder):
        _check_can_read(reference, embedder)
    instruments, notes = _instruments(plan, embedder, stories)
    warnings = [text for text in (copied_files(stories), repeated_files(stories, reference)) if text]
    for text in warnings:
        reporter.warn(text)
    done = _measure(stories, instruments, unread, reporter, stage="measure videos")
    known = _measure(reference, instruments, unread_reference, reporter, stage="measure reference")
    _check_found([story for story, _ in done], unread)
    unread += [LeftOut(name=f"reference: {each.name}", reason=each.reason) for each in unread_reference]
    distance = _distance(done, known, embedder) if embedder and plan.reference else None
    scores = [story_scores(story, measures, embedder) for story, measures in done]
    found_figures = figures(done, scores, embedder)
    return Report(
        embedder=embedder.name if embedder else "",
        networks={**instruments.identity(), **(embedder.text_networks if embedder else {})},
        num_stories=len(done),
        rows=[
            row
            for (story, measures), own in zip(done, scores, strict=True)
            for row in scene_rows(story, measures, own)
        ],
        figures=found_figures.values,
        num_measured=found_figures.num_stories,
        distance=distance,
        distance_name=embedder.distance_name if embedder else "",
        left_out=unread,
        warnings=warnings,
        notes=notes,
        version=m2d.__version__,
    )


def check_device(name: str) -> None:
    """Check that a device is here; raise InputError or BackendUnavailable."""
    if not is_device_name(name):
        raise InputError(f"{name!r} is no device; use {DEVICE_NAMES}", argument="device")
    kind, _, number = name.partition(":")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise BackendUnavailable(
            f"{name}: torch finds {torch.cuda.device_count()} CUDA devices here; use cpu"
        )


def _embedder(plan: EvalPlan, stories: Sequence[VideoStory]) -> Embedder | None:
    choice = chosen_embedder(plan.embedder, is_puppet=all(story.is_puppet for story in stories))
    if choice == "none":
        return None
    if choice == "puppet":
        return _puppet_embedder([((story.height, story.width), story.name) for story in stories], plan.device)
    has_prompts = any(story.prompts for story in stories)
    if choice in GIVEN:
        folder = given_folder(choice, plan.embedder_model, field="--embedder-model")
        return GivenEmbedder(choice, folder, device=plan.device, has_prompts=has_prompts)
    has_reference = plan.reference is not None
    check_networks(has_prompts=has_prompts, has_reference=has_reference)
    return NaturalEmbedder(device=plan.device, has_prompts=has_prompts, has_reference=has_reference)


def _puppet_embedder(sizes: Sequence[tuple[tuple[int, int], str]], device: str) -> PuppetEmbedder:
    """Load the classifier for films; `sizes` are height and width, and the name, of each."""
    names: dict[tuple[int, int], str] = {}
    for size, name in sizes:
        names.setdefault(size, name)
    if len(names) > 1:
        found = ", ".join(f"{name}: {width}x{height}" for (height, width), name in sorted(names.items()))
        raise InputError(f"films of different sizes ({found}); evaluate each size alone")
    (((height, width), name),) = names.items()
    try:
        return load_puppet_embedder(height=height, width=width, device=device)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _check_can_read(reference: Sequence[VideoStory], embedder: PuppetEmbedder) -> None:
    for story in reference:
        if not embedder.can_read(height=story.height, width=story.width):
            raise InputError(
                f"{story.name}: frames of {story.width}x{story.height}; the attribute classifier of these "
                f"films reads {embedder.size} pixels, or larger pictures of that shape",
                argument="reference",
            )


def _check_has_features(plan: EvalPlan) -> None:
    if plan.embedder == "none":
        raise InputError("a reference is compared by features, so it needs an embedder", argument="reference")


def chosen_embedder(choice: EmbedderChoice, *, is_puppet: bool) -> EmbedderChoice:
    """Return what `auto` stands for; any other choice stays.

    Args:
        is_puppet: Whether embedded models made all films.
    """
    if choice != "auto":
        return choice
    return "puppet" if is_puppet else "natural"


def check_networks(*, has_prompts: bool, has_reference: bool) -> None:
    """Check that the networks of real videos are there; raise CheckpointError that names those missing."""
    needed = [
        *VISUAL_NETWORKS,
        *(PROMPT_NETWORKS if has_prompts else ()),
        *(DISTANCE_NETWORKS if has_reference else ()),
    ]
    missing = missing_networks(list(dict.fromkeys(needed)))
    if missing:
        raise CheckpointError(
            f"these scores need {' '.join(missing)}, which the cache does not hold",
            remedy=Remedy.GET_NETWORKS,
        )


def _instruments(
    plan: EvalPlan, embedder: Embedder | None, stories: Sequence[VideoStory]
) -> tuple[Instruments, list[str]]:
    notes = []
    has_lpips = not missing_networks(["lpips"])
    if plan.device != "cpu" and embedder is None and not has_lpips:
        raise InputError(f"{plan.device}: no network runs, so nothing would use it", argument="device")
    if not has_lpips:
        notes.append("LPIPS: the network lpips is not in the cache")
    finds_cuts = any(story.cuts for story in stories) and has_cut_detection()
    if any(story.cuts for story in stories) and not finds_cuts:
        notes.append("cut accuracy: it needs the package opencv-python-headless")
    if all(len(story.scenes) == 1 for story in stories):
        between = (
            "visual and sequence consistency, colour jumps, drift" if embedder else "colour jumps, drift"
        )
        notes.append(f"{between}: every video has one scene, and they compare scenes of a story")
    if embedder and not any(story.prompts for story in stories):
        notes.append("semantic consistency and cross-talk: the videos hold no prompts, and none were given")
    elif plan.embedder in GIVEN and plan.embedder in WITHOUT_TEXTS:
        notes.append(f"semantic consistency and cross-talk: {plan.embedder} has no text encoder")
    instruments = Instruments(
        extractors=embedder.extractors if embedder else {},
        pair=Lpips(device=plan.device) if has_lpips else None,
        finds_cuts=finds_cuts,
    )
    return instruments, notes


def _measure(
    stories: Sequence[VideoStory],
    instruments: Instruments,
    unread: list[LeftOut],
    reporter: Reporter,
    *,
    stage: str,
) -> _Measured:
    """Measure every story; those that cannot be read to their end are added to `unread`."""
    done: _Measured = []
    if not stories:
        return done
    with reporter.stage(stage, total=len(stories)) as progress:
        for story in stories:
            try:
                done.append((story, measured(story, instruments)))
            except FilmError as error:
                unread.append(left_out(story.name, error, story.films))
            progress.advance(detail=story.name)
    for each in unread:
        reporter.warn(f"{each.name}: left out: {each.reason}")
    return done


def _check_found(stories: Sequence[VideoStory], unread: Sequence[LeftOut]) -> None:
    if not stories:
        reasons = "\n".join(f"{each.name}: {each.reason}" for each in unread)
        raise InputError(f"none of the videos can be evaluated:\n{reasons}")


def _distance(done: _Measured, known: _Measured, embedder: Embedder) -> SetDistance:
    sets = [
        np.concatenate([embedder.distance_features(features_of(measures)) for _, measures in each])
        if each
        else np.empty((0, 1))
        for each in (done, known)
    ]
    return set_distance(sets[0], sets[1])

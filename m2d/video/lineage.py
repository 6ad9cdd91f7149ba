"""How a film grew: which run made each scene, from which context, and which of the context has changed since.

All of it follows from a provenance's runs and windows. Windows count scenes of the story from 0, people count
scenes of the film from 1: `name_scenes` converts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from m2d.video.printable import counted, printable
from m2d.video.provenance import Provenance, RunKind, RunRecord, WindowRecord, name_threads

LONGEST_NAME = 200
# Fewer windows in a row are described one by one.
FEWEST_STEPS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLineage:
    """One run and the scenes it made.

    Attributes:
        number: Counted from 1.
        made: Scenes of the story it made, from 0, ascending.
        replaced: Those of them that a later run has replaced in the film.
    """

    number: int
    kind: RunKind
    record: RunRecord
    made: tuple[int, ...]
    replaced: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneOrigin:
    """The window that made a scene.

    Attributes:
        window: Index of the window in its run; None when no window made the scene, as in external video.
        context: Scenes of the story that were that window's context.
        together: Scenes of the story that were made with it.
        outdated: Scenes of both that were regenerated later, by a window that did not see this scene.
    """

    run: int
    window: int | None = None
    context: tuple[int, ...] = ()
    together: tuple[int, ...] = ()
    outdated: tuple[int, ...] = ()


def lineage(provenance: Provenance) -> tuple[RunLineage, ...]:
    """Return the runs of a film with the scenes they made, oldest first."""
    kept_of: list[set[int]] = [set() for _ in provenance.runs]
    for number, scene in enumerate(provenance.scenes, start=provenance.first_scene):
        kept_of[scene.run].add(number)
    runs = []
    for index, (record, kept) in enumerate(zip(provenance.runs, kept_of, strict=True)):
        made = tuple(sorted(record.made_in or kept))
        replaced = tuple(scene for scene in made if scene not in kept and scene >= provenance.first_scene)
        runs.append(
            RunLineage(number=index + 1, kind=record.kind, record=record, made=made, replaced=replaced)
        )
    return tuple(runs)


def scene_origin(provenance: Provenance, index: int) -> SceneOrigin:
    """Find the window that made scene `index` of the film, from 0.

    A scene with the transition `continue` is outdated as soon as the scene before it changes, because it
    begins with that scene's last frame.
    """
    run, scene = provenance.scenes[index].run, provenance.first_scene + index
    made_in = provenance.runs[run].made_in.get(scene)
    if made_in is None:
        return SceneOrigin(run=run)
    window = provenance.runs[run].windows[made_in]
    return SceneOrigin(
        run=run,
        window=made_in,
        context=tuple(sorted(window.context)),
        together=tuple(sorted(set(window.targets) - {scene})),
        outdated=tuple(
            other
            for other in sorted(set(window.scenes) - {scene})
            if _changed_unseen(provenance, other, since=(run, made_in), by=scene)
        ),
    )


def stale(provenance: Provenance, index: int) -> tuple[str, ...]:
    """Return why scene `index` of the film, from 0, no longer fits the others; empty if it does.

    A scene that it was made with has been replaced since, or the newest run describes its actors otherwise.
    """
    outdated = scene_origin(provenance, index).outdated
    reasons = [f"made with an older version of {name_scenes(provenance, outdated)}"] if outdated else []
    scene = provenance.scenes[index]
    own, newest = (_cast(run) for run in (provenance.runs[scene.run], _newest_made(provenance)))
    reworded = [
        name
        for name, description in own.items()
        if name in newest and newest[name] != description and f"{description})" in scene.prompt
    ]
    if reworded:
        reasons.append(f"made with an older description of {_and(reworded)}")
    return tuple(printable(reason, limit=LONGEST_NAME) for reason in reasons)


def _newest_made(provenance: Provenance) -> RunRecord:
    return next((run for run in reversed(provenance.runs) if run.kind != "footage"), provenance.last_run)


def _cast(run: RunRecord) -> dict[str, str]:
    """Return the cast of a run's recipe, which is untrusted."""
    cast = run.recipe.get("cast")
    items = cast.items() if isinstance(cast, dict) else ()
    return {name: description for name, description in items if isinstance(description, str)}


class Hint(NamedTuple):
    """Advice to re-roll one scene, counted from 0, with its reason."""

    scene: int
    text: str


def hints(provenance: Provenance) -> tuple[Hint, ...]:
    """Return one hint for each scene whose context has changed since the scene was made."""
    found = []
    for index in range(len(provenance.scenes)):
        outdated = scene_origin(provenance, index).outdated
        if outdated:
            text = (
                f"scene {index + 1} was made with an older version of {name_scenes(provenance, outdated)};"
                " if it no longer fits, re-roll it"
            )
            found.append(Hint(index, text))
    return tuple(found)


def describe_run(provenance: Provenance, run: RunLineage) -> str:
    """Describe in one line what a run made, from which context, and what was replaced since."""
    if run.kind == "footage":
        film = printable(str(run.record.parameters.get("film", "another film")), limit=LONGEST_NAME)
        taken = f"{name_scenes(provenance, run.made)} taken from {film}"
        parts = [taken if run.made else f"continued {film}, which is not part of this film"]
    else:
        parts = _describe_windows(provenance, run.record.windows)
    if not parts:
        parts = [name_scenes(provenance, run.made)]
    if run.replaced:
        parts.append(f"{name_scenes(provenance, run.replaced)} since replaced")
    return "; ".join(parts)


def describe_means(run: RunLineage) -> tuple[tuple[str, str], ...]:
    """Return name and value of model, mask, sampling and so on; empty for external video."""
    parameters = run.record.parameters
    model = run.record.model
    where = [str(parameters.get(name, "?")) for name in ("backend", "device", "dtype")]
    means = {
        "model": f"{model.name}, sha256 {model.digest[:16]}" if model else "",
        **{
            name.replace("_", " "): str(place)
            for name in ("transformer", "vae", "text_encoder")
            if (place := run.record.recipe.get(name)) is not None
        },
        "mask": str(parameters.get("mask", "")),
        "sampling": _sampling(run.record),
        "LoRAs": "; ".join(_loras(run.record)),
        "backend": "{} on {} in {}".format(*where) if where != ["?"] * 3 else "",
        "machine": _machine(run.record),
        "versions": ", ".join(f"{name} {version}" for name, version in run.record.versions.items()),
    }
    if run.kind == "footage":
        return ()
    return tuple((name, printable(value, limit=1000)) for name, value in means.items() if value)


def name_scenes(provenance: Provenance, scenes: Iterable[int]) -> str:
    """Name scenes of the story as people count them in the film: `scene 4`, `scenes 1-3 and 5`.

    Scenes outside the film, which may hold new scenes alone, are counted and not numbered.
    """
    numbers = sorted({scene - provenance.first_scene + 1 for scene in scenes})
    inside = [number for number in numbers if number >= 1]
    num_before = len(numbers) - len(inside)
    parts = _ranges(inside)
    if not num_before:
        word = "scenes" if len(inside) > 1 else "scene"
        return f"{word} {_and(parts)}" if parts else "no scene"
    before = f"{counted(num_before, 'scene')} before this film's first"
    return f"scene{'s' if len(inside) > 1 else ''} {_and([*parts, before])}" if parts else before


def _describe_windows(provenance: Provenance, windows: Sequence[WindowRecord]) -> list[str]:
    """Describe each window; a long row of windows that step through the story gets one description."""
    parts: list[str] = []
    rest = list(windows)
    while rest:
        num_steps = _num_steps(rest)
        if num_steps < FEWEST_STEPS:
            parts.append(_describe_window(provenance, rest.pop(0)))
            continue
        made = name_scenes(provenance, (scene for window in rest[:num_steps] for scene in window.targets))
        anchor, num_given = _anchor(rest[num_steps - 1]), len(rest[0].context)
        first = "" if anchor is None else f"{name_scenes(provenance, [anchor])} and "
        num_given -= anchor is not None
        given = f"the {num_given} scenes" if num_given > 1 else "the scene"
        parts.append(f"{made} one by one, each from {first}{given} before it")
        rest = rest[num_steps:]
    return parts


def _num_steps(windows: Sequence[WindowRecord]) -> int:
    """Count the first windows that each make the next scene from the same number of scenes before it.

    The first of these scenes may be the same for all, the anchor.
    """
    first = windows[0]
    size = len(set(first.scenes))
    if size < 2:
        return 0
    # The first window may show the anchor among the scenes just before its own.
    is_anchored = any(_anchor(window) is not None for window in windows[:2])
    for place, window in enumerate(windows):
        scene = first.targets[0] + place
        recent = tuple(range(scene - size + 1, scene + 1))
        seen = (first.scenes[0], *recent[1:]) if is_anchored else recent
        if window.targets != (scene,) or window.scenes != seen:
            return place
    return len(windows)


def _anchor(window: WindowRecord) -> int | None:
    """Return the scene that a window sees besides those just before its target; None if there is none."""
    context = sorted(window.context)
    return context[0] if len(context) > 1 and context[1] > context[0] + 1 else None


def _describe_window(provenance: Provenance, window: WindowRecord) -> str:
    made = name_scenes(provenance, window.targets)
    if len(set(window.targets)) > 1:
        made += " together"
    context = window.context
    return f"{made} from {name_scenes(provenance, context)}" if context else made


def _sampling(run: RunRecord) -> str:
    steps, scheduler = (run.parameters.get(name) for name in ("num_inference_steps", "scheduler"))
    parts = [counted(steps, "step")] if isinstance(steps, int) else []
    parts += ["dynamic guidance"] * bool(run.parameters.get("dynamic_guidance"))
    parts += [f"scheduler {scheduler}"] if scheduler is not None else []
    return ", ".join([*parts, *_speed(run)])


def _speed(run: RunRecord) -> list[str]:
    """Name the speed mode, and what step caching skipped."""
    names = ("speed", "num_steps_foretold", "foretold_error_mean")
    speed, skipped, error = (run.parameters.get(name) for name in names)
    if speed is None:
        return []
    found = [f"speed {speed}"]
    if isinstance(skipped, int):
        found.append(f"{counted(skipped, 'step')} skipped")
    if isinstance(error, float):
        found.append(f"estimated error {error:.1%}")
    return found


def _machine(run: RunRecord) -> str:
    if run.machine is None:
        return ""
    threads = name_threads(run.machine.num_threads)
    return ", ".join(part for part in (threads, run.machine.processor, run.machine.gpu) if part)


def _loras(run: RunRecord) -> list[str]:
    """Describe the LoRAs of a run: `style.safetensors at 0.8 in scenes [2], sha256 ...`."""
    found = run.recipe.get("loras")
    return [
        f"{lora.get('path')} at {lora.get('scale', 1)}"
        + (f" in scenes {lora['scenes']} of this run" if lora.get("scenes") else "")
        + f", sha256 {str(lora.get('sha256'))[:16]}"
        for lora in (found if isinstance(found, list) else [])
        if isinstance(lora, dict)
    ]


def _changed_unseen(provenance: Provenance, scene: int, *, since: tuple[int, int], by: int) -> bool:
    """Whether `scene` was made after the window `since`, by a window that did not see the scene `by`."""
    index = scene - provenance.first_scene
    if not 0 <= index < len(provenance.scenes):
        return False
    run = provenance.scenes[index].run
    made_in = provenance.runs[run].made_in.get(scene)
    if made_in is None:
        # Its frames were taken from a video, such as the film itself when its latents were lost: unchanged.
        return False
    follows = by == scene + 1 and provenance.scenes[by - provenance.first_scene].join == "continue"
    return (run, made_in) > since and (follows or by not in provenance.runs[run].windows[made_in].context)


def _ranges(numbers: list[int]) -> list[str]:
    """`[1, 2, 3, 5]` -> `["1-3", "5"]`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

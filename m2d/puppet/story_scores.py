"""Compare puppet stories with the attributes that the classifier read from the scenes made from them.

Pure functions from stories and a reading to tallies per story; `m2d.evaluation.intervals` computes figures.
The rows of a reading are the scenes in order: all scenes of the first story, then of the second. All stories
have the same number of scenes.

Shapes: S stories, N scenes per story, A actors of the cast, V unprompted numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from m2d.evaluation.intervals import Tally
from m2d.puppet.attribute_classifier import Reading
from m2d.puppet.labels import NUM_SLOTS, UNPROMPTED_RANGES, class_labels, unprompted_numbers
from m2d.puppet.render import Clip
from m2d.puppet.story import Story

Flags = npt.NDArray[np.bool_]
Classes = npt.NDArray[np.int64]

DIFFERENCES = {name: f"difference.{name}" for name in (*UNPROMPTED_RANGES, "all")}
"""Keys of the tallies, by unprompted number or `all`."""
EYES_AGREEMENT = "eyes_agreement"
# Two independent uniform draws from 0..1 differ by a third on average.
CHANCE_DIFFERENCE = 1 / 3
_LOOKS = ("colour", "shape", "hat")


def story_clips(stories: Sequence[Story]) -> list[Clip]:
    """Return every scene of the stories, in the order that readings have."""
    return [Clip(story, scene) for story in stories for scene in story.scenes]


def tally_prompted(stories: Sequence[Story], reading: Reading) -> dict[str, Tally]:
    """Count how often scenes match their prompts.

    Returns:
        `setting`, `time`: scenes with the setting or time of the prompt.
        `on_stage`: scenes with exactly the prompt's actors.
        `colour`, `shape`, `hat`: actors that match their description, among those both named and seen. A
            missing actor counts in `on_stage` alone.
        `action`: actors that perform their action, among those named; a missing actor does not.

    Raises:
        ValueError: The reading is not of these stories' scenes, or their numbers of scenes differ.
    """
    asked, seen = _sheets(stories, reading)
    is_shown_SNA = asked.is_on_stage_SNA & seen.is_on_stage_SNA
    tallies = {
        name: _share(seen.scene_SN(name) == asked.scene_SN(name), among=np.ones(asked.shape, dtype=np.bool_))
        for name in ("setting", "time")
    }
    is_cast_right_SN = (seen.is_on_stage_SNA == asked.is_on_stage_SNA).all(-1)
    tallies["on_stage"] = _share(is_cast_right_SN, among=np.ones_like(is_cast_right_SN))
    for name in _LOOKS:
        tallies[name] = _share(seen.actors_SNA(name) == asked.actors_SNA(name), among=is_shown_SNA)
    is_done_SNA = seen.actors_SNA("action") == asked.actors_SNA("action")
    tallies["action"] = _share(is_shown_SNA & is_done_SNA, among=asked.is_on_stage_SNA)
    return tallies


def tally_leakage(stories: Sequence[Story], reading: Reading) -> dict[str, Tally]:
    """Count the scenes that show another scene's cast, action or setting instead of their own.

    Independent scenes cannot leak, but a wrong property can match another scene by accident: the score of
    `isolated` scenes is that accidental part.

    Returns:
        `leakage.cast`: scenes with an actor that another scene's prompt names but their own does not.
        `leakage.action`: scenes where a named actor performs, instead of its own action, the action that
            another scene's prompt gives it.
        `leakage.setting`: scenes that show, instead of their own place or time, one that another scene's
            prompt names. Always 0 in stories that keep one setting.
        `leakage`: scenes with any of them.

    Raises: as `tally_prompted`.
    """
    asked, seen = _sheets(stories, reading)
    is_named_anywhere_S1A = asked.is_on_stage_SNA.any(1, keepdims=True)
    is_stranger_SNA = seen.is_on_stage_SNA & ~asked.is_on_stage_SNA & is_named_anywhere_S1A
    # The label of an actor off stage is ABSENT, which is never read, and a wrong action differs from its own
    # scene's: so only other scenes with the actor on stage can match.
    is_shown_SNA = asked.is_on_stage_SNA & seen.is_on_stage_SNA
    is_borrowed_SNA = is_shown_SNA & _borrowed(asked.actors_SNA("action"), seen.actors_SNA("action"))
    cast_SN: Flags = np.any(is_stranger_SNA, axis=-1)
    action_SN: Flags = np.any(is_borrowed_SNA, axis=-1)
    place_SN = _borrowed(asked.scene_SN("setting"), seen.scene_SN("setting"))
    setting_SN = place_SN | _borrowed(asked.scene_SN("time"), seen.scene_SN("time"))
    every_SN = np.ones_like(cast_SN)
    return {
        "leakage": _share(cast_SN | action_SN | setting_SN, among=every_SN),
        "leakage.cast": _share(cast_SN, among=every_SN),
        "leakage.action": _share(action_SN, among=every_SN),
        "leakage.setting": _share(setting_SN, among=every_SN),
    }


def tally_unprompted(stories: Sequence[Story], reading: Reading) -> dict[str, Tally]:
    """Measure how much properties that no prompt names differ between the scenes of a story.

    Only agreement counts, not the value. A model that shows the same picture in all stories agrees as well:
    compare with `isolated` scenes of the same prompts and noise.

    Returns:
        `difference.tree_x`, `.sun_x`, `.horizon_y`, `.actor_size`: mean absolute difference over the pairs of
            scenes that share the property, as a share of its range. Scenes with different places do not share
            tree, sun and horizon; all scenes share the actors' size.
        `difference.all`: the mean of these four.
        `eyes_agreement`: share of the pairs whose actors have the same kind of eyes.

    Raises:
        ValueError: As `tally_prompted`, or the stories have one scene each.
    """
    asked, seen = _sheets(stories, reading)
    num_stories, num_scenes = asked.shape
    first, second = np.triu_indices(num_scenes, k=1)
    if not len(first):
        raise ValueError("stories of one scene have no pairs of scenes to compare")
    numbers_SNV = reading.numbers.double().cpu().numpy().reshape(num_stories, num_scenes, -1)
    true_SNV = unprompted_numbers(story_clips(stories)).numpy().reshape(numbers_SNV.shape)
    is_shared_SPV = true_SNV[:, first] == true_SNV[:, second]
    gaps_SV = (np.abs(numbers_SNV[:, first] - numbers_SNV[:, second]) * is_shared_SPV).sum(1)
    pairs_SV = is_shared_SPV.sum(1).astype(np.float64)
    tallies = {
        DIFFERENCES[name]: Tally(amounts_S=gaps_SV[:, index], counts_S=pairs_SV[:, index])
        for index, name in enumerate(UNPROMPTED_RANGES)
    }
    tallies[DIFFERENCES["all"]] = Tally(amounts_S=gaps_SV.sum(1), counts_S=pairs_SV.sum(1))
    eyes_SN = seen.scene_SN("eyes")
    is_same_SP = eyes_SN[:, first] == eyes_SN[:, second]
    tallies[EYES_AGREEMENT] = _share(is_same_SP, among=np.ones_like(is_same_SP))
    return tallies


def _borrowed(asked: Classes, seen: Classes) -> Flags:
    """Return where a scene, axis 1, shows the class of another scene's prompt instead of its own."""
    is_anothers = (seen[:, :, None] == asked[:, None]).any(2)
    is_borrowed: Flags = is_anothers & (seen != asked)
    return is_borrowed


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sheet:
    """Classes of all scenes, prompted or read."""

    columns: Mapping[str, Tensor]
    shape: tuple[int, int]

    def scene_SN(self, name: str) -> Classes:
        classes: Classes = self.columns[name].cpu().numpy().reshape(self.shape)
        return classes

    def actors_SNA(self, name: str) -> Classes:
        return np.stack([self.scene_SN(f"actor{slot + 1}.{name}") for slot in range(NUM_SLOTS)], axis=-1)

    @property
    def is_on_stage_SNA(self) -> Flags:
        is_on_stage_SNA: Flags = self.actors_SNA("on_stage") == 1
        return is_on_stage_SNA


def _sheets(stories: Sequence[Story], reading: Reading) -> tuple[_Sheet, _Sheet]:
    """Return the prompted classes and the read classes."""
    lengths = sorted({len(story.scenes) for story in stories})
    if len(lengths) != 1:
        raise ValueError(f"stories of {lengths} scenes; all must have the same number")
    shape = (len(stories), lengths[0])
    if len(reading.numbers) != shape[0] * shape[1]:
        raise ValueError(f"a reading of {len(reading.numbers)} scenes for {shape[0]} stories of {shape[1]}")
    asked = class_labels(story_clips(stories))
    return _Sheet(columns=asked, shape=shape), _Sheet(columns=reading.classes, shape=shape)


def _share(is_right: Flags, *, among: Flags) -> Tally:
    """Count per story how many of `among` are right, over all other axes."""
    axes = tuple(range(1, among.ndim))
    return Tally(
        amounts_S=(is_right & among).sum(axes).astype(np.float64),
        counts_S=among.sum(axes).astype(np.float64),
    )

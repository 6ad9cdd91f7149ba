"""The stories of a dataset that can be trained on, and which frames a sample takes of them.

Owns the division of shot groups into stories, the choice of clips and the stand-ins for what breaks. An index
means the same story whatever breaks, so that one broken file moves nothing but itself.
"""

# N scenes of a sample

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.data.decode import Broken, ClipRequest, Fit
from m2d.data.frame_sampling import ClipRule, span_of
from m2d.data.named_draws import draw_below, draw_unit
from m2d.data.rejects import Reject
from m2d.data.scan import Scanned
from m2d.data.shot_groups import Shot, ShotGroup
from m2d.data.video_facts import VideoFacts
from m2d.errors import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipSize:
    """What clips are made to: a size in pixels, and how a video of another shape is fitted into it."""

    height: int
    width: int
    fit: Fit


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip of a sample.

    Attributes:
        shot: Which shot it is of.
        sha256: Of the video.
        request: What to read.
    """

    shot: Shot
    sha256: str
    request: ClipRequest


class StoryLibrary:
    """Stories over scanned videos. Broken videos may be added while they are found; nothing else changes."""

    def __init__(
        self,
        groups: Sequence[ShotGroup],
        scanned: Mapping[Path, Scanned],
        *,
        rule: ClipRule,
        size: ClipSize,
        least_scenes: int,
        seed: int,
    ) -> None:
        """Divide groups into stories.

        A group is cut where a shot does not suit the rule, so that the shots of a story always follow each
        other; parts of fewer than `least_scenes` shots are left out.

        Args:
            groups: As the dataset has them.
            scanned: What the scan found, for every video.
            rule: Which frames a clip takes.
            size: What clips are made to.
            least_scenes: Shots that a story must have.
            seed: Seed of all choices.

        Raises:
            DatasetError: No group has enough shots.
        """
        self._check_groups(groups, least_scenes)
        self._scanned = dict(scanned)
        self._rule = rule
        self._size = size
        self._least_scenes = least_scenes
        self._seed = seed
        self._unsuitable: list[Reject] = []
        self._stories = [story for group in groups for story in self._suitable_runs(group)]
        self._broken: dict[Path, str] = {}
        self._shots_of: dict[Path, Shot] = {}
        for group in groups:
            for shot in group.shots:
                self._shots_of.setdefault(shot.video, shot)
                self._check_shot(shot)

    @property
    def num_stories(self) -> int:
        """How many stories there are, those with broken videos included."""
        return len(self._stories)

    @property
    def num_videos(self) -> int:
        """How many different files the dataset names."""
        return len(self._shots_of)

    @property
    def scene_counts(self) -> tuple[int, ...]:
        """Shots of every story."""
        return tuple(len(story) for story in self._stories)

    @property
    def broken(self) -> Mapping[Path, str]:
        """Videos that are not used, with their reasons."""
        return self._broken

    @property
    def rejects(self) -> list[Reject]:
        """Everything that is not used."""
        broken = [
            Reject(video=video, place=self._shots_of[video].place, reason=reason, is_broken=True)
            for video, reason in self._broken.items()
        ]
        return broken + self._unsuitable

    @property
    def digest(self) -> str:
        """Identity of what every index means, whichever files turn out to be broken."""
        told = [
            [[shot.caption, self._sha256(shot), shot.start_s, shot.end_s] for shot in story]
            for story in self._stories
        ]
        text = json.dumps([told, repr(self._rule), repr(self._size), self._seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def reject(self, video: Path, reason: str) -> None:
        """Do without a video from now on."""
        self._broken.setdefault(video, reason)

    def shots(self) -> list[Shot]:
        """Every shot of every story that can be read, in order."""
        return [shot for story in self._stories for shot in story if shot.video not in self._broken]

    def is_sound(self, story: int, scene: int) -> bool:
        """Whether nothing is known against a shot's video."""
        return self._stories[story][scene].video not in self._broken

    def resolve(
        self, stories_N: Sequence[int], scenes_N: Sequence[int], *, story_range: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Replace what is broken in a sample: other shots of the same story, or another story.

        Args:
            stories_N: Story of every slot; the same one throughout means shots that follow each other.
            scenes_N: Shot within the story.
            story_range: First story that may stand in, and one past the last.

        Raises:
            DatasetError: Nothing in the range is sound.
        """
        slots = list(zip(stories_N, scenes_N, strict=True))
        if all(self.is_sound(story, scene) for story, scene in slots):
            return slots
        if len(set(stories_N)) == 1:
            return self._stand_in(slots, story_range=story_range)
        return [
            slot if self.is_sound(*slot) else self._stand_in([slot], story_range=story_range)[0]
            for slot in slots
        ]

    def clip(self, story: int, scene: int, *, epoch: int) -> Clip:
        """Return the clip that a sound shot gives in `epoch`."""
        shot = self._stories[story][scene]
        scanned = self._scanned[shot.video]
        assert isinstance(scanned.found, VideoFacts)
        draw = draw_unit(self._seed, "clip", epoch, story, scene)
        request = ClipRequest(
            video=shot.video,
            identity=scanned.identity,
            frames=self._rule.pick(scanned.found, span_of(shot, scanned.found), draw=draw),
            height=self._size.height,
            width=self._size.width,
            fit=self._size.fit,
        )
        return Clip(shot=shot, sha256=scanned.found.sha256, request=request)

    def _check_groups(self, groups: Sequence[ShotGroup], least_scenes: int) -> None:
        largest = max(groups, key=lambda group: len(group.shots))
        if len(largest.shots) < least_scenes:
            raise DatasetError(
                f"num_scenes: {least_scenes}, but the largest shot group has {len(largest.shots)} "
                f"({largest.place}); use at most {len(largest.shots)}"
            )

    def _check_shot(self, shot: Shot) -> None:
        found = self._scanned[shot.video].found
        if isinstance(found, Broken):
            self.reject(shot.video, found.reason)
        elif shot.sha256 not in (None, found.sha256):
            self.reject(
                shot.video, f"is another file than the dataset tells of: its sha256 is {found.sha256}"
            )

    def _suitable_runs(self, group: ShotGroup) -> list[tuple[Shot, ...]]:
        runs: list[list[Shot]] = [[]]
        for shot in group.shots:
            if self._suits(shot):
                runs[-1].append(shot)
            else:
                runs.append([])
        return [tuple(run) for run in runs if len(run) >= self._least_scenes]

    def _suits(self, shot: Shot) -> bool:
        found = self._scanned[shot.video].found
        if isinstance(found, Broken):
            # It keeps its index: once repaired, everything else is still where it was.
            return True
        reason = self._rule.unsuitable(found, span_of(shot, found))
        if reason:
            reject = Reject(video=shot.video, place=shot.place, reason=reason, is_broken=False)
            self._unsuitable.append(reject)
        return not reason

    def _sha256(self, shot: Shot) -> str:
        found = self._scanned[shot.video].found
        return "broken" if isinstance(found, Broken) else found.sha256

    def _stand_in(
        self, slots: Sequence[tuple[int, int]], *, story_range: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Other shots that follow each other, for all slots of one story."""
        story, scene = slots[0]
        length = len(slots)
        windows = self._sound_windows(story, length) or [
            window for other in range(*story_range) for window in self._sound_windows(other, length)
        ]
        if not windows:
            raise DatasetError(
                f"stories {story_range[0]} to {story_range[1] - 1}: none has {length} videos in a row that "
                "can be read; see rejected.jsonl in the run folder"
            )
        other, first = windows[draw_below(len(windows), self._seed, "stand-in", story, scene)]
        return [(other, first + place) for place in range(length)]

    def _sound_windows(self, story: int, length: int) -> list[tuple[int, int]]:
        starts = range(len(self._stories[story]) - length + 1)
        return [
            (story, first)
            for first in starts
            if all(self.is_sound(story, first + place) for place in range(length))
        ]

"""The stories of a dataset that can be trained on, and which frames a sample takes from them.

Divides shot groups into stories, chooses clips, and replaces broken videos. A story keeps its index whichever
files are broken, so one broken file changes no other sample.
"""

# N scenes of a sample

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.data.dataset_text import Shot, ShotGroup
from m2d.data.decode import Broken, ClipRequest, ClipSize, VideoFacts
from m2d.data.frame_sampling import ClipRule, span_of
from m2d.data.rejects import Reject
from m2d.data.scan import Scanned
from m2d.errors import DatasetError


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip of a sample, taken from `shot`; `sha256` is the digest of the video."""

    shot: Shot
    sha256: str
    request: ClipRequest


class StoryLibrary:
    """Stories over scanned videos. Videos found broken later can be added; nothing else changes."""

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

        A group is divided where a shot does not suit the rule, so the shots of a story always follow each
        other; parts of fewer than `least_scenes` shots are left out.

        Raises:
            DatasetError: No group has enough shots.
        """
        largest = max(groups, key=lambda group: len(group.shots))
        if len(largest.shots) < least_scenes:
            raise DatasetError(
                f"num_scenes: {least_scenes}, but the largest shot group has {len(largest.shots)} "
                f"({largest.place}); use at most {len(largest.shots)}"
            )
        self._scanned = dict(scanned)
        self._rule = rule
        self._size = size
        self._least_scenes = least_scenes
        self._seed = seed
        self._unsuitable: list[Reject] = []
        # Why each part of a video is unsuitable, or an empty text.
        self._reasons: dict[tuple[Path, float, float | None], str] = {}
        self._stories = [story for group in groups for story in self._suitable_runs(group)]
        # Broken videos with their reasons.
        self.broken: dict[Path, str] = {}
        self._shots_of: dict[Path, Shot] = {}
        for group in groups:
            for shot in group.shots:
                self._shots_of.setdefault(shot.video, shot)
                self._check_shot(shot)

    @property
    def num_stories(self) -> int:
        """Number of stories, those with broken videos included."""
        return len(self._stories)

    @property
    def num_videos(self) -> int:
        """Number of different files that the dataset names."""
        return len(self._shots_of)

    @property
    def scene_counts(self) -> tuple[int, ...]:
        """Number of shots of every story."""
        return tuple(len(story) for story in self._stories)

    @property
    def rejects(self) -> list[Reject]:
        """All videos and shots that are not used."""
        broken = [
            Reject(video=video, place=self._shots_of[video].place, reason=reason, is_broken=True)
            for video, reason in self.broken.items()
        ]
        return broken + self._unsuitable

    @property
    def digest(self) -> str:
        """Identity of the stories, their order, and which of their videos can be read."""
        stories = [
            [[shot.caption, self._sha256(shot), shot.start_s, shot.end_s] for shot in story]
            for story in self._stories
        ]
        text = json.dumps([stories, repr(self._rule), repr(self._size), self._seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def num_readable(self) -> int:
        """Number of stories from which a sample can be taken."""
        return len(self._readable())

    def first_held_out(self, count: int) -> int:
        """Index of the first held-out story if the last `count` readable stories are held out."""
        readable = self._readable()
        return readable[-count] if 0 < count <= len(readable) else self.num_stories

    def reject(self, video: Path, reason: str) -> None:
        """Stop using a video, from now on."""
        self.broken.setdefault(video, reason)

    def shots(self) -> list[Shot]:
        """Return every shot of every story whose video can be read, in order."""
        return [shot for story in self._stories for shot in story if shot.video not in self.broken]

    def is_sound(self, story: int, scene: int) -> bool:
        """Whether a shot's video is not known to be broken."""
        return self._stories[story][scene].video not in self.broken

    def resolve(
        self, stories_N: Sequence[int], scenes_N: Sequence[int], *, story_range: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Replace the broken shots of a sample by other shots of the same story, or of another story.

        Args:
            stories_N: Story of every slot; if it is the same for all, the shots follow each other.
            story_range: First story that may be a replacement, and one past the last.

        Raises:
            DatasetError: The range has no readable replacement.
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
        """Return the clip of a readable shot in `epoch`."""
        shot = self._stories[story][scene]
        scanned = self._scanned[shot.video]
        assert isinstance(scanned.found, VideoFacts)
        draw = _draw_unit(self._seed, "clip", epoch, story, scene)
        request = ClipRequest(
            video=shot.video,
            identity=scanned.identity,
            frames=self._rule.pick(scanned.found, span_of(shot, scanned.found), draw=draw),
            size=self._size,
        )
        return Clip(shot=shot, sha256=scanned.found.sha256, request=request)

    def _check_shot(self, shot: Shot) -> None:
        found = self._scanned[shot.video].found
        if isinstance(found, Broken):
            self.reject(shot.video, found.reason)
        elif shot.sha256 not in (None, found.sha256):
            self.reject(
                shot.video, f"is not the file that the dataset describes: its sha256 is {found.sha256}"
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
            # Kept, so that its story has the same index once the file is repaired.
            return True
        part = (shot.video, shot.start_s, shot.end_s)
        if part not in self._reasons:
            self._reasons[part] = self._rule.unsuitable(found, span_of(shot, found))
        reason = self._reasons[part]
        if reason:
            reject = Reject(video=shot.video, place=shot.place, reason=reason, is_broken=False)
            self._unsuitable.append(reject)
        return not reason

    def _sha256(self, shot: Shot) -> str:
        found = self._scanned[shot.video].found
        return "broken" if isinstance(found, Broken) or shot.video in self.broken else found.sha256

    def _stand_in(
        self, slots: Sequence[tuple[int, int]], *, story_range: tuple[int, int]
    ) -> list[tuple[int, int]]:
        """Choose other shots that follow each other, for all slots of one story."""
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
        place = int(_draw_unit(self._seed, "stand-in", story, scene) * len(windows))
        other, first = windows[min(place, len(windows) - 1)]
        return [(other, first + place) for place in range(length)]

    def _readable(self) -> list[int]:
        return [s for s in range(self.num_stories) if self._sound_windows(s, self._least_scenes)]

    def _sound_windows(self, story: int, length: int) -> list[tuple[int, int]]:
        starts = range(len(self._stories[story]) - length + 1)
        return [
            (story, first)
            for first in starts
            if all(self.is_sound(story, first + place) for place in range(length))
        ]


def _draw_unit(*name: object) -> float:
    """Return the random number in [0, 1) of a name such as `(seed, "clip", epoch, story, scene)`.

    It follows from the name alone, never from earlier draws.
    """
    digest = hashlib.sha256("\0".join(map(str, name)).encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)

"""The stories of a dataset that can be trained on, and which frames a sample takes from them.

Divides shot groups into stories, chooses clips, and replaces broken videos. A story keeps its index whichever
files are broken, so one broken file changes no other sample.
"""

# N scenes of a sample

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2d.data.dataset_text import Shot, ShotGroup
from m2d.data.decode import Broken, ClipRequest, ClipSize, VideoFacts
from m2d.data.frame_sampling import ClipRule, span_of, why_unsuitable
from m2d.data.rejects import Reject
from m2d.data.scan import Scanned, why_unusable
from m2d.errors import DatasetError

# Logarithms of shapes that differ by rounding to whole tokens are equal.
_SAME_SHAPE = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """One clip of a sample, taken from `shot`; `sha256` is the digest of the video."""

    shot: Shot
    sha256: str
    request: ClipRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipForm:
    """Which frames the clips of a story have, and their size."""

    rule: ClipRule
    size: ClipSize


class StoryLibrary:
    """Stories over scanned videos. Videos found broken later can be added; nothing else changes.

    Attributes:
        buckets: For every story the place of its form.
    """

    def __init__(
        self,
        groups: Sequence[ShotGroup],
        scanned: Mapping[Path, Scanned],
        *,
        forms: Sequence[ClipForm],
        least_scenes: int,
        seed: int,
    ) -> None:
        """Divide groups into stories.

        A group is divided where a shot does not suit the rule, so the shots of a story always follow each
        other; parts of fewer than `least_scenes` shots are left out. Of several forms a group has the one of
        the nearest shape with the most frames that all of its shots have.

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
        self._forms = tuple(forms)
        self._least_scenes = least_scenes
        self._seed = seed
        self._unsuitable: list[Reject] = []
        # Why each part of a video is unsuitable for a form, or an empty text.
        self._reasons: dict[tuple[Path, float, float | None, int], str] = {}
        divided = [(self._form_of(group), group) for group in groups]
        runs = [(form, run) for form, group in divided for run in self._suitable_runs(group, form)]
        self._stories = [story for _, story in runs]
        self.buckets = tuple(form for form, _ in runs)
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
        forms = [text for form in self._forms for text in (repr(form.rule), repr(form.size))]
        # Without a choice of forms, the text of earlier versions.
        chosen = [self.buckets] if len(self._forms) > 1 else []
        text = json.dumps([stories, *forms, *chosen, self._seed], sort_keys=True)
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
        draw, form = _draw_unit(self._seed, "clip", epoch, story, scene), self._forms[self.buckets[story]]
        request = ClipRequest(
            video=shot.video,
            identity=scanned.identity,
            frames=form.rule.pick(scanned.found, span_of(shot, scanned.found), draw=draw),
            size=form.size,
        )
        return Clip(shot=shot, sha256=scanned.found.sha256, request=request)

    def _check_shot(self, shot: Shot) -> None:
        reason = why_unusable(shot, self._scanned[shot.video].found)
        if reason:
            self.reject(shot.video, reason)

    def _form_of(self, group: ShotGroup) -> int:
        """Choose the form of a group; the first one while none of its videos can be read."""
        readable = [shot for shot in group.shots if isinstance(self._scanned[shot.video].found, VideoFacts)]
        if not readable or len(self._forms) == 1:
            return 0
        first = self._scanned[readable[0].video].found
        assert isinstance(first, VideoFacts)
        distances = [abs(math.log(form.size.width / form.size.height / first.shape)) for form in self._forms]
        nearest = [form for form, each in enumerate(distances) if each - min(distances) < _SAME_SHAPE]
        by_length = sorted(nearest, key=lambda form: -self._forms[form].rule.num_frames)
        fitting = [
            form for form in by_length if not any(self._unsuitable_for(shot, form) for shot in readable)
        ]
        return fitting[0] if fitting else by_length[-1]

    def _suitable_runs(self, group: ShotGroup, form: int) -> list[tuple[Shot, ...]]:
        runs: list[list[Shot]] = [[]]
        for shot in group.shots:
            if self._suits(shot, form):
                runs[-1].append(shot)
            else:
                runs.append([])
        return [tuple(run) for run in runs if len(run) >= self._least_scenes]

    def _suits(self, shot: Shot, form: int) -> bool:
        # Broken ones are kept, so that their story has the same index once the file is repaired.
        reason = self._unsuitable_for(shot, form)
        if reason:
            reject = Reject(video=shot.video, place=shot.place, reason=reason, is_broken=False)
            self._unsuitable.append(reject)
        return not reason

    def _unsuitable_for(self, shot: Shot, form: int) -> str:
        found = self._scanned[shot.video].found
        if isinstance(found, Broken):
            return ""
        part = (shot.video, shot.start_s, shot.end_s, form)
        if part not in self._reasons:
            self._reasons[part] = why_unsuitable(shot, found, self._forms[form].rule)
        return self._reasons[part]

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
            window
            for other in range(*story_range)
            if self.buckets[other] == self.buckets[story]
            for window in self._sound_windows(other, length)
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

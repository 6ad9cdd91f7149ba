"""A story as one token sequence `[T1..Tn | V1..Vn]`, and a boolean matrix: which segment may attend to which.

The dense mask, the plan of unmasked attention calls and the digest are all derived from the matrix
`may_attend`. The rules of the masks are in `m2d.masks`; `m2d.model.attention` executes the plan.

There are n scenes, numbered from 0; `T_i` and `V_i` are the text and the video tokens of scene i.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from m2d.masks import MASKS, LayoutError, Segment, Span, rule_of

__all__ = ["MASKS", "AttentionCall", "LayoutError", "SceneLayout", "Segment", "Span", "merged"]

_DIGEST_VERSION = "m2d.layout/1"


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One unmasked attention: every query token sees every key token.

    Attributes:
        queries: Token spans, ascending, not adjacent to each other.
        keys: Token spans, ascending, not adjacent to each other.
    """

    queries: tuple[Span, ...]
    keys: tuple[Span, ...]


@dataclass(frozen=True, kw_only=True)
class SceneLayout:
    """All segments of a story and which may attend to which. `SceneLayout.build` makes it.

    Equal layouts have equal digests. The class has no slots, because derived values are cached in `__dict__`:
    the plan is read in every layer of every step.

    Attributes:
        mask: One of `MASKS`, with a number for k.
        text_tokens: Prompt tokens of each scene, padding included.
        latent_frames: Latent frames of each scene.
        tokens_per_frame: Video tokens of one latent frame, or of `frames_per_token` of them together.
        frames_per_token: Latent frames that a token spans.

    Raises:
        LayoutError: An unknown mask, no scene, lists of different lengths, a length below 1, or latent frames
            that are not cut into whole tokens.
    """

    mask: str
    text_tokens: tuple[int, ...]
    latent_frames: tuple[int, ...]
    tokens_per_frame: int
    frames_per_token: int = 1

    @classmethod
    def build(
        cls,
        mask: str,
        *,
        text_tokens: Sequence[int],
        latent_frames: Sequence[int],
        tokens_per_frame: int,
        frames_per_token: int = 1,
    ) -> SceneLayout:
        """Lay out a story; see the class for arguments and errors."""
        return cls(
            mask=mask,
            text_tokens=tuple(operator.index(count) for count in text_tokens),
            latent_frames=tuple(operator.index(count) for count in latent_frames),
            tokens_per_frame=operator.index(tokens_per_frame),
            frames_per_token=operator.index(frames_per_token),
        )

    def __post_init__(self) -> None:
        rule_of(self.mask)
        if not self.text_tokens:
            raise LayoutError("text_tokens: no scene; a layout needs at least one")
        if len(self.text_tokens) != len(self.latent_frames):
            raise LayoutError(
                f"latent_frames: {len(self.latent_frames)} numbers, but text_tokens has "
                f"{len(self.text_tokens)}; give both one per scene"
            )
        _check_positive("text_tokens", self.text_tokens)
        _check_positive("latent_frames", self.latent_frames)
        if self.tokens_per_frame < 1:
            raise LayoutError(f"tokens_per_frame: {self.tokens_per_frame} is below 1; use 1 or more")
        for index, count in enumerate(self.latent_frames):
            if self.frames_per_token < 1 or count % self.frames_per_token:
                raise LayoutError(
                    f"latent_frames[{index}]: {count} is not a multiple of {self.frames_per_token}, "
                    "the latent frames that a token spans"
                )

    @property
    def num_scenes(self) -> int:
        """Number of scenes."""
        return len(self.text_tokens)

    @property
    def num_text_tokens(self) -> int:
        """Number of prompt tokens of all scenes; video tokens begin at this position."""
        return sum(self.text_tokens)

    @property
    def num_video_tokens(self) -> int:
        """Number of video tokens of all scenes."""
        return sum(self.latent_frames) // self.frames_per_token * self.tokens_per_frame

    @property
    def num_tokens(self) -> int:
        """Length of the whole sequence."""
        return self.num_text_tokens + self.num_video_tokens

    def text_span(self, scene: int) -> Span:
        """Token positions of a scene's prompt. Raises IndexError for an unknown scene."""
        return _span_of(self.text_tokens, scene)

    def frame_span(self, scene: int) -> Span:
        """Positions of a scene's latent frames along F. Raises IndexError for an unknown scene."""
        return _span_of(self.latent_frames, scene)

    def video_span(self, scene: int) -> Span:
        """Token positions of a scene's video. Raises IndexError for an unknown scene."""
        frames, before = self.frame_span(scene), self.num_text_tokens
        start, stop = (
            before + end // self.frames_per_token * self.tokens_per_frame
            for end in (frames.start, frames.stop)
        )
        return Span(start, stop)

    @cached_property
    def segments(self) -> tuple[Segment, ...]:
        """All segments in token order: texts, then videos. Together they cover the sequence without gaps."""
        scenes = range(self.num_scenes)
        texts = [_segment(scene, "text", "all", self.text_span(scene)) for scene in scenes]
        return (*texts, *(segment for scene in scenes for segment in self._video_segments(scene)))

    @cached_property
    def may_attend(self) -> npt.NDArray[np.bool_]:
        """The matrix, (segments, segments), read-only: a row per query segment, a column per key segment."""
        sees = rule_of(self.mask).may_attend
        matrix = np.array(
            [[sees(query, key) for key in self.segments] for query in self.segments], dtype=np.bool_
        )
        matrix.setflags(write=False)
        return matrix

    def dense(self) -> npt.NDArray[np.bool_]:
        """Expand the matrix to tokens, (L, L).

        For tests and small shapes: three scenes of CogVideoX-5B take 2.84 GB.
        """
        lengths = [len(segment.span) for segment in self.segments]
        return self.may_attend.repeat(lengths, axis=0).repeat(lengths, axis=1)

    def plan(self) -> tuple[AttentionCall, ...]:
        """Return unmasked attention calls that together compute the masked attention exactly.

        Every token is a query of exactly one call. Segments with identical key sets share a call: `mask2dit`
        makes 2n calls for n > 1 (`T_i` over `[T_i, V_i]`, `V_i` over `[T_i, every V]`), `full` makes one.
        """
        return self._plan

    def plan_for(self, scenes: Iterable[int]) -> tuple[AttentionCall, ...]:
        """Return the plan for the video queries of some scenes alone, with all their keys.

        If only these scenes are denoised, the last block needs no other rows, and leaving them out is exact.
        Positions count in the whole sequence.

        Raises:
            ValueError: No scene is given, or one is not in the story.
        """
        wanted = set(scenes)
        if not wanted or not wanted <= set(range(self.num_scenes)):
            raise ValueError(f"scenes {sorted(wanted)}: give one or more of 0 to {self.num_scenes - 1}")
        return self._calls([s.kind == "video" and s.scene in wanted for s in self.segments])

    def digest(self) -> str:
        """Return the SHA-256 (hex) of lengths, mask name and matrix; only equal layouts have equal digests.

        It covers the matrix so that artifacts become outdated if the rule of a mask ever changes.
        """
        return self._digest

    @cached_property
    def _plan(self) -> tuple[AttentionCall, ...]:
        return self._calls([True] * len(self.segments))

    @cached_property
    def _digest(self) -> str:
        content = {
            "version": _DIGEST_VERSION,
            "mask": self.mask,
            "text_tokens": self.text_tokens,
            "latent_frames": self.latent_frames,
            "tokens_per_frame": self.tokens_per_frame,
            "segments": [(segment.label, segment.start, segment.stop) for segment in self.segments],
            "may_attend": self.may_attend.astype(int).tolist(),
        }
        if self.frames_per_token > 1:
            # Left out otherwise: exported graphs from before this field keep their layout's digest.
            content["frames_per_token"] = self.frames_per_token
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _calls(self, is_wanted: Sequence[bool]) -> tuple[AttentionCall, ...]:
        queries_of: dict[bytes, list[int]] = {}
        for index, row in enumerate(self.may_attend):
            if is_wanted[index]:
                queries_of.setdefault(row.tobytes(), []).append(index)
        return tuple(
            AttentionCall(
                queries=merged(self.segments[index].span for index in indices),
                keys=merged(
                    self.segments[index].span for index in np.flatnonzero(self.may_attend[indices[0]])
                ),
            )
            for indices in queries_of.values()
        )

    def _video_segments(self, scene: int) -> list[Segment]:
        span = self.video_span(scene)
        if not rule_of(self.mask).splits_videos:
            return [_segment(scene, "video", "all", span)]
        middle = span.start + self.tokens_per_frame
        first = _segment(scene, "video", "first", Span(span.start, middle))
        if middle == span.stop:
            return [first]
        return [first, _segment(scene, "video", "rest", Span(middle, span.stop))]


def _check_positive(name: str, counts: Sequence[int]) -> None:
    for index, count in enumerate(counts):
        if count < 1:
            raise LayoutError(f"{name}[{index}]: {count} is below 1; every scene has at least one")


def _segment(
    scene: int, kind: Literal["text", "video"], part: Literal["all", "first", "rest"], span: Span
) -> Segment:
    return Segment(scene=scene, kind=kind, part=part, start=span.start, stop=span.stop)


def _span_of(counts: Sequence[int], scene: int) -> Span:
    if not 0 <= scene < len(counts):
        raise IndexError(f"scene {scene}: this layout has scenes 0 to {len(counts) - 1}")
    start = sum(counts[:scene])
    return Span(start, start + counts[scene])


def merged(spans: Iterable[Span]) -> tuple[Span, ...]:
    """Join ascending spans where they are adjacent."""
    runs: list[Span] = []
    for span in spans:
        if runs and runs[-1].stop == span.start:
            runs[-1] = Span(runs[-1].start, span.stop)
        else:
            runs.append(span)
    return tuple(runs)

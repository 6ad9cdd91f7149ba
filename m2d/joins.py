"""The transition from one scene to the next; other modules apply it to pixels and latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

JoinKind = Literal["cut", "crossfade", "continue"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Join:
    """The boundary between a scene and the one before it; it belongs to the later scene.

    Attributes:
        kind: `cut`; `crossfade` blends the last frames of one scene with the first of the next; `continue`
            starts the scene from the last frame of the one before it.
        num_frames: Frames that both scenes share in the film; only a crossfade has any.
    """

    kind: JoinKind = "cut"
    num_frames: int = 0

    def __post_init__(self) -> None:
        if (self.kind == "crossfade") != (self.num_frames > 0):
            raise ValueError(
                f"a {self.kind} of {self.num_frames} frames; a crossfade has at least one, others none"
            )


CUT = Join()

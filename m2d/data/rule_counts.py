"""What each rule of training would leave out of a data set whose videos have been decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from m2d.data.dataset_text import Shot
from m2d.data.decode import Broken, VideoFacts
from m2d.data.frame_sampling import ClipRule, FpsRule, OfficialRule, why_unsuitable
from m2d.data.scan import why_unusable


@dataclass(frozen=True, kw_only=True, slots=True)
class RuleCount:
    """What one rule of training would leave out; `examples` are all places with reasons."""

    rule: str
    num_shots: int
    num_dropped: int
    examples: tuple[str, ...]


def rule_counts(
    shots: Sequence[Shot], found: Sequence[VideoFacts | Broken], *, num_frames: int, fps: int
) -> list[RuleCount]:
    """Count what each rule would leave out.

    Args:
        found: What decoding the video of each shot gave.
        num_frames, fps: Of a training clip.
    """
    rules: dict[str, ClipRule] = {
        f"fps: {num_frames} frames at {fps} per second": FpsRule(fps=fps, num_frames=num_frames),
        "official SFT": OfficialRule(num_frames=num_frames, is_trimmed=False),
        "official pretraining": OfficialRule(num_frames=num_frames, is_trimmed=True),
    }
    pairs = list(zip(shots, found, strict=True))
    undecoded = [why_unusable(*pair) if isinstance(pair[1], Broken) else "" for pair in pairs]
    undescribed = [why_unusable(*pair) if isinstance(pair[1], VideoFacts) else "" for pair in pairs]
    counts = [
        _counted("can be decoded", shots, undecoded),
        _counted("is the described file", shots, undescribed),
        _without_caption(shots),
    ]
    for name, rule in rules.items():
        reasons = [
            why_unsuitable(shot, facts, rule) if isinstance(facts, VideoFacts) else ""
            for shot, facts in pairs
        ]
        counts.append(_counted(name, shots, reasons))
    return counts


def _without_caption(shots: Sequence[Shot]) -> RuleCount:
    empty = tuple(f"{shot.place}: has no caption" for shot in shots if not shot.caption.strip())
    return RuleCount(rule="has a caption", num_shots=len(shots), num_dropped=len(empty), examples=empty)


def _counted(rule: str, shots: Sequence[Shot], reasons: Sequence[str]) -> RuleCount:
    dropped = tuple(
        f"{shot.place}: {shot.video.name} {reason}"
        for shot, reason in zip(shots, reasons, strict=True)
        if reason
    )
    return RuleCount(rule=rule, num_shots=len(shots), num_dropped=len(dropped), examples=dropped)

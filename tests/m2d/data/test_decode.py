from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from benchmarks.broken_videos import KINDS, turn_video, write_video
from m2d.data.decode import (
    Broken,
    ClipRequest,
    ClipSize,
    Fit,
    VideoFacts,
    file_identity,
    read_clip,
    scan_video,
)

REASONS = {
    "empty": "has 0 bytes",
    "truncated": "is cut off|corrupt",
    "one-frame": "holds 1 frame that can be decoded; give a video, not a still picture",
    "audio-only": "holds no video, only audio",
    "turned-askew": "its display matrix does not turn by a right angle",
    "wrong-ending": "is not a film that can be read",
    "mutated": "corrupt",
}


def _clip(video: Path, *frames: int, fit: Fit = "cover", height: int = 32, width: int = 32) -> np.ndarray:
    size = ClipSize(height=height, width=width, fit=fit)
    request = ClipRequest(video=video, identity=file_identity(video), frames=frames, size=size)
    clip = read_clip(request)
    assert isinstance(clip, np.ndarray)
    return clip


def test_a_scan_tells_what_was_decoded(tmp_path: Path) -> None:
    facts = scan_video(write_video(tmp_path / "a.mp4", num_frames=12, fps=25, width=48))
    assert isinstance(facts, VideoFacts)
    assert (facts.num_frames, facts.width, facts.height) == (12, 48, 64)
    assert facts.fps == pytest.approx(25)
    assert facts.is_steady
    adapter = TypeAdapter(VideoFacts)
    assert adapter.validate_python(json.loads(json.dumps(asdict(facts)))) == facts


@pytest.mark.parametrize("seed", [3, 4])
@pytest.mark.parametrize("kind", sorted(REASONS))
def test_a_broken_video_is_told_with_its_reason(kind: str, seed: int, tmp_path: Path) -> None:
    video = tmp_path / "broken.mp4"
    KINDS[kind](video, seed)
    found = scan_video(video)
    assert isinstance(found, Broken)
    assert any(reason in found.reason for reason in REASONS[kind].split("|")), found.reason
    assert str(tmp_path) not in found.reason


def test_a_variable_rate_is_read_by_its_times(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", num_frames=4, times=[0, 1, 5, 6])
    facts = scan_video(video)
    assert isinstance(facts, VideoFacts)
    assert not facts.is_steady
    np.testing.assert_allclose(facts.times_s, np.array([0, 1, 5, 6]) / 8, atol=1e-3)
    assert any("frame rate varies" in note for note in facts.notes)


def test_the_frames_asked_for_come_back_in_order(tmp_path: Path) -> None:
    clip_PHWC = _clip(write_video(tmp_path / "a.mp4"), 1, 4, 8)
    # Frame i has the brightness 20 i and texture up to 11; the encoder's own error is below 4.
    np.testing.assert_allclose(clip_PHWC.mean((1, 2, 3)), [25.5, 85.5, 165.5], atol=4)


def test_a_turned_video_comes_upright(tmp_path: Path) -> None:
    video = turn_video(write_video(tmp_path / "a.mp4", width=96), degrees=90)
    facts = scan_video(video)
    assert isinstance(facts, VideoFacts)
    assert "turned by" in facts.notes[0]
    clip_PHWC = _clip(video, 0, height=96, width=64)
    assert clip_PHWC.shape == (1, 96, 64, 3)


def test_official_pads_a_narrow_video_with_black_and_cover_does_not(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", width=32)
    official_PHWC = _clip(video, 8, fit="official", height=32, width=64)
    # The short side stays 32 wide; of 64 rows the middle 32 are kept, and 16 columns a side are missing.
    assert not official_PHWC[:, :, :16].any()
    assert not official_PHWC[:, :, 48:].any()
    assert official_PHWC[:, :, 16:48].min() > 100
    assert _clip(video, 8, height=32, width=64).min() > 100


def test_a_video_changed_after_the_scan_is_told(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4")
    size = ClipSize(height=32, width=32, fit="cover")
    request = ClipRequest(video=video, identity=file_identity(video), frames=(0,), size=size)
    write_video(video, num_frames=5)
    found = read_clip(request)
    assert isinstance(found, Broken)
    assert "was changed after it was scanned" in found.reason

"""Sound of a film stays with the scenes that stay."""

from __future__ import annotations

import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

from m2d.errors import Interrupted
from m2d.tasks.inspect import inspect_film
from m2d.video.run_folder import run_folder_of
from m2d.video.sound import sound_tracks
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import PROMPTS, Stopping, Studio, open_studio

RATE = 44_100
FPS = 8


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def musical(studio: Studio) -> Path:
    """A film of three scenes of five frames, with music that goes on after its end."""
    return with_music(studio.generate(3, name="musical").film, seconds=3.0)


def tone(seconds: float, *, rate: int = RATE) -> np.ndarray:
    """Rises in pitch by 1 kHz a second, so that each place can be recognised."""
    times_s = np.arange(round(seconds * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 500 * (times_s**2 + times_s))).astype(np.float32)


def with_music(film: Path, *, seconds: float, codec: str = "aac", suffix: str = ".mp4") -> Path:
    """The film, its pictures copied, with two sound tracks."""
    target = film.with_name(f"{film.stem}-music{suffix}")
    with (
        av.open(str(film)) as source,
        av.open(str(target), "w", options={"movflags": "use_metadata_tags"}) as new,
    ):
        new.metadata.update(source.metadata)
        pictures = new.add_stream_from_template(source.streams.video[0])
        tracks = [new.add_stream(codec, rate=RATE, layout="mono") for _ in range(2)]
        tracks[0].metadata["language"] = "fra"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = pictures
                new.mux(packet)
        for track in tracks:
            for packet in encoded(tone(seconds), track):
                new.mux(packet)
    if run_folder_of(film).is_dir():
        run_folder_of(film).rename(run_folder_of(target))
    return target


def encoded(samples: np.ndarray, track: Any) -> list[av.Packet]:
    size = track.codec_context.frame_size or 1024
    kind = track.codec_context.format.name
    packets = []
    for start in range(0, len(samples), size):
        part = samples[None, start : start + size]
        part = part if kind == "fltp" else (part * 32_000).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(part, format=kind, layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        packets += track.encode(frame)
    return packets + track.encode(None)


def heard(film: Path, *, track: int = 0) -> np.ndarray:
    """The sound of a film from its first frame on, silence where there is none."""
    with av.open(str(film)) as container:
        parts = [
            (round(float(frame.pts * frame.time_base) * RATE), frame.to_ndarray()[0], frame.sample_rate)
            for frame in container.decode(audio=track)
        ]
    samples = np.zeros(max((start + len(part) * RATE // rate for start, part, rate in parts), default=0))
    for start, part, rate in parts:
        first = max(-start, 0)
        length = len(part) * RATE // rate
        taken = np.interp(np.arange(length) * rate / RATE, np.arange(len(part)), part)
        samples[start + first : start + length] = taken[first:]
    return samples


def pitch_hz(samples: np.ndarray, time_s: float) -> float:
    """The pitch around a time; 0 where it is silent."""
    part = samples[round((time_s - 0.04) * RATE) : round((time_s + 0.04) * RATE)]
    if len(part) < 0.07 * RATE or np.abs(part).max() < 0.05:
        return 0.0
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 1 << 15))
    return float(spectrum.argmax() * RATE / (1 << 15))


def expected_hz(time_s: float) -> float:
    return 1000 * time_s + 500


def assert_as_in_the_music(samples: np.ndarray, times_s: list[float], *, later_s: float = 0.0) -> None:
    for time_s in times_s:
        assert pitch_hz(samples, time_s + later_s) == pytest.approx(expected_hz(time_s), abs=30)


@pytest.mark.parametrize("track", [0, 1])
def test_added_scenes_are_silent_and_the_others_keep_their_sound(
    track: int, studio: Studio, musical: Path
) -> None:
    grown = studio.extend(musical, PROMPTS[5], out=studio.path(f"grown-{track}"))
    samples = heard(grown.film, track=track)
    assert_as_in_the_music(samples, [0.1, 0.9, 1.7])
    # Fifteen frames; the music was longer.
    assert len(samples) / RATE == pytest.approx(15 / FPS, abs=0.03)


def test_a_crossfade_out_of_the_last_scene_keeps_its_sound_to_the_end(studio: Studio, musical: Path) -> None:
    faded = studio.extend(musical, PROMPTS[5], join={"crossfade": 2}, out=studio.path("faded"))
    samples = heard(faded.film)
    assert_as_in_the_music(samples, [0.1, 1.7])
    assert len(samples) / RATE == pytest.approx(15 / FPS, abs=0.03)


def test_a_re_rolled_scene_keeps_the_sound_of_its_time(studio: Studio, musical: Path) -> None:
    changed = studio.reroll(musical, 1, out=studio.path("changed"))
    assert_as_in_the_music(heard(changed.film), [0.1, 0.6, 0.9, 1.3, 1.7])
    assert [track.codec for track in sound_tracks(changed.film)] == ["aac", "aac"]
    assert sound_tracks(changed.film)[0].language == "fra"


def test_sound_is_the_same_after_a_stop_and_when_the_film_is_replaced(studio: Studio, musical: Path) -> None:
    grown = studio.extend(musical, PROMPTS[5], out=studio.path("whole"))
    out = studio.path("stopped")
    with pytest.raises(Interrupted):
        studio.extend(musical, PROMPTS[5], out=out, reporter=Stopping(stage_to_stop="decode"))
    resumed = studio.extend(musical, out=out, resume=True)
    assert resumed.film.read_bytes() == grown.film.read_bytes()
    studio.extend(out, PROMPTS[6], out=out, force=True)
    assert np.array_equal(heard(out), heard(grown.film))


def test_new_scenes_alone_have_no_sound_and_this_is_said(studio: Studio, musical: Path) -> None:
    reporter = RecordingReporter()
    alone = studio.extend(musical, PROMPTS[5], only_new=True, out=studio.path("alone"), reporter=reporter)
    assert sound_tracks(alone.film) == ()
    assert "its sound is left out" in reporter.notes


def test_subtitles_are_left_out_and_this_is_said(studio: Studio, musical: Path) -> None:
    subtitles = studio.path("words").with_suffix(".srt")
    subtitles.write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    spoken = musical.with_name("spoken.mp4")
    inputs = ["-i", str(musical), "-i", str(subtitles), "-map", "0", "-map", "1", "-map_metadata", "0"]
    subprocess.run(
        [
            *(imageio_ffmpeg.get_ffmpeg_exe(), *inputs, "-c", "copy", "-c:s", "mov_text"),
            *("-movflags", "use_metadata_tags", str(spoken)),
        ],
        check=True,
        capture_output=True,
    )
    reporter = RecordingReporter()
    studio.extend(spoken, PROMPTS[5], out=studio.path("silent"), reporter=reporter)
    assert "left out: 1 subtitle track" in reporter.notes


def test_inspect_lists_sound_tracks(musical: Path) -> None:
    found = inspect_film(musical)
    first, second = found.sound
    assert str(first) == f"aac, mono, 44100 Hz, {first.duration_s:.1f} s, fra"
    assert second.language == ""
    assert first.duration_s == pytest.approx(3.0, abs=0.05)


def external(studio: Studio, name: str, *, codec: str, suffix: str) -> Path:
    """A video of three scenes of 0.5, 1.0 and 1.5 seconds at 24 frames per second, with sound."""
    path = studio.path(name)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for index in range(72):
            frame_HWC = np.full((48, 64, 3), 60 + 80 * ((index >= 12) + (index >= 36)), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgb24")))
        container.mux(stream.encode())
    return with_music(path, seconds=3.0, codec=codec, suffix=suffix)


@pytest.mark.parametrize(
    ("codec", "suffix", "kept_as"),
    [("aac", ".mp4", "aac"), ("pcm_s16le", ".mov", "aac"), ("flac", ".mkv", "flac")],
)
def test_an_external_video_keeps_its_sound(codec: str, suffix: str, kept_as: str, studio: Studio) -> None:
    video = external(studio, f"holiday-{kept_as}-{suffix[1:]}", codec=codec, suffix=suffix)
    longer = studio.extend(video, "a dog", cuts_s=(0.5, 1.5))
    samples = heard(longer.film)
    assert_as_in_the_music(samples, [0.1, 0.5, 0.9, 1.5, 2.9])
    assert len(samples) / RATE == pytest.approx(3.0, abs=0.06)
    assert {track.codec for track in sound_tracks(longer.film)} == {kept_as}


def test_scenes_after_a_shorter_one_move_with_their_sound(studio: Studio) -> None:
    """The first scene becomes nine frames long instead of four, the last one instead of twelve."""
    video = external(studio, "moved", codec="aac", suffix=".mp4")
    longer = studio.extend(video, "a dog", fit="model", cuts_s=(0.5, 1.5))
    result = studio.reroll(longer.film, 0, prompts=("a cat",))
    assert [scene.num_frames for scene in result.provenance.scenes] == [9, 8, 12, 9]
    samples = heard(result.film)
    assert_as_in_the_music(samples, [0.1, 0.4])
    assert pitch_hz(samples, 0.8) == 0.0
    assert_as_in_the_music(samples, [0.6, 1.5, 2.9], later_s=5 / FPS)

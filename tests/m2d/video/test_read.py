"""Reading a film opens that film and nothing else, and says what is wrong with it."""

from __future__ import annotations

import io
import json
import os
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.joins import Join
from m2d.video import read
from m2d.video.digests import canonical_json
from m2d.video.film_frames import film_frames
from m2d.video.open_film import FilmError
from m2d.video.provenance import ProvenanceError, seal_provenance
from m2d.video.read import probe
from tests.m2d.video.grown_films import GENERATE, grown, write_grown
from tests.m2d.video.small_clips import ffmpeg, pattern, retagged

WriteFilm = Callable[..., Path]


def test_probe_tells_without_decoding(film: WriteFilm) -> None:
    info = probe(film())
    assert (info.codec, info.width, info.height, info.fps, info.num_frames) == ("h264", 96, 64, 8, 15)
    assert info.duration_s == pytest.approx(1.875)
    assert info.size_bytes > 1000
    assert info.provenance is not None


def test_frames_that_an_edit_list_hides_are_not_in_the_film(film: WriteFilm, tmp_path: Path) -> None:
    tags = ("-map_metadata", "0", "-movflags", "use_metadata_tags")
    ffmpeg("-ss", 1, "-i", film(), "-c", "copy", *tags, tmp_path / "cut.mp4")
    with av.open(tmp_path / "cut.mp4") as container:
        shown = sum(1 for _ in container.decode(video=0))
        assert shown < container.streams.video[0].frames
    with pytest.raises(ProvenanceError, match=rf"describes 15 frames of 96x64, the film has {shown} frames"):
        probe(tmp_path / "cut.mp4")


def test_scenes_that_share_frames_each_have_all_of_theirs(tmp_path: Path) -> None:
    joins = {1: Join(kind="crossfade", num_frames=2)}
    provenance, shown = grown((GENERATE,), (0, 0, 0), joins=joins)
    film = read_film(write_grown(tmp_path / "film.mp4", provenance, shown))
    lengths = [scene.num_frames for scene in provenance.scenes]
    assert [len(frames_PHWC) for frames_PHWC in film.scenes] == lengths
    assert len(film.frames_PHWC) == sum(lengths) - 2
    assert (film.scenes[1][:2] == film.scenes[0][-2:]).all()


def test_film_of_somebody_else_is_read_at_its_own_size(tmp_path: Path) -> None:
    path = tmp_path / "holiday.mkv"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=25:duration=1", "-metadata", "comment=By me", path)
    film = read_film(path)
    assert film.frames_PHWC.shape == (25, 48, 64, 3)
    assert film.provenance is None
    assert film.chapters == ()
    assert len(film.scenes) == 1
    assert film.timestamps_s[-1] == pytest.approx(24 / 25, abs=0.001)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.webm", "libvpx"), ("a.webm", "libvpx-vp9"), ("a.avi", "mpeg4"), ("a.mov", "libx265")],
)
def test_common_formats_are_read(tmp_path: Path, name: str, codec: str) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=0.5", "-c:v", codec, tmp_path / name)
    assert read_film(tmp_path / name).frames_PHWC.shape == (5, 48, 64, 3)


def test_colours_of_a_foreign_film_are_not_shifted(tmp_path: Path) -> None:
    path = tmp_path / "grey.mp4"
    ffmpeg("-f", "lavfi", "-i", "color=0x808080:size=64x48:rate=5:duration=1", path)
    assert abs(int(read_film(path).frames_PHWC.mean()) - 128) <= 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile secret.mp4\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
        (
            "list.mp4",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
            'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4">'
            '<Representation id="1" bandwidth="1"><BaseURL>secret.mp4</BaseURL></Representation>'
            "</AdaptationSet></Period></MPD>",
        ),
        ("list.mp4", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5000 RTP/AVP 96\n"),
        ("list.mp4", "just a letter to a friend"),
        ("list.mp4", ";FFMETADATA1\ntitle=x\n"),
    ],
)
def test_text_named_like_a_film_is_refused_and_opens_nothing(
    film: WriteFilm, tmp_path: Path, name: str, text: str
) -> None:
    secret = film("secret.mp4")
    os.utime(secret, (1, secret.stat().st_mtime))
    (tmp_path / name).write_text(text)
    with pytest.raises(FilmError, match=r"list\.mp4: is not a film that can be read .*; give a complete MP4"):
        read_film(tmp_path / name)
    assert secret.stat().st_atime == 1


@pytest.mark.parametrize(
    "name", ["concat:a.mp4|b.mp4", "subfile,,start,0,end,9,,:a.mp4", "http://x/a.mp4", "-i"]
)
def test_file_name_is_never_an_address(name: str) -> None:
    with pytest.raises(FilmError, match="does not exist; give a video file"):
        read_film(Path(name))


def test_strange_file_name_is_only_a_name(film: WriteFilm, tmp_path: Path) -> None:
    path = film().rename(tmp_path / "concat:%d|b \n\u2603.mp4")
    assert len(read_film(path).frames_PHWC) == 15


def test_missing_empty_and_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(FilmError, match=r"empty\.mp4: has 0 bytes"):
        read_film(tmp_path / "empty.mp4")
    with pytest.raises(FilmError, match="is a folder"):
        read_film(tmp_path)
    with pytest.raises(FilmError, match=r"gone\.mp4: does not exist"):
        probe(tmp_path / "gone.mp4")


def test_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(FilmError, match="is not a file"):
        read_film(tmp_path / "pipe.mp4")


def test_audio_alone_is_refused_even_with_a_cover(tmp_path: Path) -> None:
    sound = ("-f", "lavfi", "-i", "sine=duration=0.2")
    ffmpeg(*sound, tmp_path / "song.mp4")
    with pytest.raises(FilmError, match=r"song\.mp4: holds no video, only audio"):
        read_film(tmp_path / "song.mp4")
    cover = ("-f", "lavfi", "-i", "color=red:size=16x16:duration=0.04", "-map", "0", "-map", "1")
    ffmpeg(
        *sound,
        *cover,
        "-c:v",
        "mjpeg",
        "-disposition:v",
        "attached_pic",
        "-frames:v",
        "1",
        tmp_path / "b.mp4",
    )
    with pytest.raises(FilmError, match=r"b\.mp4: holds no video, only a cover picture and audio;"):
        read_film(tmp_path / "b.mp4")
    ffmpeg("-i", pattern(tmp_path / "bars.mp4"), "-t", 0, tmp_path / "none.mp4")
    with pytest.raises(FilmError, match=r"none\.mp4: holds no frame and no sound; give a video file"):
        probe(tmp_path / "none.mp4")


def test_rare_codecs_are_never_decoded(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:duration=0.2", "-c:v", "magicyuv", tmp_path / "rare.mkv")
    with pytest.raises(FilmError, match=r"the codec magicyuv is not read; convert it to one of av1, dnxhd"):
        read_film(tmp_path / "rare.mkv")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_cut_off_film_is_refused(film: WriteFilm, tmp_path: Path, share: float) -> None:
    data = film().read_bytes()
    short = tmp_path / "short.mp4"
    short.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FilmError, match=r"short\.mp4: is cut off"):
        read_film(short)


def test_film_cut_off_anywhere_in_its_index_is_called_cut_off(tmp_path: Path) -> None:
    whole, short = tmp_path / "whole.mp4", tmp_path / "short.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", whole)
    data = whole.read_bytes()
    for size_bytes in range(data.rindex(b"moov"), len(data), 7):
        short.write_bytes(data[:size_bytes])
        with pytest.raises(FilmError, match=r"short\.mp4: is cut off"):
            read_film(short)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_film_of_a_phone_is_upright(tmp_path: Path, degrees: int) -> None:
    plain, tagged, turned = (tmp_path / f"{name}.mp4" for name in ("plain", "tagged", "turned"))
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=5:duration=0.4", "-qp", "0", plain)
    ffmpeg("-display_rotation", str(degrees), "-i", plain, "-c", "copy", tagged)
    # Without the tag, as the frames are shown.
    ffmpeg("-i", tagged, "-qp", "0", turned)
    frames_PHWC = read_film(tagged).frames_PHWC
    assert frames_PHWC.shape == ((2, 64, 48, 3) if degrees in (90, 270) else (2, 48, 64, 3))
    assert np.array_equal(frames_PHWC, np.rot90(read_film(plain).frames_PHWC, degrees // 90, axes=(1, 2)))
    difference = np.abs(frames_PHWC.astype(int) - read_film(turned).frames_PHWC)
    assert difference.mean() < 2


def test_cut_off_film_with_its_index_at_the_end_is_refused(tmp_path: Path) -> None:
    whole, short = tmp_path / "whole.mp4", tmp_path / "short.mp4"
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=1", whole)
    short.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(FilmError, match=r"short\.mp4: is cut off"):
        probe(short)


def test_too_large_pictures_are_refused(tmp_path: Path) -> None:
    ffmpeg("-f", "lavfi", "-i", "color=size=8194x16:rate=10:duration=0.2", tmp_path / "wide.mp4")
    with pytest.raises(FilmError, match="8194x16 pixels; at most 8192 a side are allowed"):
        probe(tmp_path / "wide.mp4")


def test_a_file_without_bytes_for_what_it_announces_is_refused(film: WriteFilm, tmp_path: Path) -> None:
    path, gap = film(has_provenance=False), tmp_path / "gap.mkv"
    with av.open(path) as old, av.open(gap, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.pts is not None and packet.dts is not None:
                # Every frame comes days after the one before it.
                packet.pts, packet.dts, packet.stream = 10**6 * packet.pts, 10**6 * packet.dts, stream
                new.mux(packet)
    with pytest.raises(FilmError, match=r"gap\.mkv: announces [\d.]+ hours in [\d,]+ bytes; its header or"):
        probe(gap)
    data = bytearray(path.read_bytes())
    count = data.index(b"stts") + 12
    assert int.from_bytes(data[count : count + 4], "big") == 15
    sizes = data.index(b"stsz") + 8
    # One size for ten million samples, which takes no table.
    data[sizes : sizes + 8] = (1).to_bytes(4, "big") + (10**7).to_bytes(4, "big")
    data[count : count + 4] = (10**7).to_bytes(4, "big")
    (tmp_path / "many.mp4").write_bytes(data)
    with pytest.raises(FilmError, match=r"many\.mp4: announces 10,000,000 frames in [\d,]+ bytes"):
        probe(tmp_path / "many.mp4")


def test_frames_come_one_by_one(film: WriteFilm) -> None:
    path = film(has_provenance=False)
    frames = list(film_frames(path))
    whole = read_film(path)
    assert tuple(frame.time_s for frame in frames) == whole.timestamps_s
    assert all(
        (frame.rgb(upscale=1) == other).all() for frame, other in zip(frames, whole.frames_PHWC, strict=True)
    )
    assert frames[0].thumbnail(side=20).shape == (20, 20, 3)


def test_what_a_caller_does_wrong_with_a_frame_is_not_blamed_on_the_film(film: WriteFilm) -> None:
    def misused() -> None:
        for _ in film_frames(film()):
            raise ValueError("the caller's own")

    with pytest.raises(ValueError, match="the caller's own"):
        misused()


def test_probe_tells_of_sound_and_of_pixels_that_are_not_square(film: WriteFilm, tmp_path: Path) -> None:
    info = probe(film())
    assert (info.has_sound, info.pixel_aspect) == (False, 1)
    path = tmp_path / "dvd.mp4"
    picture = ("-f", "lavfi", "-i", "testsrc=size=48x32:duration=0.2,setsar=16/11")
    ffmpeg(*picture, "-f", "lavfi", "-i", "sine=duration=0.2", path)
    info = probe(path)
    assert (info.has_sound, info.pixel_aspect) == (True, Fraction(16, 11))


def test_mutated_films_are_read_or_refused_but_never_crash(film: WriteFilm, tmp_path: Path) -> None:
    data = film().read_bytes()
    chance = random.Random(7)
    path = tmp_path / "mutated.mp4"
    refused = 0
    for _ in range(150):
        mutated = bytearray(data)
        for _ in range(chance.choice([1, 4, 30])):
            mutated[chance.randrange(len(mutated))] = chance.randrange(256)
        path.write_bytes(mutated)
        try:
            read_film(path)
        except (FilmError, ProvenanceError):
            refused += 1
    assert refused > 10


def test_copied_film_keeps_its_provenance_in_the_comment(film: WriteFilm, tmp_path: Path) -> None:
    path = film()
    ffmpeg("-i", path, "-c", "copy", tmp_path / "copy.mp4")
    copied = read_film(tmp_path / "copy.mp4")
    assert copied.provenance == probe(path).provenance
    assert len(copied.chapters) == 3
    ffmpeg("-i", path, "-c", "copy", tmp_path / "copy.mkv")
    assert read_film(tmp_path / "copy.mkv").provenance == probe(path).provenance


def test_provenance_that_lies_about_the_film_is_refused(film: WriteFilm, tmp_path: Path) -> None:
    path = film()
    provenance = probe(path).provenance
    assert provenance is not None
    fewer = provenance.model_copy(update={"scenes": provenance.scenes[:2]})
    lie = retagged(path, tmp_path / "lie.mp4", {"m2d.recipe": seal_provenance(fewer)})
    with pytest.raises(ProvenanceError, match=r"\.mp4: .*describes 10 frames of 96x64, the film"):
        read_film(lie)
    larger = provenance.model_copy(update={"video": provenance.video.model_copy(update={"upscale": 3})})
    lie = retagged(path, tmp_path / "lie.mp4", {"m2d.recipe": seal_provenance(larger)})
    with pytest.raises(ProvenanceError, match="of 72x48, the film has 15 frames of 96x64"):
        probe(lie)


def test_frames_are_counted_where_the_container_has_no_index(film: WriteFilm, tmp_path: Path) -> None:
    ffmpeg("-i", film(), "-c", "copy", "-frames:v", 7, tmp_path / "part.mkv")
    with pytest.raises(ProvenanceError, match="describes 15 frames of 96x64, the film has 7 frames of 96x64"):
        probe(tmp_path / "part.mkv")


def test_damaged_provenance_is_refused(film: WriteFilm, tmp_path: Path) -> None:
    path = film()
    provenance = probe(path).provenance
    assert provenance is not None
    text = seal_provenance(provenance).replace("walks right", "walks left")
    broken = retagged(path, tmp_path / "broken.mp4", {"comment": text})
    with pytest.raises(ProvenanceError, match="corrupt"):
        probe(broken)


def test_library_is_told_the_allowlists(monkeypatch: pytest.MonkeyPatch, film: WriteFilm) -> None:
    seen = {}
    real = av.open

    def spy(file: object, *arguments: object, **options: object) -> object:
        seen.update(options)
        return real(file, *arguments, **options)

    path = film()
    monkeypatch.setattr(read.av, "open", spy)
    probe(path)
    assert seen["options"] == {
        "protocol_whitelist": "file",
        "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,mxf,gif",
    }


def test_chapter_titles_of_foreign_films_are_made_printable(film: WriteFilm, tmp_path: Path) -> None:
    path = tmp_path / "chapters.mp4"
    with av.open(film()) as old, av.open(path, "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        new.metadata["title"] = "\x1b[31mred\nline"
        new.set_chapters(
            [
                {
                    "id": 1,
                    "start": 0,
                    "end": 9,
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": "a\x1b[2Jb"},
                }
            ]
        )
        for packet in old.demux(video=0):
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    info = probe(path)
    assert info.title == "[31mred line"
    assert [chapter.title for chapter in info.chapters] == ["a[2Jb"]


def test_canonical_json_is_what_a_film_carries(film: WriteFilm) -> None:
    with av.open(io.BytesIO(film().read_bytes())) as container:
        text = container.metadata["m2d.recipe"]
        assert text == container.metadata["comment"]
    assert canonical_json(json.loads(text)) == text

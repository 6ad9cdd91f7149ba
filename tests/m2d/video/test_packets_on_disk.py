"""Packets that stay on disk are the same as those that are held."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest

from benchmarks.decoded_film import read_film
from m2d.video import packets
from m2d.video.packets import Packet, PacketStore, cut_packets, read_packets
from m2d.video.write import encode_scenes, write_film

WriteFilm = Callable[..., Path]


def stored(*data: bytes) -> PacketStore:
    store = PacketStore(io.BytesIO())
    for index, each in enumerate(data):
        store.append(Packet(each, index == 0))
    return store


def test_what_was_put_in_comes_out_in_any_order_and_from_any_part() -> None:
    store = stored(b"one", b"", b"three")
    assert list(store) == [Packet(b"one", True), Packet(b"", False), Packet(b"three", False)]
    assert store[-1] == Packet(b"three", False)
    part = store[1:]
    store.append(Packet(b"four", False))
    assert (len(store), list(part)) == (4, [Packet(b"", False), Packet(b"three", False)])


def test_a_file_that_was_cut_off_meanwhile_is_an_error_and_no_shorter_packet() -> None:
    file = io.BytesIO()
    store = PacketStore(file)
    store.append(Packet(b"whole", True))
    file.truncate(3)
    with pytest.raises(OSError, match="cut off while it was read"):
        store[0]


def test_packets_of_a_large_film_stay_in_its_file(film: WriteFilm, monkeypatch: pytest.MonkeyPatch) -> None:
    path = film(upscale=2)
    held = read_packets(path)
    monkeypatch.setattr(packets, "LARGEST_HELD_BYTES", 0)
    header, store = read_packets(path)
    assert isinstance(store, PacketStore)
    assert (header, list(store)) == (held[0], list(held[1]))
    # Whatever gets its name: what was read is read on.
    path.unlink()
    path.write_bytes(b"another film")
    assert list(store) == list(held[1])


def test_packets_of_a_file_of_another_form_are_held(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path, other = film(upscale=2), tmp_path / "other.mkv"
    held = read_packets(path)
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    subprocess.run([ffmpeg, "-loglevel", "error", "-i", path, "-c", "copy", other], check=True)
    monkeypatch.setattr(packets, "LARGEST_HELD_BYTES", 0)
    assert [packet.data for packet in read_packets(other)[1]] == [packet.data for packet in held[1]]


def test_a_film_from_stored_packets_is_the_same_to_the_last_byte(
    film: WriteFilm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = film(upscale=2)
    facts = {"fps": 8, "upscale": 2, "title": "t", "scene_prompts": ["a", "b", "c", "d"], "force": True}
    (new,) = encode_scenes([read_film(path).frames_PHWC[:4]], tmp_path / "film.mp4", fps=8, upscale=2)
    written = []
    for limit in (1 << 20, 0):
        monkeypatch.setattr(packets, "LARGEST_HELD_BYTES", limit)
        copies = cut_packets(*read_packets(path), [5, 5, 5])
        write_film(tmp_path / "new.mp4", [*copies, new], provenance=None, **facts)  # type: ignore[arg-type]
        written.append((tmp_path / "new.mp4").read_bytes())
    assert written[0] == written[1]


def test_frames_are_picked_without_the_others(tmp_path: Path, film: WriteFilm) -> None:
    frames_PHWC = read_film(film(upscale=2)).frames_PHWC[:5]
    (encoded,) = encode_scenes([frames_PHWC], tmp_path / "film.mp4", fps=8, upscale=2)
    whole_PHWC = encoded.frames(upscale=2)
    picked = encoded.picked([0, 2, 2, 4], upscale=2)
    assert all((found == whole_PHWC[index]).all() for found, index in zip(picked, [0, 2, 2, 4], strict=True))

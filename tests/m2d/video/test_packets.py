"""An encoded scene stands for itself: it can be copied into another film, cut short, and told from others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks.decoded_film import read_film
from m2d.video.encode import encoding_id
from m2d.video.packets import EncodedScene, ForeignPackets, read_packets, read_scenes
from m2d.video.provenance import Provenance
from m2d.video.read import probe
from m2d.video.write import encode_scenes, write_film

WriteFilm = Callable[..., Path]


def drawn(num_scenes: int, *, num_frames: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 256, (num_frames, 8, 12, 3), dtype=np.uint8) for _ in range(num_scenes)]


def write(path: Path, scenes: list[np.ndarray | EncodedScene]) -> Path:
    write_film(
        path,
        scenes,
        fps=8,
        upscale=2,
        title="A film",
        scene_prompts=["x"] * len(scenes),
        provenance=None,
        force=True,
    )
    return path


def told(path: Path, encoded: list[EncodedScene]) -> Provenance:
    """The film's provenance, as if it told of these packets."""
    provenance = probe(path).provenance
    assert provenance is not None
    scenes = [
        scene.model_copy(update={"packets_sha256": part.digest()})
        for scene, part in zip(provenance.scenes, encoded, strict=True)
    ]
    video = provenance.video.model_copy(update={"encoding": encoding_id()})
    return provenance.model_copy(update={"scenes": tuple(scenes), "video": video})


def test_a_scene_is_encoded_alike_whatever_is_around_it(tmp_path: Path) -> None:
    one, two, three = drawn(3)
    alone = encode_scenes([two], tmp_path / "film.mp4", fps=8, upscale=2)[0]
    between = encode_scenes([one, two, three], tmp_path / "film.mp4", fps=8, upscale=2)[1]
    assert alone.digest() == between.digest()


def test_a_film_with_copied_scenes_is_the_same_to_the_last_byte(tmp_path: Path) -> None:
    scenes = drawn(3)
    whole = write(tmp_path / "whole.mp4", list(scenes))
    first = write(tmp_path / "first.mp4", list(scenes[:2]))
    header, packets = read_packets(first)
    copies = [
        EncodedScene(header=header, packets=tuple(packets[:5])),
        EncodedScene(header=header, packets=tuple(packets[5:])),
    ]
    grown = write(tmp_path / "grown.mp4", [*copies, scenes[2]])
    assert grown.read_bytes() == whole.read_bytes()


def test_a_scene_cut_short_shows_its_first_frames_unchanged(tmp_path: Path) -> None:
    (encoded,) = encode_scenes(drawn(1), tmp_path / "film.mp4", fps=8, upscale=2)
    short = encoded.first(3)
    assert len(short) == 3
    assert np.array_equal(short.frames(upscale=2), encoded.frames(upscale=2)[:3])
    film = write(tmp_path / "film.mp4", [short])
    assert len(read_film(film).frames_PHWC) == 3
    assert tuple(read_packets(film)[1]) == encoded.packets[:3]


def test_scenes_are_read_back_as_they_were_written(film: WriteFilm, tmp_path: Path) -> None:
    scenes = drawn(2)
    path = film(scenes=scenes, upscale=2)
    encoded = encode_scenes(scenes, tmp_path / "film.mp4", fps=8, upscale=2)
    found = read_scenes(path, told(path, encoded), encoding=encoding_id())
    assert [scene.digest() for scene in found] == [scene.digest() for scene in encoded]
    assert np.array_equal(found[1].frames(upscale=2), read_film(path).frames_PHWC[5:])


def test_pictures_that_were_encoded_again_are_not_taken_for_those_written(
    film: WriteFilm, tmp_path: Path
) -> None:
    path = film(scenes=drawn(2), upscale=2)
    others = encode_scenes(drawn(3)[1:], tmp_path / "film.mp4", fps=8, upscale=2)
    with pytest.raises(ForeignPackets, match="its pictures were encoded again since it was written"):
        read_scenes(path, told(path, others), encoding=encoding_id())


def test_a_film_that_was_encoded_otherwise_is_not_copied(film: WriteFilm, tmp_path: Path) -> None:
    scenes = drawn(2)
    path = film(scenes=scenes, upscale=2)
    provenance = told(path, encode_scenes(scenes, tmp_path / "film.mp4", fps=8, upscale=2))
    with pytest.raises(ForeignPackets, match="encoded with other settings or another encoder"):
        read_scenes(path, provenance, encoding="0" * 64)


def test_scenes_of_another_size_cannot_share_a_film(tmp_path: Path) -> None:
    small, large = (
        encode_scenes(drawn(1), tmp_path / "film.mp4", fps=8, upscale=upscale)[0] for upscale in (2, 4)
    )
    with pytest.raises(ValueError, match="none is newly encoded, or their encodings differ"):
        write(tmp_path / "film.mp4", [small, large])


def test_every_packet_is_one_frame_and_every_scene_begins_with_a_key_frame(tmp_path: Path) -> None:
    (encoded,) = encode_scenes(drawn(1, num_frames=251), tmp_path / "film.mp4", fps=8, upscale=2)
    assert len(encoded) == len(list(encoded.pictures())) == 251
    assert encoded.packets[0].is_key

"""Encode a scene too long for memory: in pieces, each checked and then kept on disk only.

H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from m2d.disk import output_errors
from m2d.errors import OutputError
from m2d.files import nameless_file
from m2d.video.encode import Picture, encode_scene
from m2d.video.packet_store import PacketStore
from m2d.video.packets import EncodedScene
from m2d.video.write import check_pictures

# The distance of key frames in any other scene.
_PIECE = 250


def encode_long_scene(
    frames: Iterator[np.ndarray], *, num_frames: int, store: PacketStore, film: Path, picture: Picture
) -> EncodedScene:
    """Encode one scene piece by piece; each piece is decoded again and compared with its frames.

    Args:
        frames: Its frames, uint8 RGB HWC; the first `num_frames` are taken.
        num_frames: At least one.
        store: Receives the packets.
        film: The film they are for; the encoder's temporary output lies beside it.
        picture: Size and rate.

    Returns:
        The scene; like a copied scene, it has no template and needs no further check.

    Raises:
        OutputError: The encoder failed, the disk is full, or the packets do not show the given frames.
    """
    first = len(store)
    header = b""
    for begin in range(0, num_frames, _PIECE):
        piece = itertools.islice(frames, min(_PIECE, num_frames - begin))
        header = _append(piece, store, film=film, picture=picture, first_frame=begin)
    return EncodedScene(header=header, packets=store[first:])


def _append(
    frames: Iterator[np.ndarray], store: PacketStore, *, film: Path, picture: Picture, first_frame: int
) -> bytes:
    """Encode a piece into the store, and return its header."""
    with nameless_file(film.parent) as stream:
        piece = encode_scene(frames, stream, picture)
    assert piece.sketches_PHW is not None
    try:
        check_pictures(film, piece, piece.sketches_PHW, first_frame=first_frame, upscale=picture.upscale)
    except av.FFmpegError as error:
        raise OutputError(f"{film}: the encoded frames cannot be decoded: {error}; try again") from error
    with output_errors(film):
        for packet in piece.packets:
            store.append(packet)
    return piece.header

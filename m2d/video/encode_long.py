"""Encode a scene that is too long to be held: in pieces, each of which is checked and then only on disk.

Owns the pieces; how frames become packets is the business of `encode`. H height, W width, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np

from m2d.errors import OutputError
from m2d.files import nameless_file, writing
from m2d.video.encode import Picture, encode_scene
from m2d.video.packet_store import PacketStore
from m2d.video.packets import EncodedScene
from m2d.video.write import check_pictures

# Key frames are as far apart as in any other scene.
_PIECE = 250


def encode_long_scene(
    frames: Iterator[np.ndarray], *, num_frames: int, store: PacketStore, film: Path, picture: Picture
) -> EncodedScene:
    """Encode one scene, holding one piece of it at a time; what is encoded is decoded and compared.

    Args:
        frames: Its frames, uint8 RGB HWC; so many are taken as are asked for.
        num_frames: At least one.
        store: Gets the packets.
        film: What they are for; the encoder's output lies beside it for a moment.
        picture: Size and rate.

    Returns:
        The scene; like a copied one, it has no template and needs no further check.

    Raises:
        OutputError: The encoder failed, the disk refused, or the packets do not show what was given.
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
        raise OutputError(f"{film}: what was encoded cannot be decoded: {error}; try again") from error
    with writing(film):
        for packet in piece.packets:
            store.append(packet)
    return piece.header

"""The containers and codecs that are read: one list for the library, for folders of clips and for messages.

A decoder that is not listed never sees a file. Formats that name other files or addresses are left out.
"""

from __future__ import annotations

MOV_FORMATS = ("mov", "mp4", "m4a", "3gp", "3g2", "mj2")
# The demuxers of FFmpeg, each with the names that its files have.
_SUFFIXES: dict[tuple[str, ...], tuple[str, ...]] = {
    MOV_FORMATS: ("mp4", "mov", "m4v", "3gp"),
    ("matroska", "webm"): ("mkv", "webm"),
    ("avi",): ("avi",),
    ("mpegts",): ("ts", "mts", "m2ts"),
    ("mpeg",): ("mpg", "mpeg", "vob"),
    ("mpegvideo",): ("m2v", "m1v"),
    ("ogg",): ("ogv", "ogg"),
    ("mxf",): ("mxf",),
    ("gif",): ("gif",),
}
DEMUXERS = tuple(demuxer for demuxers in _SUFFIXES for demuxer in demuxers)
# Animated WebP, which FFmpeg does not read.
WEBP_SUFFIX = ".webp"
VIDEO_SUFFIXES = (*(f".{suffix}" for suffixes in _SUFFIXES.values() for suffix in suffixes), WEBP_SUFFIX)
CODECS = frozenset(
    {
        *("h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mjpeg"),
        *("prores", "dnxhd", "ffv1", "mpeg1video", "mpeg2video", "theora", "gif"),
    }
)
FORMATS_IN_WORDS = "MP4, MOV, MKV, WebM, AVI, MPEG, MXF, Ogg, GIF or WebP"

"""Keep absolute paths, host names and user names out of a film's metadata."""

from __future__ import annotations

import getpass
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from m2d.errors import InputError

_STORY_KEYS = frozenset({"title", "setting", "cast", "prompt", "prompts", "negative_prompt"})
_ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'=:,;(\[])(?:/\S|~\w*/|[A-Za-z]:[\\/]|\\\\\S|file:/)")


class PrivacyError(InputError):
    """A path, host or user name would become part of a film."""


def local_names() -> frozenset[str]:
    """Return this machine's host name, long and short, and the user's name, as far as known."""
    host = socket.gethostname()
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container's user id need not have a name.
        user = ""
    return frozenset({host, host.split(".", maxsplit=1)[0], user}) - {""}


def refuse_private(document: Mapping[str, Any], *, names: frozenset[str]) -> None:
    """Check that `document` holds no absolute path, host name or user name.

    The story's own words (title, setting, cast, prompts) are not checked: they are the film's content.

    Args:
        names: Host and user names to refuse, as whole values or around an `@`.

    Raises:
        PrivacyError: It holds one; the message names the place.
    """
    for place, text in _strings(document, place="provenance"):
        if _ABSOLUTE_PATH.search(text):
            raise PrivacyError(f"{place}: {text!r} holds an absolute path; give a name or relative path")
        if any(text == name or f"{name}@" in text or f"@{name}" in text for name in names):
            raise PrivacyError(f"{place}: {text!r} is a host or user name; leave it out")


def without_folders(value: Any, *, key: str = "") -> Any:
    """Return the JSON value of `key` with each absolute path shortened, except in the story's own words."""
    if key in _STORY_KEYS:
        return value
    if isinstance(value, Mapping):
        return {name: without_folders(item, key=str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [item if _is_prompt(key, item) else without_folders(item) for item in value]
    return last_part(value) if isinstance(value, str) else value


def last_part(text: str) -> str:
    """Return the last part of an absolute path or of one from `~`; any other text is unchanged."""
    if PurePosixPath(text).is_absolute() or re.match(r"~\w*/", text):
        return PurePosixPath(text).name
    if PureWindowsPath(text).is_absolute():
        return PureWindowsPath(text).name
    return text


def _strings(value: object, *, place: str, key: str = "") -> Iterator[tuple[str, str]]:
    if key in _STORY_KEYS:
        return
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield f"{place} key", str(name)
            yield from _strings(item, place=f"{place}.{name}", key=str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            if not _is_prompt(key, item):
                yield from _strings(item, place=f"{place}[{index}]")


def _is_prompt(key: str, item: object) -> bool:
    # A recipe may give a scene as its prompt alone.
    return key == "scenes" and isinstance(item, str)

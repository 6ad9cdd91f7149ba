"""Text types of recipe fields, each with its check: prompts, names, file names.

Checks form only; whether a file or a model exists is checked when the run is planned.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from m2d.devices import DEVICE_NAMES, is_device_name
from m2d.limits import LARGEST_SEED
from m2d.masks import MASKS, LayoutError, rule_of
from m2d.recipe.places import forbidden_character, is_invisible, name_character, show, shows_nothing

MAX_SEED = LARGEST_SEED
DEFAULT_MODEL = "builtin:puppet-large"
"""The model of a story that names none."""

QUANTIZE_NAMES = ("none", "fp8", "int8")

_MAX_NAME_CHARACTERS = 32
# File systems allow 255 bytes; the folder and the temporary name beside the film need room for their endings.
_MAX_OUTPUT_BYTES = 200
_MAX_SLUG_BYTES = 120
_RESERVED_NAMES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_BACKEND = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_MODELS = "builtin:puppet-large, builtin:puppet"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:|//|\\\\")


def _words_or_nothing(text: str) -> str:
    """Check a text and replace every run of white space by one space."""
    found = forbidden_character(text)
    if found is not None:
        raise ValueError(f"holds the forbidden character {name_character(found)}; remove it")
    return " ".join(text.split())


def _words(text: str) -> str:
    words = _words_or_nothing(text)
    if not words:
        raise ValueError("is empty; write at least one word")
    if shows_nothing(words):
        raise ValueError(f"holds {name_character(words[0])}, which shows nothing; write at least one word")
    return words


def _actor_name(name: str) -> str:
    if not name.isidentifier() or len(name) > _MAX_NAME_CHARACTERS:
        hint = ""
        if " " in name:
            hint = "; inside {braces}, a description with a comma needs quotes"
        raise ValueError(
            f"{show(name)} is no actor's name; use one word of letters and digits such as Actor1{hint}"
        )
    return name


def _output_name(name: str) -> str:
    wrong = _wrong_output(name)
    if wrong:
        raise ValueError(
            f"{show(name)} {wrong}; give a file name such as first-snow.mp4 (the command line takes any path)"
        )
    return name


def _wrong_output(name: str) -> str:
    if any(character in '/\\:*?"<>|' for character in name):
        return 'holds one of / \\ : * ? " < > |'
    if forbidden_character(name) is not None or not name.isprintable():
        return "holds characters that cannot be shown"
    if name != name.strip() or name.startswith((".", "~", "-")):
        return "starts or ends with a space, a dot, ~ or -"
    if _RESERVED_NAMES.fullmatch(name):
        return "is reserved by Windows"
    if len(name.encode("utf-8", "replace")) > _MAX_OUTPUT_BYTES:
        return f"is longer than {_MAX_OUTPUT_BYTES} bytes"
    if not name.endswith(".mp4") or name[:-4] != name[:-4].rstrip(" ."):
        return "does not end in .mp4"
    return ""


def out_problem(out: Path) -> str:
    """Say why a path cannot be that of a film, beyond its folder; empty if it can."""
    if out.suffix.lower() == ".mp4":
        return ""
    other = "" if out.suffix else " is no folder that exists, and"
    return f"{str(out)!r}{other} does not end in .mp4; films are MP4 files"


def _mask(name: str) -> str:
    try:
        rule_of(name)
    except LayoutError:
        # The mask's own message would repeat the field name.
        allowed = ", ".join(MASKS)
        raise ValueError(
            f"{show(name)} is not known; use one of {allowed} (k from 1, such as window:2)"
        ) from None
    return name


def _model(name: str) -> str:
    if forbidden_character(name) is not None or not name.strip() or "\n" in name or "\t" in name:
        raise ValueError(f"{show(name)} is no model; use {_MODELS} or the path of a model folder")
    if _URL.match(name) and not name.startswith("builtin:"):
        raise ValueError(
            f"{show(name)} is an address; models are local: use {_MODELS} or the path of a model folder"
        )
    return name


def _image(name: str) -> str:
    if forbidden_character(name) is not None or not name.strip() or "\n" in name:
        raise ValueError(f"{show(name)} is no file name; give a picture such as first.png")
    if _URL.match(name):
        raise ValueError(f"{show(name)} is an address; download the picture and give its path")
    return name


def _lora_path(path: str) -> str:
    if forbidden_character(path) is not None or not path.strip() or _URL.match(path):
        raise ValueError(f"{show(path)} is no path of a file; LoRAs are local safetensors files")
    return path


def _quantize(name: str) -> str:
    if name in QUANTIZE_NAMES:
        return name
    if forbidden_character(name) is not None or not name.lower().endswith(".gguf") or _URL.match(name):
        raise ValueError(f"{show(name)} is not known; use {', '.join(QUANTIZE_NAMES)} or a local .gguf file")
    return name


def _device(name: str) -> str:
    if not is_device_name(name):
        raise ValueError(f"{show(name)} is not known; use {DEVICE_NAMES}")
    return name


def _backend(name: str) -> str:
    if not _BACKEND.fullmatch(name):
        raise ValueError(f"{show(name)} is no backend's name, such as eager; use a-z, 0-9, _ and -")
    return name


def default_output(title: str) -> str:
    """Return the film's file name for a recipe without `output`: `first-snow.mp4` for `First snow!`.

    Letters and digits of every script stay, if the file system can write them; everything else becomes a
    hyphen.
    """
    text = unicodedata.normalize("NFC", title).lower()
    encoding = sys.getfilesystemencoding()
    slug = ""
    for character in text.encode(encoding, "replace").decode(encoding):
        slug += character if _is_of_a_word(character, after=slug) else "-"
    slug = re.sub(r"-+", "-", slug).strip("-")
    slug = _shortened(slug, max_bytes=_MAX_SLUG_BYTES).rstrip("-")
    if not slug or _RESERVED_NAMES.fullmatch(slug):
        return f"story-{slug}.mp4" if slug else "story.mp4"
    return f"{slug}.mp4"


def _is_of_a_word(character: str, *, after: str) -> bool:
    """Whether a character is a letter, a digit, or a mark of one, as vowels are in Hindi or Thai."""
    if is_invisible(character):
        return False
    kind = unicodedata.category(character)
    return kind[0] in "LN" or (kind in {"Mn", "Mc"} and after[-1:] not in {"", "-"})


def _shortened(text: str, *, max_bytes: int) -> str:
    """Return the start of a text, cut between characters and without a mark that has lost its letter."""
    while len(text.encode("utf-8", "replace")) > max_bytes:
        text = text[:-1]
    return text


Title = Annotated[str, StringConstraints(max_length=200), AfterValidator(_words)]
Phrase = Annotated[str, StringConstraints(max_length=500), AfterValidator(_words)]
Prompt = Annotated[str, StringConstraints(max_length=5000), AfterValidator(_words)]
NegativePrompt = Annotated[str, StringConstraints(max_length=5000), AfterValidator(_words_or_nothing)]
ActorName = Annotated[str, AfterValidator(_actor_name)]
OutputName = Annotated[str, AfterValidator(_output_name)]
MaskName = Annotated[str, AfterValidator(_mask)]
ModelName = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_model)]
ImagePath = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_image)]
LoraPath = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_lora_path)]
QuantizeName = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_quantize)]
DeviceName = Annotated[str, AfterValidator(_device)]
BackendName = Annotated[str, AfterValidator(_backend)]

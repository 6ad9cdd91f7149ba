"""Provenance as text: sealed with its own digest, and validated completely when it is read.

Owns the text form; `provenance` owns the schema, `write` and `read` the tags of the film that hold it.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from pydantic import ValidationError

from m2d.video.digests import canonical_json, text_digest
from m2d.video.printable import printable
from m2d.video.provenance import SCHEMA_VERSION, Provenance, ProvenanceError

LONGEST_TEXT_BYTES = 16 << 20


def seal_provenance(provenance: Provenance) -> str:
    """Write the canonical JSON of `provenance` with its own sha256 inside; ASCII only."""
    document = provenance.model_dump(mode="json")
    return canonical_json({**document, "sha256": text_digest(canonical_json(document))})


def parse_provenance(text: str) -> Provenance:
    """Read and validate the text of `seal_provenance`.

    Raises:
        ProvenanceError: Not JSON, of another schema version, corrupt, or with scenes that do not follow each
            other.
    """
    document = _load_json(text)
    if document.get("m2d_provenance") != SCHEMA_VERSION:
        version = printable(str(document.get("m2d_provenance")), limit=40)
        raise ProvenanceError(f"provenance of version {version}; this m2d reads version {SCHEMA_VERSION}")
    recorded = document.pop("sha256", None)
    try:
        found = text_digest(canonical_json(document))
    except (ValueError, RecursionError) as error:
        raise ProvenanceError("the provenance is not plain JSON") from error
    if recorded != found:
        raise ProvenanceError(
            "the provenance is corrupt: its sha256 does not match; it was changed after writing"
        )
    try:
        provenance = Provenance.model_validate(document)
    except ValidationError as error:
        raise ProvenanceError(f"the provenance is not one of m2d: {_first_problem(error)}") from error
    _check_ranges(provenance)
    return provenance


def is_provenance(text: str) -> bool:
    """Whether `text` looks like provenance and not like a comment by another program."""
    return text.startswith("{") and '"m2d_provenance"' in text


def _load_json(text: str) -> dict[str, Any]:
    if len(text) > LONGEST_TEXT_BYTES:
        raise ProvenanceError(
            f"the provenance is {len(text)} characters long; {LONGEST_TEXT_BYTES} are allowed"
        )
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProvenanceError("the provenance is not JSON") from error
    if not isinstance(document, dict):
        raise ProvenanceError(f"the provenance is a {type(document).__name__}, not a JSON object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"]) or "document"
    return printable(f"{place}: {problem['msg']}", limit=200)


def _check_ranges(provenance: Provenance) -> None:
    """Check that scenes follow each other, and that their runs and windows exist."""
    expected = 0
    for index, scene in enumerate(provenance.scenes):
        expected -= scene.overlap
        if scene.first_frame != expected:
            raise ProvenanceError(
                f"scenes[{index}] of the provenance begins at frame {scene.first_frame}, not at {expected}"
            )
        if scene.run >= len(provenance.runs):
            raise ProvenanceError(
                f"scenes[{index}] of the provenance is of run {scene.run}, which does not exist"
            )
        if index == 0 and scene.join == "crossfade":
            raise ProvenanceError("scenes[0] of the provenance is a crossfade with nothing before it")
        if (scene.join == "crossfade") != (scene.overlap > 0) or scene.overlap >= scene.num_frames:
            raise ProvenanceError(
                f"scenes[{index}] of the provenance is a {scene.join} that shares {scene.overlap} frames"
            )
        expected += scene.num_frames
    windows = [window for run in provenance.runs for window in run.windows]
    if any(not set(window.targets) <= set(window.scenes) for window in windows):
        raise ProvenanceError("a run of the provenance made scenes that it did not see")
    numbers = [number for window in windows for number in window.scenes]
    if max(numbers, default=0) >= provenance.first_scene + len(provenance.scenes):
        raise ProvenanceError(f"a run of the provenance made scene {max(numbers)}, which is not in the film")

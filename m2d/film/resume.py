"""Decide whether an unfinished run can be resumed, and from which state.

Owns the decision and its messages; `journal_contents` reads the journal's files, `journal` writes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from m2d.errors import InputError, OutputError, Remedy
from m2d.files import remove_file
from m2d.film.journal_contents import JournalContents, scan_journal
from m2d.film.journal_folder import (
    DENOISER,
    MACHINES,
    CorruptFileError,
    Header,
    discard,
    journal_folder_of,
    read_header,
    write_header,
)
from m2d.film.outputs import check_replaceable
from m2d.progress import Reporter
from m2d.recipe.backend_choice import DtypeName
from m2d.recipe.model_choice import MODEL_FIELDS
from m2d.video.run_folder import RECORD, run_folder_of

# `_differences` names a difference by its path in the journal's header.
_OF_A_RUN = re.compile(r"runs\[\d+\]\.")
_RECIPE = re.compile(r"runs\[\d+\]\.recipe\.")
_MAX_LISTED = 3
_MAX_VALUE_LENGTH = 60
_ABSENT = object()


def refuse_unfinished(film: Path) -> None:
    """Refuse to overwrite an unfinished run of `film`.

    Raises:
        OutputError: There is an unfinished run; the message says how far it got.
    """
    folder = journal_folder_of(film)
    try:
        header = read_header(folder)
    except CorruptFileError as error:
        raise OutputError(
            f"{film}: an unfinished run is here, but {error}", remedy=Remedy.DISCARD_RUN
        ) from error
    if header is None:
        return
    contents = scan_journal(folder, header).contents
    if not contents.is_empty:
        raise OutputError(
            f"{film}: an unfinished run is here: {contents.progress(header)}", remedy=Remedy.RESUME_OR_DISCARD
        )


def resume_unfinished(film: Path, wanted: Header, reporter: Reporter) -> tuple[Header, JournalContents]:
    """Resume the unfinished run of `film`; return its header and the verified contents of its journal.

    The reporter receives how far the run got, and warnings about corrupt files, other versions and another
    processor.

    Raises:
        InputError: There is no run to resume, or its request is not the `wanted` one.
        OutputError: The film exists and this run did not write it, or the disk refused.
    """
    folder = journal_folder_of(film)
    header = _unfinished_header(film, folder)
    _check_same(film, header, wanted)
    _warn_of_versions(header, wanted, reporter)
    scan = scan_journal(folder, header)
    for problem in scan.problems:
        reporter.warn(f"{problem}; it is not used")
    check_replaceable(film, force=wanted.force or header.force or scan.contents.output is not None)
    # Once the missing window before them is recomputed, they would be read as its continuation.
    for path in scan.unusable:
        remove_file(path)
    versions = tuple(version for version in wanted.versions if version not in header.versions)
    extended = replace(header, versions=header.versions + versions, force=header.force or wanted.force)
    if extended != header:
        write_header(folder, extended)
    reporter.note(f"resuming the unfinished run: {scan.contents.progress(header)}")
    return extended, scan.contents


def begun_dtypes(film: Path) -> list[DtypeName | None]:
    """Return what every run of the unfinished `film` began to compute in; nothing if that cannot be read.

    Raises:
        OutputError: The run folder cannot be read.
    """
    try:
        header = read_header(journal_folder_of(film))
    except CorruptFileError:
        # `resume_unfinished` reports it, with a remedy.
        return []
    if header is None:
        return []
    stored = [run.get("parameters", {}).get("dtype") for run in header.request.get("runs", ())]
    return [name if name in get_args(DtypeName) else None for name in stored]


def _unfinished_header(film: Path, folder: Path) -> Header:
    try:
        header = read_header(folder)
    except CorruptFileError as error:
        raise InputError(
            f"{film}: the unfinished run cannot be resumed: {error}", remedy=Remedy.DISCARD_RUN
        ) from error
    if header is not None:
        return header
    # An interrupted `finish` can leave files without a header.
    discard(folder)
    is_complete = film.is_file() and (run_folder_of(film) / RECORD).is_file()
    state = "the film is complete" if is_complete else "no unfinished run is there"
    raise InputError(f"{film}: nothing to resume: {state}", remedy=Remedy.START_RUN)


def _check_same(film: Path, header: Header, wanted: Header) -> None:
    steps = [{"window_steps": list(run.window_steps)} for run in (header, wanted)]
    requests = _without_models(*({**run.request, MACHINES: None} for run in (header, wanted)))
    differing = _differences(*requests) or _differences(*steps)
    if differing:
        raise InputError(
            f"{film}: the unfinished run has another request: {_listed(_without_consequences(differing))}",
            remedy=Remedy.REPEAT_OR_DISCARD,
        )


def _without_models(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Leave out the models of runs that denoise alike: the name of a folder, or a VAE that was repaired."""
    pairs = [_alike(*pair) for pair in zip(old.get("runs", ()), new.get("runs", ()), strict=False)]
    rests = [request.get("runs", [])[len(pairs) :] for request in (old, new)]
    return [
        {**request, "runs": [*(pair[side] for pair in pairs), *rests[side]]}
        for side, request in enumerate((old, new))
    ]


def _alike(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    recipe = old.get("recipe", {})
    if recipe and "context" not in recipe:
        # Earlier versions gave a model the last scenes alone; in short films the first is among them.
        is_same = old.get("windows") == new.get("windows")
        context = new.get("recipe", {}).get("context") if is_same else "recent"
        old = {**old, "recipe": {**recipe, "context": context}}
    if DENOISER in old and old[DENOISER] == new.get(DENOISER):
        return _without_model(old), _without_model(new)
    # Runs of earlier versions have the digest of the whole model alone.
    return dict(old), dict(new) | ({} if DENOISER in old else {DENOISER: _ABSENT})


def _without_model(run: Mapping[str, Any]) -> dict[str, Any]:
    recipe = {name: value for name, value in run.get("recipe", {}).items() if name not in MODEL_FIELDS}
    return {**run, "model": None, "recipe": recipe}


def _without_consequences(differing: Sequence[str]) -> list[str]:
    """Return the differences of the recipes by field; those of resolved parameters only if there are none."""
    fields = [_RECIPE.sub("", difference) for difference in differing if _RECIPE.match(difference)]
    return fields or [_OF_A_RUN.sub("", difference) for difference in differing]


def _warn_of_versions(header: Header, wanted: Header, reporter: Reporter) -> None:
    (current,) = wanted.versions
    differing = [difference for earlier in header.versions for difference in _differences(earlier, current)]
    machines = [run.request.get(MACHINES, ())[:1] for run in (header, wanted)]
    for old, new in zip(*machines, strict=False):
        # Threads are not compared: a resumed run keeps those that it began with.
        differing += _differences({**old, "num_threads": None}, {**new, "num_threads": None})
    if differing:
        reporter.warn(
            f"versions or processor changed since the run began: {_listed(list(dict.fromkeys(differing)))}; "
            "frames may differ from those of an uninterrupted run"
        )


def _differences(old: Any, new: Any, *, path: str = "") -> list[str]:
    """List the differences of two JSON values, each as its dotted path and both values."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            difference
            for key in sorted(old.keys() | new.keys())
            for difference in _differences(
                old.get(key, _ABSENT), new.get(key, _ABSENT), path=f"{path}.{key}" if path else key
            )
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [
            difference
            for index, pair in enumerate(zip(old, new, strict=True))
            for difference in _differences(*pair, path=f"{path}[{index}]")
        ]
    return [f"{path} was {_short(old)} and is {_short(new)}"]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, list) and value:
        return f"{len(value)} entries"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def _listed(differing: Sequence[str]) -> str:
    """Join the first few differences, and say how many more there are."""
    more = [f"and {len(differing) - _MAX_LISTED} more"] if len(differing) > _MAX_LISTED else []
    return "; ".join([*differing[:_MAX_LISTED], *more])

"""The contents of a journal: verified windows, the state between two steps, and the output to be written.

Owns reading and verifying the files; `journal` decides when they are written.
"""

# F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from m2d.diffusion.denoise import DenoiseState
from m2d.diffusion.step_cache import StepCacheReport
from m2d.film.journal_folder import (
    MADE,
    STEP,
    CorruptFileError,
    Header,
    files_of,
    is_there,
    read_document,
    read_made,
    read_tensors,
    unsealed_facts,
    window_path,
)
from m2d.pipeline.observer import FinishedWindow
from m2d.video.provenance import Sha256
from m2d.video.run_folder import LARGEST_SHEET_BYTES

_SCENE = "scene_"
_Read = TypeVar("_Read")
_OutputName = Annotated[str, Field(pattern=r"^(latents\.safetensors|sheet\.png|frames\.safetensors)$")]


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingOutput:
    """The film's provenance and the files of its run folder, complete before the first of them is written.

    Attributes:
        document: Provenance, timings and made scenes, as JSON.
        files: Name to bytes.
    """

    document: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Made:
    """The content of `made.json`: the output, and the digest and size of its files by name."""

    journal: str
    document: Mapping[str, Any]
    # They become names of files, so that no other may stand here.
    files: Mapping[_OutputName, Sha256]
    # Missing in journals of earlier versions.
    sizes: Mapping[str, Annotated[int, Field(ge=0)]] = field(default_factory=dict)


_MADE = TypeAdapter(_Made)


@dataclass(kw_only=True, slots=True)
class JournalContents:
    """Finished windows from the first without a gap, the last state of the next window, and the output."""

    windows: list[FinishedWindow] = field(default_factory=list)
    step: DenoiseState | None = None
    output: PendingOutput | None = None

    @property
    def is_empty(self) -> bool:
        """Whether discarding the journal loses no work."""
        return not self.windows and self.step is None

    def progress(self, header: Header) -> str:
        """Describe how far the run got."""
        if self.output is not None:
            return "all scenes are made, not all is written"
        if len(self.windows) == header.num_windows:
            return "all scenes are denoised"
        steps_done = 0 if self.step is None else self.step.steps_done
        window = f"window {len(self.windows) + 1} of {header.num_windows}"
        return f"{window}, {steps_done} of {header.window_steps[len(self.windows)]} steps"


@dataclass(kw_only=True, slots=True)
class JournalScan:
    """The result of reading a journal's files.

    Attributes:
        contents: What could be verified.
        problems: A message for every corrupt file.
        unusable: The corrupt files, and those that depend on a missing or corrupt one.
    """

    contents: JournalContents = field(default_factory=JournalContents)
    problems: list[str] = field(default_factory=list)
    unusable: list[Path] = field(default_factory=list)


def scan_journal(folder: Path, header: Header) -> JournalScan:
    """Read a journal; only files whose digests match are used."""
    scan = JournalScan()
    windows = scan.contents.windows
    for index in range(header.num_windows):
        path = window_path(folder, index)
        window = _verified(scan, path, partial(_read_window, path, header, index=index))
        if window is None:
            break
        windows.append(window)
    # A window depends on those before it: after a gap, recomputed windows could lead to another result.
    usable = {window_path(folder, window.index) for window in windows}
    written = [path for path in files_of(folder) if path.name.startswith("window-")]
    scan.unusable += [path for path in written if path not in usable]

    step, made = folder / STEP, folder / MADE
    scan.contents.step = _verified(scan, step, lambda: _read_step(step, header, window=len(windows)))
    scan.contents.output = _verified(scan, made, lambda: _read_output(made, header, len(windows)))
    return scan


def _verified(scan: JournalScan, path: Path, read: Callable[[], _Read | None]) -> _Read | None:
    """Read a file of the journal; None if it is missing, corrupt or depends on one that is."""
    if not is_there(path):
        return None
    try:
        contents = read()
    except CorruptFileError as error:
        scan.problems.append(str(error))
        contents = None
    if contents is None:
        scan.unusable.append(path)
    return contents


def window_bytes(header: Header, window: FinishedWindow) -> bytes:
    """Serialize a finished window for `write_tensors`."""
    tensors = {f"{_SCENE}{scene:03d}": latents for scene, latents in window.latents_FCHW.items()}
    speed = "" if window.speed is None else window.speed.to_json()
    # The key keeps the name it has in journals of earlier versions.
    data: bytes = save_safetensors(tensors, unsealed_facts(header, window=window.index, told=speed))
    return data


def step_bytes(header: Header, window: int, state: DenoiseState) -> bytes:
    """Serialize the state of a window between two steps for `write_tensors`."""
    facts = unsealed_facts(header, window=window, steps_done=state.steps_done)
    data: bytes = save_safetensors(dict(state.tensors), facts)
    return data


def _read_window(path: Path, header: Header, *, index: int) -> FinishedWindow:
    facts, tensors = _read_tensors(path, header)
    if facts.get("window") != str(index):
        raise CorruptFileError(f"{path}: belongs to window {facts.get('window')}")
    try:
        latents = {int(name.removeprefix(_SCENE)): each for name, each in sorted(tensors.items())}
        speed = StepCacheReport.from_json(facts["told"]) if facts.get("told") else None
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptFileError(f"{path}: does not hold the scenes of a window") from error
    if not all(each.dtype == torch.float32 and torch.isfinite(each).all() for each in latents.values()):
        raise CorruptFileError(f"{path}: its latents are not finite float32 numbers")
    return FinishedWindow(index=index, latents_FCHW=latents, speed=speed)


def _read_step(path: Path, header: Header, *, window: int) -> DenoiseState | None:
    """Read the state; None if it is that of another window."""
    facts, tensors = _read_tensors(path, header)
    try:
        saved_window, steps_done = int(facts["window"]), int(facts["steps_done"])
    except (KeyError, ValueError) as error:
        raise CorruptFileError(f"{path}: its metadata lacks the window or the step") from error
    if saved_window == window < header.num_windows and not 0 < steps_done < header.window_steps[window]:
        raise CorruptFileError(f"{path}: is of step {steps_done} of {header.window_steps[window]}")
    return DenoiseState(steps_done=steps_done, tensors=tensors) if saved_window == window else None


def _read_tensors(path: Path, header: Header) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    data, facts = read_tensors(path, header)
    try:
        return facts, load_safetensors(data)
    except SafetensorError as error:
        raise CorruptFileError(f"{path}: is not a safetensors file") from error


def _read_output(path: Path, header: Header, num_finished: int) -> PendingOutput | None:
    """Read the output; None if a window that it was made of is missing."""
    try:
        made = _MADE.validate_python(read_document(path))
    except ValidationError as error:
        raise CorruptFileError(f"{path}: is not the record of an output") from error
    if made.journal != header.journal:
        raise CorruptFileError(f"{path}: was written by another run")
    files = {
        name: read_made(path.parent, digest, limit_bytes=made.sizes.get(name, LARGEST_SHEET_BYTES))
        for name, digest in made.files.items()
    }
    is_complete = num_finished == header.num_windows
    return PendingOutput(document=made.document, files=files) if is_complete else None


def on_cpu(tensors: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """Copy tensors to the CPU, each with its own storage: safetensors rejects tensors that share storage."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }

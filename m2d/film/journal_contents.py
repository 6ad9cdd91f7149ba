"""What a journal holds that counts: read back, verified, and complete up to where the run was.

Owns what is believed of the files of a journal; when they are written is the business of `journal`.
"""

# F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from m2d.diffusion.denoise import DenoiseState
from m2d.diffusion.step_cache import SpeedReport
from m2d.film.journal_folder import (
    MADE,
    STEP,
    DamagedFileError,
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

_SCENE = "scene_"


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """Where the denoising of a window was.

    Attributes:
        window: Index of the window in the run.
        state: To resume `denoise` with; on the CPU.
    """

    window: int
    state: DenoiseState


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What was about to be written when everything was made.

    Attributes:
        document: Anything that is JSON.
        files: Bytes by name.
    """

    document: Mapping[str, Any]
    files: Mapping[str, bytes]


@dataclass(kw_only=True, slots=True)
class Kept:
    """What a journal holds that counts.

    Attributes:
        windows: Finished windows, from the first on without a gap.
        step: Where the window after them was when it was last kept.
        made: What was about to be written.
    """

    windows: list[FinishedWindow] = field(default_factory=list)
    step: StepRecord | None = None
    made: Made | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost without it."""
        return not self.windows and self.step is None

    def progress(self, header: Header) -> str:
        """How far the run got, in words."""
        if self.made is not None:
            return "all scenes are made, not all is written"
        if len(self.windows) == header.num_windows:
            return "all scenes are denoised"
        steps_done = 0 if self.step is None else self.step.state.steps_done
        window = f"window {len(self.windows) + 1} of {header.num_windows}"
        return f"{window}, {steps_done} of {header.window_steps[len(self.windows)]} steps"


@dataclass(kw_only=True, slots=True)
class Found:
    """A journal as it lies on disk.

    Attributes:
        kept: What counts.
        damaged: What is wrong with files that were changed since they were written.
        useless: Files that do not count, these among them.
    """

    kept: Kept = field(default_factory=Kept)
    damaged: list[str] = field(default_factory=list)
    useless: list[Path] = field(default_factory=list)


def find_kept(folder: Path, header: Header) -> Found:
    """Read a journal, believing nothing that its digests do not confirm."""
    found = Found()
    _find_windows(folder, header, found)
    _find_step(folder, header, found)
    _find_made(folder, header, found)
    return found


def _find_windows(folder: Path, header: Header, found: Found) -> None:
    windows = found.kept.windows
    for index in range(header.num_windows):
        path = window_path(folder, index)
        if is_there(path):
            with _noting_damage(found, path):
                windows.append(_read_window(path, header, index=index))
        if len(windows) <= index:
            break
    # A window was made from those before it: without them, it may not be what they would lead to now.
    counting = {window_path(folder, window.index) for window in windows}
    written = [path for path in files_of(folder) if path.name.startswith("window-")]
    found.useless += [path for path in written if path not in counting]


def _find_step(folder: Path, header: Header, found: Found) -> None:
    path = folder / STEP
    if not is_there(path):
        return
    with _noting_damage(found, path):
        record = _read_step(path, header)
        if record.window == len(found.kept.windows):
            found.kept.step = record
        else:
            found.useless.append(path)


def _find_made(folder: Path, header: Header, found: Found) -> None:
    path = folder / MADE
    if not is_there(path):
        return
    with _noting_damage(found, path):
        made = _read_made(path, header)
        if len(found.kept.windows) == header.num_windows:
            found.kept.made = made
        else:
            found.useless.append(path)


@contextmanager
def _noting_damage(found: Found, path: Path) -> Iterator[None]:
    try:
        yield
    except DamagedFileError as error:
        found.damaged.append(str(error))
        found.useless.append(path)


def window_bytes(header: Header, window: FinishedWindow) -> bytes:
    """Serialize a finished window for `write_tensors`."""
    tensors = {f"{_SCENE}{scene:03d}": latents for scene, latents in window.latents_FCHW.items()}
    speed = "" if window.speed is None else window.speed.to_json()
    # The key is `told` in every journal that was ever written.
    data: bytes = save_safetensors(tensors, unsealed_facts(header, window=window.index, told=speed))
    return data


def step_bytes(header: Header, record: StepRecord) -> bytes:
    """Serialize a step for `write_tensors`."""
    facts = unsealed_facts(header, window=record.window, steps_done=record.state.steps_done)
    data: bytes = save_safetensors(dict(record.state.tensors), facts)
    return data


def _read_window(path: Path, header: Header, *, index: int) -> FinishedWindow:
    facts, tensors = _read_tensors(path, header)
    if facts.get("window") != str(index):
        raise DamagedFileError(f"{path}: is of window {facts.get('window')}")
    latents = {int(name.removeprefix(_SCENE)): each for name, each in sorted(tensors.items())}
    speed = SpeedReport.from_json(facts["told"]) if facts.get("told") else None
    return FinishedWindow(index=index, latents_FCHW=latents, speed=speed)


def _read_step(path: Path, header: Header) -> StepRecord:
    facts, tensors = _read_tensors(path, header)
    try:
        window, steps_done = int(facts["window"]), int(facts["steps_done"])
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path}: does not tell its window and step") from error
    return StepRecord(window=window, state=DenoiseState(steps_done=steps_done, tensors=tensors))


def _read_tensors(path: Path, header: Header) -> tuple[Mapping[str, str], dict[str, Tensor]]:
    sealed = read_tensors(path, header)
    try:
        return sealed.facts, load_safetensors(sealed.data)
    except SafetensorError as error:
        raise DamagedFileError(f"{path}: is not a file of tensors") from error


def _read_made(path: Path, header: Header) -> Made:
    record = read_document(path)
    if record.get("journal") != header.journal:
        raise DamagedFileError(f"{path}: was written by another run")
    files = {name: read_made(path.parent, digest) for name, digest in record["files"].items()}
    return Made(document=record["document"], files=files)


def on_cpu(tensors: Mapping[Any, Tensor]) -> dict[Any, Tensor]:
    """Copies on the CPU, each in memory of its own: what shares memory cannot be serialized."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }

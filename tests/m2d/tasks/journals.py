"""A run of two windows, as its journal sees it: what is kept in which order, and what must be there after."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from m2d.diffusion.denoise import DenoiseState
from m2d.film.journal import Journal, open_journal
from m2d.pipeline.observer import FinishedWindow
from m2d.progress import SilentReporter

REQUEST = {
    "kind": "generate",
    "recipe": {"scenes": [{"prompt": "a fox"}, {"prompt": "an owl"}, {"prompt": "a hare"}], "seed": 7},
    "windows": [{"scenes": (0, 1)}, {"scenes": (0, 1, 2)}],
}
VERSIONS = {"m2d": "0.1.0", "torch": "2.11.0"}
DOCUMENT = {"frames_sha256": "00ff", "timings_s": {"decode": 1.5}}
FILES = {"sheet.png": b"\x89PNG" * 50}
LATER_FILES = {"sheet.png": b"\x89PNG" * 60, "frames.safetensors": b""}


@dataclass
class RecordingReporter(SilentReporter):
    """Keeps notes and warnings."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        self.notes.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def opened(film: Path, **changes: Any) -> AbstractContextManager[Journal]:
    settings: dict[str, Any] = {
        "request": REQUEST,
        "versions": VERSIONS,
        "window_steps": (8, 6),
        "resume": False,
        "force": False,
        "reporter": RecordingReporter(),
    }
    return open_journal(film, **(settings | changes))


def latents_of(seed: int) -> Tensor:
    """FCHW float32; any bits, as a tensor may hold them: NaNs with a payload, negative zeros, denormals."""
    stream = torch.Generator().manual_seed(seed)
    bits = torch.randint(-(2**31), 2**31 - 1, (2, 3, 2, 2), generator=stream, dtype=torch.int64)
    return bits.to(torch.int32).view(torch.float32)


def state_of(seed: int, *, steps_done: int) -> DenoiseState:
    counters = torch.tensor([2, 999, 2**62 + 1])
    tensors = {
        "latents_BFCHW": latents_of(seed)[None],
        "scene_000.model_outputs.0": latents_of(seed + 1),
        # Schedulers remember views of one tensor of timesteps, some of them as numbers.
        "scene_000.timestep_list.0": counters[1],
        "scene_000.timestep_list.1": counters[2],
        "scene_000._step_index.0": torch.tensor(steps_done),
        # Of the latents, a part whose memory is not in its own order.
        "scene_000.last_sample.0": latents_of(seed)[:, 1:].transpose(0, 1),
    }
    return DenoiseState(steps_done=steps_done, tensors=tensors)


WINDOWS = [{0: latents_of(10), 1: latents_of(11)}, {2: latents_of(12)}]
STEPS = [state_of(20, steps_done=5), state_of(30, steps_done=6), state_of(40, steps_done=5)]

Bits = tuple[tuple[Any, ...], ...]


def bits_of(tensors: Mapping[Any, Tensor]) -> Bits:
    return tuple(
        (name, tensor.dtype, tuple(tensor.shape), tensor.contiguous().numpy().tobytes())
        for name, tensor in sorted(tensors.items())
    )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What a journal gives back, bit for bit."""

    windows: tuple[Bits, ...] = ()
    step: tuple[int, int, Bits] | None = None
    made: tuple[Any, Any] | None = None


def snapshot_of(journal: Journal) -> Snapshot:
    point, made = journal.resume_point(), journal.output
    num_windows = len(point.windows)
    assert [window.index for window in point.windows] == list(range(num_windows))
    return Snapshot(
        windows=tuple(bits_of(window.latents_FCHW) for window in point.windows),
        step=None if point.state is None else _step(num_windows, point.state),
        made=None if made is None else (made.document, made.files),
    )


def finished(index: int, latents: Mapping[int, Tensor] | None = None) -> FinishedWindow:
    """A finished window: by default the one of that number in `WINDOWS`."""
    return FinishedWindow(index=index, latents_FCHW=WINDOWS[index] if latents is None else latents)


def _step(window: int, state: DenoiseState) -> tuple[int, int, Bits]:
    return (window, state.steps_done, bits_of(state.tensors))


_BITS = tuple(bits_of(latents) for latents in WINDOWS)

ACTIONS: tuple[tuple[Callable[[Journal], None], Snapshot], ...] = (
    (lambda journal: journal.keep_step(0, STEPS[0]), Snapshot(step=_step(0, STEPS[0]))),
    (lambda journal: journal.keep_step(0, STEPS[1]), Snapshot(step=_step(0, STEPS[1]))),
    (lambda journal: journal.keep_window(finished(0)), Snapshot(windows=_BITS[:1])),
    (
        lambda journal: journal.keep_step(1, STEPS[2]),
        Snapshot(windows=_BITS[:1], step=_step(1, STEPS[2])),
    ),
    (lambda journal: journal.keep_window(finished(1)), Snapshot(windows=_BITS)),
    (
        lambda journal: journal.keep_output(DOCUMENT, FILES),
        Snapshot(windows=_BITS, made=(DOCUMENT, FILES)),
    ),
    (
        lambda journal: journal.keep_output(DOCUMENT, LATER_FILES),
        Snapshot(windows=_BITS, made=(DOCUMENT, LATER_FILES)),
    ),
)
"""What is done with a journal, one after the other, and what it must give back from then on."""
EMPTY = Snapshot()


def keep(film: Path, count: int, **changes: Any) -> None:
    """Leave an unfinished run of the first `count` actions."""
    with opened(film, **changes) as journal:
        for action, _ in ACTIONS[:count]:
            action(journal)


def resumed(film: Path, **changes: Any) -> Snapshot:
    with opened(film, resume=True, **changes) as journal:
        assert journal.resumed
        return snapshot_of(journal)

"""The journal of a run: it saves finished windows and the state between two steps for a later resume.

Owns when each is saved. `resume` decides whether a run can be resumed, `journal_contents` reads the files.
"""

# F latent frames, C latent channels, H W latent height and width

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from m2d.diffusion.denoise import DenoiseState, StepEvent
from m2d.errors import Interrupted, M2DError, OutputError, Remedy, UnusableState
from m2d.files import check_writable, remove_file, remove_strays, write_bytes
from m2d.film.journal_contents import (
    JournalContents,
    PendingOutput,
    on_cpu,
    step_bytes,
    window_bytes,
)
from m2d.film.journal_folder import (
    MACHINES,
    MADE,
    STEP,
    Header,
    discard,
    files_of,
    journal_folder_of,
    made_path,
    window_path,
    write_document,
    write_header,
    write_tensors,
)
from m2d.film.outputs import check_replaceable
from m2d.film.resume import refuse_unfinished, resume_unfinished
from m2d.folders import make_folder
from m2d.lock import hold
from m2d.pipeline.observer import FinishedWindow, ResumePoint
from m2d.progress import Reporter
from m2d.video.run_folder import run_folder_of


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRhythm:
    """The state is saved after so many steps of a window, or so many seconds since the last save."""

    every_steps: int = 5
    every_s: float = 60.0

    def is_due(self, step: int, *, total: int, waited_s: float) -> bool:
        """Whether to save the state after `step` of `total`; the last step is saved with its window."""
        return step < total and (step % self.every_steps == 0 or waited_s >= self.every_s)


DEFAULT_RHYTHM = StepRhythm()


class Journal:
    """The journal of the current run; from `open_journal`."""

    def __init__(
        self,
        folder: Path,
        header: Header,
        contents: JournalContents,
        *,
        resumed: bool,
        rhythm: StepRhythm,
        reporter: Reporter,
    ) -> None:
        self._folder = folder
        self._header, self._contents = header, contents
        self.resumed = resumed
        """Whether the run continues an earlier one."""
        self.may_replace = header.force or contents.output is not None
        """Whether an existing film may be replaced: with `force`, or if this run may have written it."""
        self._rhythm = rhythm
        self._reporter = reporter
        self._saved_at_s = time.monotonic()

    def resume_point(self) -> ResumePoint:
        """Return the finished windows and the last state, for the pipeline to resume from."""
        return ResumePoint(windows=tuple(self._contents.windows), state=self._contents.step)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is saved that a run could resume from."""
        return self._contents.is_empty

    @property
    def num_threads(self) -> list[int]:
        """CPU threads with which every run of the job began; empty if an earlier version began it."""
        return [machine["num_threads"] for machine in self._header.request.get(MACHINES, ())]

    @property
    def output(self) -> PendingOutput | None:
        """The output that was about to be written; None if scenes are missing."""
        return self._contents.output

    def is_due(self, event: StepEvent) -> bool:
        """Whether to save the state after this step."""
        waited_s = time.monotonic() - self._saved_at_s
        return self._rhythm.is_due(event.step, total=event.total, waited_s=waited_s)

    def keep_step(self, window: int, state: DenoiseState) -> None:
        """Save the state between two steps of `window`, in place of the last one.

        Raises:
            OutputError: The disk refused; everything saved before is still valid.
            ValueError: Another window is being denoised.
        """
        self._check_window(window)
        saved = replace(state, tensors=on_cpu(state.tensors))
        write_tensors(self._folder / STEP, step_bytes(self._header, window, saved))
        self._contents.step = saved
        self._saved_at_s = time.monotonic()

    def keep_window(self, window: FinishedWindow) -> None:
        """Save the latents of a finished window, float32 FCHW; windows finish in order, as in `keep_step`."""
        index = window.index
        self._check_window(index)
        for scene, latents in window.latents_FCHW.items():
            if latents.ndim != 4 or latents.dtype != torch.float32:
                raise ValueError(
                    f"scene {scene}: {latents.dtype} {tuple(latents.shape)}; float32 FCHW is needed"
                )
        saved = replace(window, latents_FCHW=on_cpu(window.latents_FCHW))
        write_tensors(window_path(self._folder, index), window_bytes(self._header, saved))
        self._contents.windows.append(saved)
        self._contents.step = None
        self._saved_at_s = time.monotonic()

    def keep_output(self, document: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Save the output that is about to be written, in place of an earlier one."""
        finished, total = len(self._contents.windows), self._header.num_windows
        if finished < total:
            raise ValueError(f"{finished} of {total} windows are finished")
        digests = {name: sha256(data).hexdigest() for name, data in files.items()}
        for name, digest in digests.items():
            write_bytes(made_path(self._folder, digest), files[name])
        record = {"journal": self._header.journal, "document": document, "files": digests}
        record["sizes"] = {name: len(data) for name, data in files.items()}
        write_document(self._folder / MADE, record)
        for path in files_of(self._folder):
            if path.name.startswith("made-") and path.name.removeprefix("made-") not in digests.values():
                remove_file(path)
        self._contents.output = PendingOutput(document=document, files=files)

    def finish(self) -> None:
        """Remove the journal, because film and run folder are complete; only warn if that fails."""
        try:
            discard(self._folder)
        except OutputError as error:
            self._reporter.warn(
                f"the film is complete, but its journal could not be removed: {error}; remove {self._folder}"
            )

    def _check_window(self, window: int) -> None:
        following = len(self._contents.windows)
        if window != following or window >= self._header.num_windows:
            raise ValueError(f"window {window} of {self._header.num_windows}; {following} comes next")


@contextmanager
def open_journal(
    film: Path,
    *,
    request: Mapping[str, Any],
    versions: Mapping[str, str],
    window_steps: Sequence[int],
    resume: bool,
    force: bool,
    reporter: Reporter,
    rhythm: StepRhythm = DEFAULT_RHYTHM,
) -> Iterator[Journal]:
    """Lock the output of a run and open its journal for the duration of the block.

    If the block ends without `finish`, the journal stays, unless an error ended the run before any step was
    saved. After a signal it always stays.

    Args:
        request: Everything the film depends on, as JSON. A run is resumed only by an equal request.
        versions: Package to version.
        window_steps: Number of denoising steps of every window, in order.
        resume: Continue the unfinished run; see `resume_unfinished`.
        force: Replace an existing film; without `resume`, also discard an unfinished run.
        reporter: Receives how far the run got, and warnings.
        rhythm: How often the state between steps is saved.

    Raises:
        OutputBusy: Another process is making this film.
        UnusableState: What the unfinished run saved is not of this request.
        OutputError: The film or an unfinished run of it exists and may not be replaced, or the disk refused.
    """
    wanted = Header(
        journal=secrets.token_hex(8),
        # As it will be read back: JSON has neither tuples nor integer keys.
        request=json.loads(json.dumps(request, allow_nan=False)),
        versions=(dict(versions),),
        window_steps=tuple(window_steps),
        force=force,
    )
    # Before the lock, which creates the run folder.
    check_writable(film, force=True)
    with hold(run_folder_of(film), what=f"making {film.name}"):
        _remove_strays(film)
        header, contents = resume_unfinished(film, wanted, reporter) if resume else _begin(film, wanted)
        journal = Journal(
            journal_folder_of(film), header, contents, resumed=resume, rhythm=rhythm, reporter=reporter
        )
        try:
            yield journal
        except Interrupted:
            raise
        except UnusableState as error:
            raise UnusableState(
                f"{film}: the unfinished run cannot be resumed: {error}", remedy=Remedy.DISCARD_RUN
            ) from error
        except M2DError:
            if contents.is_empty and not resume:
                with suppress(OutputError):
                    discard(journal_folder_of(film))
            raise


def _remove_strays(film: Path) -> None:
    """Remove temporary files of killed processes; such names are written only under the lock."""
    remove_strays(film.parent, name=film.name, is_held=True)
    for folder in (run_folder_of(film), journal_folder_of(film)):
        if folder.is_dir():
            remove_strays(folder, is_held=True)


def _begin(film: Path, wanted: Header) -> tuple[Header, JournalContents]:
    folder = journal_folder_of(film)
    if not wanted.force:
        refuse_unfinished(film)
    check_replaceable(film, force=wanted.force)
    discard(folder)
    make_folder(folder)
    write_header(folder, wanted)
    return wanted, JournalContents()

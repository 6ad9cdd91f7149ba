"""The journal of a run that makes a film: what is finished is on disk, and the next run goes on from there.

Owns what is kept when. Who may go on is in `unfinished`, what counts in `journal_kept`.
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
from m2d.errors import Interrupted, M2DError, OutputError
from m2d.files import check_writable, remove_file, remove_strays, write_bytes
from m2d.film.journal_contents import Kept, Made, StepRecord, on_cpu, step_bytes, window_bytes
from m2d.film.journal_folder import (
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
from m2d.film.resume import Opened, refuse_unfinished, resume_unfinished
from m2d.folders import make_folder
from m2d.lock import hold
from m2d.pipeline.observer import FinishedWindow, ResumePoint
from m2d.progress import Reporter
from m2d.video.run_folder import run_folder_of


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRhythm:
    """How often the state between two steps is kept.

    Attributes:
        every_steps: After every so many steps of a window.
        every_s: And when so many seconds have passed since something was kept.
    """

    every_steps: int = 5
    every_s: float = 60.0

    def is_due(self, step: int, *, total: int, waited_s: float) -> bool:
        """Whether to keep the state after `step` of `total`; not after the last: its latents follow."""
        return step < total and (step % self.every_steps == 0 or waited_s >= self.every_s)


DEFAULT_RHYTHM = StepRhythm()


class Journal:
    """The journal of the run that is going on; from `open_journal`."""

    def __init__(
        self, folder: Path, opened: Opened, *, resumed: bool, rhythm: StepRhythm, reporter: Reporter
    ) -> None:
        self._folder = folder
        self._header, self._kept = opened
        self._resumed = resumed
        self._may_replace = self._header.force or self._kept.made is not None
        self._rhythm = rhythm
        self._reporter = reporter
        self._kept_at_s = time.monotonic()

    @property
    def run_folder(self) -> Path:
        """The folder beside the film that the journal is in; it is there, and held."""
        return self._folder.parent

    @property
    def resumed(self) -> bool:
        """Whether the run goes on where an earlier one ended."""
        return self._resumed

    @property
    def may_replace(self) -> bool:
        """Whether film and run folder may be replaced: with `force`, or when this run may have made them."""
        return self._may_replace

    def resume_point(self) -> ResumePoint:
        """Return what is finished, for the pipeline to continue from."""
        step = self._kept.step
        return ResumePoint(windows=tuple(self._kept.windows), state=None if step is None else step.state)

    @property
    def made(self) -> Made | None:
        """What was about to be written; None: not everything was made."""
        return self._kept.made

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost without it."""
        return self._kept.is_empty

    def is_due(self, event: StepEvent) -> bool:
        """Whether it is time to keep the state after this step."""
        waited_s = time.monotonic() - self._kept_at_s
        return self._rhythm.is_due(event.step, total=event.total, waited_s=waited_s)

    def keep_step(self, window: int, state: DenoiseState) -> None:
        """Keep where the denoising of `window` is, in place of what was kept of it before.

        Raises:
            OutputError: The disk refused; what was kept before still counts.
            ValueError: Another window is in work.
        """
        self._check_window(window)
        record = StepRecord(window=window, state=replace(state, tensors=on_cpu(state.tensors)))
        write_tensors(self._folder / STEP, step_bytes(self._header, record))
        self._kept.step = record
        self._kept_at_s = time.monotonic()

    def keep_window(self, window: FinishedWindow) -> None:
        """Keep the latents of a finished window; windows are finished in their order.

        Raises:
            OutputError: The disk refused; what was kept before still counts.
            ValueError: Another window is in work, or these are no latents.
        """
        index = window.index
        self._check_window(index)
        for scene, latents in window.latents_FCHW.items():
            if latents.ndim != 4 or latents.dtype != torch.float32:
                raise ValueError(
                    f"scene {scene}: {latents.dtype} {tuple(latents.shape)}; float32 FCHW is needed"
                )
        kept = replace(window, latents_FCHW=on_cpu(window.latents_FCHW))
        write_tensors(window_path(self._folder, index), window_bytes(self._header, kept))
        self._kept.windows.append(kept)
        self._kept.step = None
        self._kept_at_s = time.monotonic()

    def keep_made(self, document: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Keep what is about to be written, in place of what was kept of it before.

        Raises:
            OutputError: The disk refused; what was kept before still counts.
            ValueError: A window is not finished, or the document is not JSON.
        """
        if len(self._kept.windows) < self._header.num_windows:
            raise ValueError(f"{len(self._kept.windows)} of {self._header.num_windows} windows are finished")
        digests = {name: sha256(data).hexdigest() for name, data in files.items()}
        for name, digest in digests.items():
            write_bytes(made_path(self._folder, digest), files[name])
        record = {"journal": self._header.journal, "document": document, "files": digests}
        write_document(self._folder / MADE, record)
        for path in files_of(self._folder):
            if path.name.startswith("made-") and path.name.removeprefix("made-") not in digests.values():
                remove_file(path)
        self._kept.made = Made(document=document, files=files)

    def finish(self) -> None:
        """Remove the journal: film and run folder are complete.

        A journal that cannot be removed is warned about, because the film is what was asked for.
        """
        try:
            discard(self._folder)
        except OutputError as error:
            self._reporter.warn(
                f"the film is complete, but its journal is left: {error}; remove {self._folder}"
            )

    def _check_window(self, window: int) -> None:
        following = len(self._kept.windows)
        if window != following or window >= self._header.num_windows:
            raise ValueError(f"window {window} of {self._header.num_windows}; {following} is in work")


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
    """Hold the output of a run, and keep what it finishes, until the block ends.

    The journal stays when the block ends without `finish`, unless the run failed before anything was kept:
    then there is nothing to go on from but the failure. After a signal it stays in any case.

    Args:
        film: What is made; the journal is in its run folder.
        request: All that the film depends on, as JSON. Only the same request is resumed.
        versions: Package to version.
        window_steps: Denoising steps of every window, in the order they are run.
        resume: Go on from the journal that is there.
        force: Replace an existing film; without `resume`, also discard an unfinished run.
        reporter: Is told from where the run goes on, about damage and about other versions.
        rhythm: How often the state between steps is kept.

    Raises:
        OutputBusy: Another process is making this film.
        OutputError: The film or an unfinished run of it exists and may not be replaced, or the disk refused.
        InputError: There is nothing to resume, or it is another request's.
    """
    wanted = Header(
        journal=secrets.token_hex(8),
        # As it will be read: JSON knows neither tuples nor numbers as keys.
        request=json.loads(json.dumps(request, allow_nan=False)),
        versions=(dict(versions),),
        window_steps=tuple(window_steps),
        force=force,
    )
    # The lock makes the run folder: what is wrong with the film's own folder has to be told before.
    check_writable(film, force=True)
    with hold(run_folder_of(film), what=f"making {film.name}"):
        _remove_strays(film)
        opened = resume_unfinished(film, wanted, reporter) if resume else _begin(film, wanted)
        journal = Journal(journal_folder_of(film), opened, resumed=resume, rhythm=rhythm, reporter=reporter)
        try:
            yield journal
        except Interrupted:
            raise
        except M2DError:
            if journal.is_empty and not resume:
                with suppress(OutputError):
                    discard(journal_folder_of(film))
            raise


def _remove_strays(film: Path) -> None:
    """Remove what killed processes left: all of these names are written under the lock alone."""
    remove_strays(film.parent, name=film.name, is_held=True)
    for folder in (run_folder_of(film), journal_folder_of(film)):
        if folder.is_dir():
            remove_strays(folder, is_held=True)


def _begin(film: Path, wanted: Header) -> Opened:
    folder = journal_folder_of(film)
    if not wanted.force:
        refuse_unfinished(film)
    check_replaceable(film, force=wanted.force)
    discard(folder)
    make_folder(folder)
    write_header(folder, wanted)
    return Opened(wanted, Kept())

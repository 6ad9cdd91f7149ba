"""From a recipe's `data` to encoded stories: rendered ones, or those of a video dataset.

Owns the order: description, captions, scan, stories, encoding. Errors of the description are reported before
a video is opened, and errors of the videos before the first training step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from m2d.data.captions import caption_warnings, check_captions
from m2d.data.dataset_file import read_groups, shots_of
from m2d.data.dataset_text import ShotGroup
from m2d.data.decode import Broken, ClipSize, VideoFacts
from m2d.data.decoder_pool import DecoderPool
from m2d.data.frame_sampling import ClipRule, FpsRule, OfficialRule
from m2d.data.rejects import FILE, first_causes, read_broken
from m2d.data.scan import Scanned, ScannedData, scan_videos
from m2d.data.story_library import ClipForm, StoryLibrary
from m2d.errors import DatasetError
from m2d.geometry import SceneGeometry
from m2d.progress import Reporter
from m2d.puppet.dataset import PuppetStories, wardrobe_with
from m2d.stop import StopRequest
from m2d.training.cache import StoryLatents, encode_stories
from m2d.training.clips import EncodedClips
from m2d.training.content_store import ContentStore
from m2d.training.frozen import FrozenParts
from m2d.training.recipe import DataRecipe, TrainingRecipe
from m2d.video.printable import counted

_MEMORY_BYTES = 1 << 30
_MOST_SHOWN = 5


class CaptionTokenizer(Protocol):
    """Counts the tokens of captions and names the words that the text encoder does not know."""

    def count_tokens(self, prompt: str, /) -> int: ...
    def unknown_words(self, prompt: str, /) -> list[str]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOfRun:
    """Where a run keeps what it knows of its dataset.

    Attributes:
        caches: Folder of all caches.
        folder: Run folder; receives the list of rejected videos.
        keeps_rejects: Whether the existing list of rejected videos applies, as in a resumed training.
        found: The dataset, if it was read and scanned already.
    """

    caches: Path
    folder: Path
    keeps_rejects: bool
    found: ScannedData | None = None


@contextmanager
def open_stories(
    recipe: TrainingRecipe,
    frozen: FrozenParts,
    geometries: Sequence[SceneGeometry],
    *,
    of_run: DataOfRun,
    reporter: Reporter,
    stop: StopRequest,
) -> Iterator[StoryLatents]:
    """Encode the stories that are not encoded yet, and keep them open while the block runs.

    Args:
        geometries: Those of the recipe's sizes.

    Raises:
        DatasetError: The dataset is wrong, too much of it is broken, or it is too small.
        Interrupted: A stop was requested; encoded stories stay.
    """
    if recipe.data.is_puppet:
        source = rendered_stories(recipe.data, geometries[0])
        yield encode_stories(source, frozen, root=of_run.caches, reporter=reporter, stop=stop)
        return
    data, run, found = recipe.data, of_run.folder, of_run.found
    groups = (
        found.groups
        if found
        else read_stories(data, frozen.text, max_tokens=frozen.max_text_tokens, reporter=reporter)
    )
    with DecoderPool(num_workers=data.workers, time_limit_s=data.time_limit_s) as pool:
        scanned = (
            found.scanned
            if found
            else scan_videos(
                [shot.video for shot in shots_of(groups)],
                pool=pool,
                memory=of_run.caches / "scans",
                reporter=reporter,
                stop=stop,
            )
        )
        sound = _sound(scanned, run) if of_run.keeps_rejects else scanned
        library = story_library(recipe, groups, sound, geometries)
        store = ContentStore(of_run.caches / "content", memory_bytes=_MEMORY_BYTES)
        stories = EncodedClips(library, frozen, store, pool, data=data, run=run)
        stories.check()
        check_held_out(recipe, library, listed_in=run / FILE)
        _report_notes(scanned, reporter)
        _report_rejects(library, run, reporter)
        try:
            stories.prepare(reporter=reporter, stop=stop)
            # Some videos fail only when their clips are read.
            check_held_out(recipe, library, listed_in=run / FILE)
            yield stories
            if library.rejects:
                reporter.note(f"trained without {_rejects_in_words(library)}; see {run / FILE}")
        finally:
            stories.close()


def rendered_stories(data: DataRecipe, geometry: SceneGeometry) -> PuppetStories:
    """Return the stories of the embedded world that a recipe describes. Raises: as `wardrobe_with`."""
    # A rule of the recipe.
    assert data.num_stories is not None
    return PuppetStories(
        num_stories=data.num_stories,
        seed=data.seed,
        geometry=geometry,
        wardrobe=wardrobe_with(data.hats),
        changing=data.changing,
    )


def read_stories(
    data: DataRecipe, text: CaptionTokenizer, *, max_tokens: int, reporter: Reporter
) -> list[ShotGroup]:
    """Read a dataset's description and check its captions; warn about what is left out or not understood.

    Raises: as `read_groups` and `check_captions`.
    """
    groups = read_groups(
        Path(data.source),
        file_format=data.format,
        root=None if data.root is None else Path(data.root),
        caption_field=data.caption_field,
        warn=reporter.warn,
    )[: data.num_stories]
    shots = shots_of(groups)
    check_captions(shots, count_tokens=text.count_tokens, max_tokens=max_tokens)
    for warning in caption_warnings(shots, unknown_words=text.unknown_words):
        reporter.warn(warning)
    return groups


def _sound(scanned: dict[Path, Scanned], run: Path) -> dict[Path, Scanned]:
    """Mark the videos in the scan that this run has rejected before."""
    earlier = {
        video: Scanned(identity=scanned[video].identity, found=Broken(reason=reason))
        for video, reason in read_broken(run).items()
        if video in scanned
    }
    return scanned | earlier


def story_library(
    recipe: TrainingRecipe,
    groups: list[ShotGroup],
    scanned: dict[Path, Scanned],
    geometries: Sequence[SceneGeometry],
) -> StoryLibrary:
    """Divide the groups into the stories that suit a recipe. Raises: as `StoryLibrary`."""

    def rule(num_frames: int) -> ClipRule:
        if recipe.data.sampling == "official":
            return OfficialRule(num_frames=num_frames, is_trimmed=recipe.stage != "sft")
        return FpsRule(fps=recipe.video.fps, num_frames=num_frames)

    return StoryLibrary(
        groups,
        scanned,
        forms=[
            ClipForm(
                rule=rule(each.num_frames),
                size=ClipSize(height=each.height, width=each.width, fit=recipe.data.fit),
            )
            for each in geometries
        ],
        least_scenes=recipe.num_scenes if recipe.stage == "sft" else 1,
        seed=recipe.data.seed,
    )


def check_held_out(recipe: TrainingRecipe, library: StoryLibrary, *, listed_in: Path | None = None) -> None:
    """Check that the stories suffice for training and for what is held out.

    Args:
        listed_in: Where the rejected videos are listed; None if that is nowhere.

    Raises:
        DatasetError: They do not.
    """
    held_out, num_readable = recipe.data.held_out, library.num_readable
    if held_out >= num_readable:
        reason = f"data.held_out: {held_out} leaves no training stories: " if num_readable else ""
        causes = [f"{each.place}: {each.video.name} {each.reason}" for each in library.rejects]
        advice = ["use less"] if num_readable else []
        advice += [f"all causes are listed in {listed_in}"] if listed_in and causes else []
        words = f"{recipe.data.source}: {reason}{num_readable} stories can be read and suit the recipe"
        raise DatasetError("\n".join(["; ".join([words, *advice]), *first_causes(causes)]))
    held_out_buckets = Counter(library.buckets[library.first_held_out(held_out) :])
    if recipe.stage == "pretrain" and len(held_out_buckets) > 1:
        fewest = min(held_out_buckets.values())
        if fewest < recipe.num_scenes:
            raise DatasetError(
                f"data.held_out: of one size of video.buckets, {fewest} stories are held out and cannot give "
                f"{recipe.num_scenes} different ones per sample; hold out more, or none with 0"
            )
    if recipe.stage == "pretrain" and 0 < held_out < recipe.num_scenes:
        raise DatasetError(
            f"data.held_out: {held_out} stories cannot give {recipe.num_scenes} different ones per sample; "
            f"hold out at least {recipe.num_scenes}, or none with 0"
        )


def _report_notes(scanned: dict[Path, Scanned], reporter: Reporter) -> None:
    notes: dict[str, int] = {}
    for each in scanned.values():
        for note in each.found.notes if isinstance(each.found, VideoFacts) else ():
            notes[note] = notes.get(note, 0) + 1
    for note, count in sorted(notes.items()):
        reporter.note(f"{counted(count, 'video')}: {note}")


def _report_rejects(library: StoryLibrary, run: Path, reporter: Reporter) -> None:
    rejects = library.rejects
    if not rejects:
        return
    reporter.warn(f"training without {_rejects_in_words(library)}; see {run / FILE}")
    for reject in rejects[:_MOST_SHOWN]:
        reporter.warn(f"{reject.place}: {reject.video.name} {reject.reason}")
    if len(rejects) > _MOST_SHOWN:
        reporter.warn(f"and {len(rejects) - _MOST_SHOWN} more in {run / FILE}")


def _rejects_in_words(library: StoryLibrary) -> str:
    num_broken = len(library.broken)
    counts = [
        (num_broken, f"{num_broken} of {counted(library.num_videos, 'video')}, which cannot be read"),
        (len(library.rejects) - num_broken, counted(len(library.rejects) - num_broken, "unsuitable shot")),
    ]
    return " and ".join(words for count, words in counts if count)

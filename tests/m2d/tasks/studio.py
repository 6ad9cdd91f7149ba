"""A place where tests make tiny films: one model for all of them, the tasks with their arguments."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from benchmarks.decoded_film import read_film
from m2d.families.source import ModelSource, resolve_model
from m2d.film.inherit import plan_on
from m2d.film.make import FilmResult, RunOptions
from m2d.progress import Reporter, SilentReporter, StageProgress
from m2d.recipe.overrides import Overrides
from m2d.recipe.plan import RunPlan
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks import extend, generate, reproduce, reroll
from m2d.video.digests import canonical_json
from m2d.video.provenance import Provenance, seal_provenance
from m2d.video.run_folder import read_run, run_folder_of
from m2d.video.write import write_film
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.video import small_clips

PROMPTS = ("a red ball", "a blue ball", "a green ball", "a red cube", "a blue cube", "a green cube", "a sea")
STEPS = 2
RUN_OPTIONS = ("force", "resume", "save_previews", "draft")


@dataclass(frozen=True, kw_only=True)
class Studio:
    """The tiny model (3 scenes at once, 5 frames of 16 x 16 here), and a folder for films."""

    source: ModelSource
    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.mp4"

    def plan(
        self,
        num_scenes: int = 3,
        *,
        name: str = "film",
        scenes: Sequence[Any] | None = None,
        sampling: Mapping[str, Any] = MappingProxyType({}),
        video: Mapping[str, Any] = MappingProxyType({}),
        **story: Any,
    ) -> RunPlan:
        """A story of `num_scenes` prompts, or of the given scenes."""
        document = {
            "title": "Some balls",
            "model": self.source.name,
            "scenes": tuple(scenes if scenes is not None else PROMPTS[:num_scenes]),
            "sampling": {"num_inference_steps": STEPS, "guidance_scale": 2.0, "seed": 5, **sampling},
            "video": {"num_frames": 5, "height": 16, "width": 16, **video},
            **story,
        }
        recipe = Recipe.model_validate(document)
        return plan_on(recipe, self.source, None, overrides=Overrides(out=self.path(name)))

    def generate(
        self,
        num_scenes: int = 3,
        *,
        name: str = "film",
        reporter: Reporter | None = None,
        options: Mapping[str, bool] | None = None,
        **story: Any,
    ) -> FilmResult:
        plan = self.plan(num_scenes, name=name, **story)
        return generate.run(
            plan,
            get_backend("eager"),
            reporter=reporter or SilentReporter(),
            options=RunOptions(**(options or {})),
        )

    def extend(
        self,
        film: Path,
        *prompts: str,
        reporter: Reporter | None = None,
        out: Path | None = None,
        **more: Any,
    ) -> FilmResult:
        """Arguments of `Extension` and `RunOptions`, by name."""
        options = {key: more.pop(key) for key in RUN_OPTIONS if key in more}
        overrides = more.pop("overrides", {})
        return extend.run(
            extend.Extension(film=film, prompts=prompts, **({"model": self.source.name} | more)),
            find_backend=get_backend,
            reporter=reporter or SilentReporter(),
            overrides=Overrides(**({"num_inference_steps": STEPS, "out": out} | overrides)),
            options=RunOptions(**options),
        )

    def reroll(
        self,
        film: Path,
        *scenes: int,
        reporter: Reporter | None = None,
        out: Path | None = None,
        **more: Any,
    ) -> FilmResult:
        """`scenes` count from 0."""
        options = {key: more.pop(key) for key in RUN_OPTIONS if key in more}
        overrides = more.pop("overrides", {})
        return reroll.run(
            reroll.Reroll(film=film, scenes=scenes, **({"model": self.source.name} | more)),
            find_backend=get_backend,
            reporter=reporter or SilentReporter(),
            overrides=Overrides(**({"out": out} | overrides)),
            options=RunOptions(**options),
        )

    def reproduce(
        self, film: Path, *, reporter: Reporter | None = None, out: Path | None = None, **more: Any
    ) -> reproduce.Reproduction:
        options = {key: more.pop(key) for key in ("force", "resume") if key in more}
        return reproduce.run(
            film,
            find_backend=get_backend,
            reporter=reporter or SilentReporter(),
            overrides=Overrides(out=out, **more.pop("overrides", {})),
            options=RunOptions(**options),
            **({"model": self.source.name} | more),
        )


def open_studio(folder: Path) -> Studio:
    """Build the model in `folder`; films go beside it."""
    model = build_tiny_model(folder / "tiny")
    films = folder / "films"
    films.mkdir()
    return Studio(source=resolve_model(str(model)), folder=films)


def frames_of(provenance: Provenance) -> list[str]:
    """Every scene's frames, as their digest."""
    return [scene.frames_sha256 for scene in provenance.scenes]


def latents_of(film: Path) -> list[np.ndarray]:
    return list(read_run(film).latents_FCHW)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under `folder` with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def rewritten(film: Path, target: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """The film with other provenance, sealed again as if nothing had been changed."""
    read = read_film(film)
    assert read.provenance is not None
    document = json.loads(canonical_json(read.provenance.model_dump(mode="json")))
    change(document)
    write_plain(target, read.frames_PHWC)
    return retagged(target, seal_provenance(Provenance.model_validate(document)))


def write_plain(film: Path, frames_PHWC: np.ndarray) -> Path:
    """A film without provenance."""
    facts: dict[str, Any] = {"fps": 8, "upscale": 1, "title": "A film", "scene_prompts": ["all of it"]}
    write_film(film, [frames_PHWC], provenance=None, force=True, **facts)
    return film


def retagged(film: Path, text: str) -> Path:
    """The film with this text where provenance is."""
    small_clips.retagged(film, film.with_suffix(".part.mp4"), {"comment": text}).replace(film)
    return film


def copied(film: Path, target: Path) -> Path:
    """The film and its run folder under another name."""
    shutil.copy(film, target)
    shutil.copytree(run_folder_of(film), run_folder_of(target))
    return target


@dataclass
class Stopping(RecordingReporter):
    """Remembers stages, and sends this process SIGTERM once, after so many steps of one of them.

    Attributes:
        stage_to_stop: In this stage.
        after: After so many units of it; 0: as soon as it begins.
        raises: Raised instead of the signal.
        done: Stage to units done; the stages of one name together.
    """

    stage_to_stop: str = ""
    after: int = 0
    raises: type[BaseException] | None = None
    done: dict[str, int] = field(default_factory=dict)
    has_stopped: bool = False

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        del total
        self.done.setdefault(name, 0)
        self._stop(name)
        yield _Stage(self, name)

    def advanced(self, name: str, amount: int) -> None:
        self.done[name] += amount
        self._stop(name)

    def _stop(self, name: str) -> None:
        if name != self.stage_to_stop or self.done[name] < self.after or self.has_stopped:
            return
        self.has_stopped = True
        if self.raises is not None:
            raise self.raises
        signal.raise_signal(signal.SIGTERM)


@dataclass
class _Stage:
    reporter: Stopping
    name: str

    def advance(self, amount: int = 1, *, detail: str = "") -> None:
        del detail
        self.reporter.advanced(self.name, amount)

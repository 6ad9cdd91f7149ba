"""The generate task: what it asks of backend and reporter, and what it leaves behind when it is stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from m2d.backend import BackendOptions, Denoiser
from m2d.errors import BackendUnavailable
from m2d.layout import SceneLayout
from m2d.model.checkpoint import ModelSource, load_codec, resolve_model
from m2d.model.codec import decode_scene
from m2d.progress import Reporter, SilentReporter, StageProgress
from m2d.recipe.plan import RunPlan, plan_story
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks.generate import run
from m2d.video.provenance import frames_digest
from m2d.video.read import read_film
from m2d.video.run_folder import read_run
from tests.m2d.model.tiny_model import build_tiny_model

STAGES = ("load text encoder", "encode prompts", "load transformer", "denoise", "decode", "write")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    return resolve_model(str(build_tiny_model(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture
def plan(source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPlan:
    monkeypatch.chdir(tmp_path)
    return planned(source)


def planned(source: ModelSource, **sampling: object) -> RunPlan:
    document = {
        "title": "Two scenes",
        "scenes": ("a red ball", {"prompt": "a blue ball", "seed": 4}),
        "sampling": {"num_inference_steps": 2, "seed": 3, **sampling},
        "video": {"num_frames": 5},
        "output": "film.mp4",
    }
    return plan_story(Recipe.model_validate(document), source)


class Recorder(SilentReporter):
    """Remembers stages and their progress; raises on entering or leaving one of them if told to."""

    def __init__(self, *, raise_entering: str = "", raise_leaving: str = "") -> None:
        self.done: dict[str, int] = {}
        self.totals: dict[str, int | None] = {}
        self._entering, self._leaving = raise_entering, raise_leaving

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        self.done[name], self.totals[name] = 0, total
        recorder = self

        class Stage:
            def advance(self, amount: int = 1, *, detail: str = "") -> None:
                del detail
                recorder.done[name] += amount

        if name == self._entering:
            raise KeyboardInterrupt
        yield Stage()
        if name == self._leaving:
            raise KeyboardInterrupt


class FakeBackend:
    """Predicts a velocity that depends on nothing but the latents."""

    name: ClassVar[str] = "fake"

    def __init__(self, *, reason: str | None = None) -> None:
        self.reason = reason
        self.options: BackendOptions | None = None

    def unavailable_reason(self, device: str | None = None) -> str | None:
        del device
        return self.reason

    def prepare(self, source: ModelSource, layout: SceneLayout, options: BackendOptions) -> Denoiser:
        del source
        self.options = options
        return FakeDenoiser(layout)


class FakeDenoiser:
    def __init__(self, layout: SceneLayout) -> None:
        self.layout = layout
        self.targets = tuple(range(layout.num_scenes))

    def predict(
        self, latents_BFCHW: torch.Tensor, prompt_embeds_BLD: torch.Tensor, timesteps_BN: torch.Tensor
    ) -> torch.Tensor:
        del prompt_embeds_BLD, timesteps_BN
        return 0.1 * latents_BFCHW


def test_the_stages_come_in_order_and_are_counted_to_their_end(plan: RunPlan) -> None:
    recorder = Recorder()
    result = run(plan, get_backend("eager"), reporter=recorder)
    assert tuple(recorder.done) == STAGES
    assert recorder.totals["denoise"] == recorder.done["denoise"] == 2
    assert recorder.totals["decode"] == recorder.done["decode"] == 2
    assert tuple(result.timings_s) == STAGES


def test_the_stored_latents_decode_to_the_frames_the_film_was_made_of(
    plan: RunPlan, source: ModelSource
) -> None:
    run(plan, get_backend("eager"), reporter=SilentReporter())
    latents = read_run(plan.output).latents_FCHW
    codec = load_codec(source, device="cpu", dtype=torch.float32)
    decoded = [decode_scene(codec, torch.from_numpy(scene)) for scene in latents]
    provenance = read_film(plan.output).provenance
    assert provenance is not None
    assert provenance.frames_sha256 == frames_digest(decoded)


def test_a_scene_with_a_seed_of_its_own_has_its_own_noise(plan: RunPlan, source: ModelSource) -> None:
    run(plan, FakeBackend(), reporter=SilentReporter())
    first = read_run(plan.output).latents_FCHW
    run(planned(source, seed=9), FakeBackend(), reporter=SilentReporter(), force=True)
    second = read_run(plan.output).latents_FCHW
    assert not np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


def test_without_guidance_no_negative_prompt_is_encoded(source: ModelSource, plan: RunPlan) -> None:
    recorder = Recorder()
    run(planned(source, guidance_scale=1.0), FakeBackend(), reporter=recorder)
    assert recorder.totals["encode prompts"] == 2
    assert plan.output.exists()


def test_the_backend_gets_device_and_dtype_of_the_plan(plan: RunPlan) -> None:
    backend = FakeBackend()
    run(plan, backend, reporter=SilentReporter())
    assert backend.options == BackendOptions(device="cpu", dtype="float32")


def test_a_backend_that_cannot_work_here_is_told_before_anything_is_loaded(plan: RunPlan) -> None:
    recorder = Recorder()
    with pytest.raises(BackendUnavailable, match="backend 'eager': no such chip"):
        run(plan, FakeBackend(reason="no such chip"), reporter=recorder)
    assert not recorder.done


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_in_any_stage_leaves_no_file(stage: str, plan: RunPlan, tmp_path: Path) -> None:
    reporter: Reporter = Recorder(raise_entering=stage)
    with pytest.raises(KeyboardInterrupt):
        run(plan, FakeBackend(), reporter=reporter)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_writing_keeps_the_film_that_was_there(plan: RunPlan, tmp_path: Path) -> None:
    plan.output.write_bytes(b"precious")
    with pytest.raises(KeyboardInterrupt):
        run(plan, FakeBackend(), reporter=Recorder(raise_leaving="decode"), force=True)
    assert plan.output.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]

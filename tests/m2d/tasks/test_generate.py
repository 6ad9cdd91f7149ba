"""The generate task: what it asks of backend and reporter, and what it leaves behind when it is stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.decoded_film import read_film
from m2d.backend import BackendOptions, Denoiser
from m2d.errors import BackendUnavailable, InputError, Interrupted, OutputError
from m2d.families.cogvideox.vae import CogVideoXVae
from m2d.families.loading import load_vae
from m2d.families.source import ModelSource, resolve_model
from m2d.film.disk_space import predicted_bytes
from m2d.film.journal_folder import has_journal, journal_folder_of
from m2d.film.make import FilmResult, RunOptions
from m2d.layout import SceneLayout
from m2d.pipeline.decoding import DecodingError
from m2d.progress import Reporter, SilentReporter, StageProgress
from m2d.recipe.plan import RunPlan, plan_story
from m2d.recipe.schema import Recipe
from m2d.registry import get_backend
from m2d.tasks.generate import run
from m2d.video.digests import array_digest, film_digest
from m2d.video.run_folder import read_run
from tests.m2d.model.tiny_model import build_tiny_model
from tests.m2d.tasks.studio import Stopping, open_studio

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
        "video": {"num_frames": 5, "height": 16, "width": 16},
        "output": "film.mp4",
    }
    return plan_story(Recipe.model_validate(document), source)


class Recorder(Stopping):
    """Remembers stages and their totals, too."""

    def __init__(self, **stop: Any) -> None:
        super().__init__(**stop)
        self.totals: dict[str, int | None] = {}

    @contextmanager
    def stage(self, name: str, *, total: int | None = None) -> Iterator[StageProgress]:
        self.totals[name] = total
        with super().stage(name, total=total) as progress:
            yield progress


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

    def release(self) -> None:
        pass


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
    codec = load_vae(source, device="cpu", dtype=torch.float32).module
    decoded = [CogVideoXVae(codec).decode(torch.from_numpy(scene)) for scene in latents]
    provenance = read_film(plan.output).provenance
    assert provenance is not None
    assert provenance.frames_sha256 == film_digest([array_digest(frames_PHWC) for frames_PHWC in decoded])


def test_a_scene_with_a_seed_of_its_own_has_its_own_noise(plan: RunPlan, source: ModelSource) -> None:
    run(plan, FakeBackend(), reporter=SilentReporter())
    first = read_run(plan.output).latents_FCHW
    forced = RunOptions(force=True)
    run(planned(source, seed=9), FakeBackend(), reporter=SilentReporter(), options=forced)
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
    assert backend.options is not None
    assert (backend.options.device, backend.options.dtype) == ("cpu", "float32")


def test_a_backend_that_cannot_work_here_is_told_before_anything_is_loaded(plan: RunPlan) -> None:
    recorder = Recorder()
    with pytest.raises(BackendUnavailable, match="backend 'fake': no such chip"):
        run(plan, FakeBackend(reason="no such chip"), reporter=recorder)
    assert not recorder.done


@pytest.fixture(scope="module")
def straight(source: ModelSource, tmp_path_factory: pytest.TempPathFactory) -> FilmResult:
    """The run that nothing interrupts."""
    plan = replace(planned(source), output=tmp_path_factory.mktemp("straight") / "film.mp4")
    return run(plan, FakeBackend(), reporter=SilentReporter())


def stopped(plan: RunPlan, reporter: Reporter, error: type[BaseException], *, force: bool = False) -> None:
    with pytest.raises(error):
        run(plan, FakeBackend(), reporter=reporter, options=RunOptions(force=force))


def resumed(plan: RunPlan, reporter: Reporter | None = None) -> FilmResult:
    options = RunOptions(resume=True)
    return run(plan, FakeBackend(), reporter=reporter or SilentReporter(), options=options)


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_twice_in_any_stage_loses_nothing_that_is_finished(
    stage: str, plan: RunPlan, tmp_path: Path, straight: FilmResult
) -> None:
    stopped(plan, Stopping(stage_to_stop=stage, raises=KeyboardInterrupt), KeyboardInterrupt)
    assert not plan.output.exists()
    assert has_journal(plan.output)
    assert resumed(plan).frames_sha256 == straight.frames_sha256
    assert plan.output.read_bytes() == straight.film.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.m2d", "film.mp4"]


@pytest.mark.parametrize(
    ("stage", "after"),
    [("load text encoder", 0), ("encode prompts", 1), ("load transformer", 0), ("denoise", 1), ("decode", 1)],
)
def test_a_stop_request_is_obeyed_in_every_stage_and_leaves_a_run_to_go_on_with(
    stage: str, after: int, plan: RunPlan, straight: FilmResult
) -> None:
    stopped(plan, Stopping(stage_to_stop=stage, after=after), Interrupted)
    assert not plan.output.exists()
    reporter = Stopping()
    assert resumed(plan, reporter).frames_sha256 == straight.frames_sha256
    assert len(reporter.notes) == 1
    assert not has_journal(plan.output)


def test_a_stop_request_while_writing_lets_the_film_be_finished(plan: RunPlan) -> None:
    result = run(plan, FakeBackend(), reporter=Stopping(stage_to_stop="write"))
    assert read_run(result.film).provenance == result.provenance
    assert not has_journal(plan.output)


def test_what_was_denoised_is_not_denoised_again(plan: RunPlan) -> None:
    stopped(plan, Stopping(stage_to_stop="decode", after=1), Interrupted)
    reporter = Stopping()
    resumed(plan, reporter)
    assert set(reporter.done) == {"decode", "write"}
    assert reporter.notes == ["resuming the unfinished run: all scenes are denoised"]


def test_a_stop_keeps_the_film_that_is_to_be_replaced_until_the_new_one_is_there(
    plan: RunPlan, straight: FilmResult
) -> None:
    plan.output.write_bytes(b"precious")
    stopped(plan, Stopping(stage_to_stop="decode", after=1), Interrupted, force=True)
    assert plan.output.read_bytes() == b"precious"
    # That the film may be replaced was said when the run began.
    assert resumed(plan).film.read_bytes() == straight.film.read_bytes()


def test_a_run_stopped_before_it_kept_anything_is_no_obstacle_to_a_new_one(plan: RunPlan) -> None:
    stopped(plan, Stopping(stage_to_stop="load text encoder"), Interrupted)
    assert run(plan, FakeBackend(), reporter=SilentReporter()).film.exists()


def test_another_story_is_not_resumed_and_names_what_differs(plan: RunPlan, source: ModelSource) -> None:
    stopped(plan, Stopping(stage_to_stop="decode", after=1), Interrupted)
    told = r"another request: sampling\.seed was 3 and is 4$"
    with pytest.raises(InputError, match=told):
        resumed(planned(source, seed=4))


def test_too_little_room_on_the_disk_is_told_before_anything_is_loaded(
    plan: RunPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    recorder = Recorder()
    with pytest.raises(OutputError, match=r"0\.0 MB are free, \d\.\d MB are needed; free some space"):
        run(plan, FakeBackend(), reporter=recorder)
    assert not recorder.done
    assert list(tmp_path.iterdir()) == []


def test_the_estimate_of_the_room_that_is_needed_is_not_far_off(plan: RunPlan, straight: FilmResult) -> None:
    left = sum(path.stat().st_size for path in straight.run_folder.iterdir()) + straight.size_bytes
    # Sheets of two plain scenes are smaller than others.
    assert left < predicted_bytes([plan], None) < 3_000_000


def test_what_a_resumed_run_has_on_the_disk_already_is_not_needed_again(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(plan, Stopping(stage_to_stop="decode", after=1), Interrupted)
    kept = sum(path.stat().st_size for path in journal_folder_of(plan.output).iterdir())
    needed = predicted_bytes([plan], None) - kept
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    with pytest.raises(OutputError, match="free some space"):
        resumed(plan)
    assert has_journal(plan.output)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert resumed(plan).film.exists()


def test_that_a_scene_was_decoded_in_tiles_is_written_down(
    plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    fails, decode = iter([True, True]), CogVideoXVae.decode

    def decode_at_last(*arguments: Any) -> Any:
        if next(fails, False):
            raise MemoryError
        return decode(*arguments)

    monkeypatch.setattr(CogVideoXVae, "decode", decode_at_last)
    told = Stopping()
    result = run(plan, FakeBackend(), reporter=told)
    assert result.provenance.last_run.parameters["decoding"] == "tiled"
    assert [note.split("; ")[0] for note in told.notes] == ["decoding scene 1 ran out of memory"] * 2


def test_what_is_written_down_of_a_run_holds_none_of_the_storys_words_twice(plan: RunPlan) -> None:
    result = run(plan, FakeBackend(), reporter=SilentReporter())
    assert set(result.provenance.last_run.parameters) == {
        "mask",
        "num_frames_per_scene",
        "height",
        "width",
        "fps",
        "upscale",
        "scheduler",
        "num_inference_steps",
        "cfg",
        "speed",
        "guidance_scales",
        # The model samples as CogVideoX-5B by default.
        "dynamic_guidance",
        "backend",
        "device",
        "dtype",
    }


def test_a_vae_that_makes_no_picture_writes_no_film_and_keeps_the_latents(tmp_path: Path) -> None:
    studio = open_studio(tmp_path)
    file = studio.source.path / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    weights["decoder.conv_out.conv.bias"].fill_(torch.nan)
    save_file(weights, file)
    with pytest.raises(DecodingError, match="scene 1: the VAE's output is NaN or infinite"):
        studio.generate(1)
    assert not studio.path("film").exists()
    assert (journal_folder_of(studio.path("film")) / "window-000.safetensors").exists()

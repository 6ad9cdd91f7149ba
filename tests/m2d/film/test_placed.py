"""Films and memory: the mode that is chosen and recorded, too little memory, and memory that runs out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from m2d_backends.eager import EagerBackend, EagerDenoiser

from m2d import StoryPipeline
from m2d.errors import InputError, Remedy
from m2d.film.make import FilmResult, RunOptions
from m2d.film.placed import OutOfMemory
from m2d.pipeline import placing
from m2d.pipeline.placing import TooLittleMemory
from m2d.progress import Reporter, SilentReporter
from m2d.recipe.plan import RunPlan
from m2d.tasks import generate
from tests.m2d.tasks.journals import RecordingReporter
from tests.m2d.tasks.studio import Studio, open_studio

STEPS = 3


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return open_studio(tmp_path_factory.mktemp("studio"))


@pytest.fixture(scope="module")
def plain(studio: Studio) -> FilmResult:
    return make(plan_of(studio, "plain"))


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Predict small models, too."""
    monkeypatch.setattr(placing, "_FEW_WEIGHTS", 0)
    placing._this_device.cache_clear()
    yield
    placing._this_device.cache_clear()


def plan_of(studio: Studio, name: str, **backend: Any) -> RunPlan:
    return studio.plan(1, name=name, sampling={"num_inference_steps": STEPS}, backend=backend)


def make(plan: RunPlan, backend: Any = None, reporter: Reporter | None = None, **options: Any) -> FilmResult:
    return generate.run(
        plan,
        backend or EagerBackend(),
        reporter=reporter or SilentReporter(),
        options=RunOptions(**options),
    )


class Short(EagerBackend):
    """Runs out of memory at one of its calls, as a GPU does."""

    def __init__(self, *, at_call: int) -> None:
        super().__init__()
        self.left = at_call

    def prepare(self, *arguments: Any) -> Any:
        return ShortDenoiser(super().prepare(*arguments), self)


class ShortDenoiser:
    def __init__(self, denoiser: EagerDenoiser, backend: Short) -> None:
        self._denoiser, self._backend = denoiser, backend
        self.layout, self.targets = denoiser.layout, denoiser.targets

    def predict(self, *tensors: torch.Tensor) -> torch.Tensor:
        self._backend.left -= 1
        if not self._backend.left:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.82 GiB.")
        return self._denoiser.predict(*tensors)


def test_a_run_that_is_out_of_memory_keeps_its_state_and_resumes_in_another_mode(
    studio: Studio, plain: FilmResult
) -> None:
    with pytest.raises(
        OutOfMemory, match="memory ran out on cpu in the memory mode full; finished"
    ) as caught:
        make(plan_of(studio, "short"), Short(at_call=3))
    assert caught.value.remedy == Remedy.SAVE_MEMORY_AND_RESUME
    assert "\n" not in str(caught.value)
    reporter = RecordingReporter()
    resumed = make(plan_of(studio, "short", memory="group-offload"), reporter=reporter, resume=True)
    assert resumed.frames_sha256 == plain.frames_sha256
    # Two of three steps were kept.
    assert any("2 of 3" in note or "step 2" in note for note in [*reporter.notes, *reporter.warnings])


def test_without_a_finished_step_nothing_is_left_to_resume(studio: Studio) -> None:
    with pytest.raises(OutOfMemory, match=r"memory mode full$") as caught:
        make(plan_of(studio, "at-once"), Short(at_call=1))
    assert caught.value.remedy == Remedy.SAVE_MEMORY
    assert make(plan_of(studio, "at-once")).film.is_file()


def test_a_mode_is_recorded_but_is_no_part_of_the_recipe(studio: Studio, plain: FilmResult) -> None:
    made = make(plan_of(studio, "offloaded", memory="sequential"))
    assert made.frames_sha256 == plain.frames_sha256
    run, other = made.provenance.last_run, plain.provenance.last_run
    assert run.parameters == {**other.parameters, "memory": "sequential"}
    assert run.recipe == other.recipe


@pytest.mark.usefixtures("predicted")
def test_a_run_stores_what_was_predicted_beside_what_was_measured(studio: Studio) -> None:
    reporter = RecordingReporter()
    made = make(plan_of(studio, "predicted"), reporter=reporter)
    record = json.loads((made.run_folder / "run.json").read_text("utf-8"))
    assert list(record["predicted"]["stages"]) == ["decode", "denoise", "encode prompts"]
    assert record["predicted"]["memory"] == "full"
    for stage in record["predicted"]["stages"]:
        assert record["timings_s"][stage] >= 0
        # The whole process, in which torch alone takes more than this.
        assert record["peaks_bytes"][stage] > 1 << 26
        assert record["predicted"]["stages"][stage]["operations"] > 0
    assert any(note.startswith("memory full, the part in use") for note in reporter.notes)


@pytest.mark.usefixtures("predicted")
def test_too_little_memory_for_every_mode_ends_the_run_before_any_work(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "free_host_bytes", lambda: 1000)
    plan = plan_of(studio, "none")
    with pytest.raises(TooLittleMemory, match=r"has 0.0 MiB free; at least [0-9.]+ MiB would do") as caught:
        make(plan)
    assert caught.value.exit_code == 3
    assert not list(studio.folder.glob("none*"))
    reporter = RecordingReporter()
    make(plan_of(studio, "tried", memory="full"), reporter=reporter)
    assert any("would do" in warning for warning in reporter.warnings)


@pytest.mark.usefixtures("predicted")
def test_a_pipeline_in_python_chooses_its_mode_with_the_first_story(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    reporter = RecordingReporter()
    recipe = plan_of(studio, "library").recipe
    pipe = StoryPipeline.from_pretrained(recipe.model, reporter=reporter)
    for _ in range(2):
        assert len(pipe(recipe).scenes) == len(recipe.scenes)
    assert [note.partition(",")[0] for note in reporter.notes if note.startswith("memory")] == ["memory full"]
    monkeypatch.setattr(placing, "free_host_bytes", lambda: 1000)
    placing._this_device.cache_clear()
    with pytest.raises(TooLittleMemory, match=r"has 0.0 MiB free; at least [0-9.]+ MiB would do"):
        StoryPipeline.from_pretrained(recipe.model)(recipe)


@pytest.mark.usefixtures("predicted")
def test_a_cpu_that_takes_hours_is_warned_about(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placing, "_measured_flops", lambda *_: 1000.0)
    reporter = RecordingReporter()
    make(plan_of(studio, "slow"), reporter=reporter)
    assert any(warning.startswith("on the CPU this takes about") for warning in reporter.warnings)


def test_a_backend_of_graphs_has_no_mode_that_offloads(studio: Studio) -> None:
    class Graphs(EagerBackend):
        name = "graphs"
        memory_modes = ("full",)
        can_quantize = False

    with pytest.raises(InputError, match="memory: graphs has no mode sequential; it has full"):
        make(plan_of(studio, "graphs", memory="sequential"), Graphs())


def test_a_half_vae_is_recorded_and_changes_frames(studio: Studio, plain: FilmResult) -> None:
    made = make(plan_of(studio, "half", vae_dtype="bfloat16"))
    assert made.provenance.last_run.parameters["vae_dtype"] == "bfloat16"
    assert made.frames_sha256 != plain.frames_sha256


def test_the_folder_is_not_part_of_a_recorded_quantization(studio: Studio) -> None:
    from m2d.film.recipe_record import recipe_record

    recipe = studio.plan(1).recipe
    backend = recipe.backend.model_copy(update={"quantize": str(Path("/home/me/q8.gguf"))})
    record = recipe_record(recipe.model_copy(update={"backend": backend}))
    assert record["backend"]["quantize"] == "q8.gguf"

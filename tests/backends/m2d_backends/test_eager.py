"""The eager backend's own duties: loading once, devices, and refusing what it was not prepared for."""

import gc
import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from m2d_backends.devices import device_problem
from m2d_backends.eager import EagerBackend, EagerDenoiser
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from m2d.backend import BackendOptions, TrainableBackend
from m2d.errors import BackendError, BackendUnavailable, InputError
from m2d.families.source import ModelSource, resolve_model
from m2d.layout import SceneLayout
from m2d.recipe.schema import BackendChoice
from tests.m2d.model.tiny_model import LATENT_CHANNELS, TEXT_WIDTH, build_tiny_model, tiny_transformer

LAYOUT = SceneLayout.build("mask2dit", text_tokens=(3, 2), latent_frames=(2, 1), tokens_per_frame=4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder: Path = build_tiny_model(tmp_path_factory.mktemp("model"))
    return resolve_model(str(folder))


def test_two_layouts_share_one_loaded_transformer(source):
    backend = EagerBackend()
    first = backend.prepare(source, LAYOUT, BackendOptions())
    other = SceneLayout.build("full", text_tokens=(3,), latent_frames=(2,), tokens_per_frame=4)
    assert backend.prepare(source, other, BackendOptions())._transformer is first._transformer


def test_another_dtype_is_loaded_anew(source):
    backend = EagerBackend()
    first = backend.prepare(source, LAYOUT, BackendOptions())
    second = backend.prepare(source, LAYOUT, BackendOptions(dtype="bfloat16"))
    assert first._transformer.dtype == torch.float32
    assert second._transformer.dtype == torch.bfloat16


def test_another_model_at_the_same_path_is_loaded_and_not_the_old_one(tmp_path):
    backend = EagerBackend()
    folder = build_tiny_model(tmp_path / "model")
    first = backend.prepare(resolve_model(str(folder)), LAYOUT, BackendOptions())._transformer
    assert backend.prepare(resolve_model(str(folder)), LAYOUT, BackendOptions())._transformer is first
    (weights,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(weights)
    tensors["proj_out.bias"] += 1
    save_file(tensors, weights)
    second = backend.prepare(resolve_model(str(folder)), LAYOUT, BackendOptions())._transformer
    torch.testing.assert_close(second.proj_out.bias, tensors["proj_out.bias"], rtol=0, atol=0)


def test_releasing_frees_the_weights_though_a_denoiser_still_holds_them(source):
    backend = EagerBackend()
    denoiser = backend.prepare(source, LAYOUT, BackendOptions())
    storages = [weakref.ref(each.untyped_storage()) for each in denoiser._transformer.parameters()]
    backend.release()
    gc.collect()
    assert [storage() for storage in storages] == [None] * len(storages)


def test_prepared_weights_need_no_gradient(source):
    denoiser = EagerBackend().prepare(source, LAYOUT, BackendOptions())
    assert not any(parameter.requires_grad for parameter in denoiser._transformer.parameters())


def test_training_wraps_the_model_in_nothing():
    model = tiny_transformer()
    backend = EagerBackend()
    assert isinstance(backend, TrainableBackend)
    assert backend.wrap(model) is model


def test_targets_outside_the_layout_are_refused(source):
    with pytest.raises(InputError, match=r"targets: got scenes \[0, 2\], the layout has 0 to 1"):
        EagerBackend().prepare(source, LAYOUT, BackendOptions(targets=(0, 2)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_cuda_device_is_refused_and_nothing_else_is_taken(source):
    with pytest.raises(BackendUnavailable, match=r"backend 'eager': device 'cuda': torch .*use cpu"):
        EagerBackend().prepare(source, LAYOUT, BackendOptions(device="cuda"))


@pytest.mark.parametrize("device", ["tpu", "cpu:0", "cuda:", "cuda:x", "CPU", ""])
def test_a_device_nobody_has_is_named(device):
    assert device_problem(device) == f"device {device!r} is not known; use cpu, cuda or cuda:N"


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "mps", "xpu:1", "gpu", "cuda:"])
def test_recipes_and_backends_know_the_same_devices(device):
    is_known = "is not known" not in (device_problem(device) or "")
    with nullcontext() if is_known else pytest.raises(ValidationError, match="is not known"):
        BackendChoice(device=device)


def test_the_cpu_is_always_there():
    assert device_problem("cpu") is None


TABLES = {"timestep_tables": "true"}


def with_tables(backend: EagerBackend, source: ModelSource, *timesteps: int) -> EagerDenoiser:
    return backend.prepare(source, LAYOUT, BackendOptions(timesteps=timesteps, extra=TABLES))


def velocity(denoiser: EagerDenoiser, *timesteps: int) -> torch.Tensor:
    stream = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 3, LATENT_CHANNELS, 4, 4, generator=stream)
    return denoiser.predict(latents, torch.ones(2, 5, TEXT_WIDTH), torch.tensor(timesteps).expand(2, -1))


def test_tables_of_a_run_s_timesteps_and_context_s_take_the_place_of_weights(source):
    denoiser = with_tables(EagerBackend(), source, 999, 499)
    plain = EagerBackend().prepare(source, LAYOUT, BackendOptions())
    assert "transformer_blocks.0.norm1.linear.weight" not in dict(denoiser._transformer.named_parameters())
    for timesteps in ((999, 999), (0, 499)):
        assert torch.equal(velocity(denoiser, *timesteps), velocity(plain, *timesteps))
    with pytest.raises(
        BackendError, match=r"timesteps \[500\] are not in .* tables, which hold \[0, 499, 999\]"
    ):
        velocity(denoiser, 0, 500)


def test_tables_for_nobody_knows_which_timesteps_are_refused(source):
    with pytest.raises(InputError, match="timestep_tables: the timesteps of the run are not known here"):
        EagerBackend().prepare(source, LAYOUT, BackendOptions(extra=TABLES))
    with pytest.raises(InputError, match="backend 'eager': option timestep_tables='much'"):
        EagerBackend().prepare(source, LAYOUT, BackendOptions(extra={"timestep_tables": "much"}))


def test_tables_are_kept_for_the_same_run_and_made_anew_for_another(source):
    backend = EagerBackend()
    first = with_tables(backend, source, 999, 499)
    assert with_tables(backend, source, 999, 499)._transformer is first._transformer
    other = with_tables(backend, source, 999)
    assert other._transformer is not first._transformer
    assert torch.equal(velocity(other, 0, 999), velocity(first, 0, 999))
    backend.release()
    with pytest.raises(BackendError, match="released; prepare another one"):
        velocity(other, 0, 999)

"""The eager backend's own duties: loading once, devices, and refusing what it was not prepared for."""

import gc
import weakref
from pathlib import Path

import pytest
import torch
from m2d_backends.devices import device_problem
from m2d_backends.eager import EagerBackend

from m2d.backend import BackendOptions, TrainableBackend
from m2d.errors import BackendUnavailable, InputError
from m2d.layout import SceneLayout
from m2d.model.checkpoint import ModelSource, resolve_model
from tests.m2d.model.tiny_model import build_tiny_model, tiny_transformer

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


def test_the_cpu_is_always_there():
    assert device_problem("cpu") is None

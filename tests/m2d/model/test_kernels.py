from __future__ import annotations

import pytest
import torch
from torch.nn.attention import SDPBackend

from m2d.model import kernels
from m2d.model.kernels import attend, can_run, choose_kernel, preferred_kernels
from tests.m2d.families.cogvideox.test_transformer import make_inputs, make_model, max_error, story


def test_cudnn_leads_from_hopper_on_and_flash_before() -> None:
    assert preferred_kernels((9, 0))[0] is SDPBackend.CUDNN_ATTENTION
    assert preferred_kernels((8, 9))[0] is SDPBackend.FLASH_ATTENTION
    assert {len(preferred_kernels(each)) for each in ((8, 0), (10, 0))} == {4}


def test_a_cpu_is_left_to_torch() -> None:
    assert choose_kernel(torch.device("cpu"), torch.float32, 64) is None


def test_on_a_card_the_first_that_runs_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    card, running = torch.device("cuda"), {SDPBackend.FLASH_ATTENTION, SDPBackend.MATH}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(kernels, "can_run", lambda kernel, *_: kernel in running)
    assert choose_kernel(card, torch.bfloat16, 64) is SDPBackend.FLASH_ATTENTION
    running.clear()
    with pytest.raises(RuntimeError, match=r"no attention kernel runs on cuda in torch\.bfloat16"):
        choose_kernel(card, torch.bfloat16, 64)


def test_a_kernel_that_cannot_run_is_noticed_and_never_replaced() -> None:
    cpu = torch.device("cpu")
    assert can_run(SDPBackend.MATH, cpu, torch.float32, 16)
    assert not can_run(SDPBackend.CUDNN_ATTENTION, cpu, torch.float32, 16)
    q = torch.randn(1, 1, 4, 16)
    with pytest.raises(RuntimeError, match=r"(?i)kernel|backend"):
        attend(q, q, q, SDPBackend.CUDNN_ATTENTION)


@torch.no_grad()
def test_every_kernel_gives_the_same_velocity() -> None:
    model, layout = make_model(), story()
    inputs = make_inputs(layout)
    want = model(*inputs, layout=layout)
    model.pin_attention_kernel(SDPBackend.MATH)
    assert max_error(model(*inputs, layout=layout), want) <= 1e-6 * max(1.0, want.abs().max().item())
    model.pin_attention_kernel(SDPBackend.CUDNN_ATTENTION)
    with pytest.raises(RuntimeError, match=r"(?i)kernel|backend"):
        model(*inputs, layout=layout)

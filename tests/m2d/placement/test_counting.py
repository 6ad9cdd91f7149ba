"""What the counter counts: products, convolutions, and memory on the device and outside of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m2d.families.cogvideox.costs import empty_part, vae_costs
from m2d.families.registry import known_model
from m2d.placement.counting import count


def test_tensors_moved_to_the_cpu_leave_the_memory_of_the_device() -> None:
    def run(*, moves: bool) -> int:
        def compute() -> None:
            kept = [torch.empty(1 << 20, device="meta") + 1 for _ in range(4)]
            if moves:
                kept = [tensor.to("cpu") for tensor in kept]
            torch.empty(1 << 20, device="meta").add(1)
            del kept

        return count(compute).peak_bytes

    size = 4 << 20
    assert run(moves=False) == pytest.approx(6 * size, rel=0.2)
    assert run(moves=True) < run(moves=False)


def test_a_tensor_moved_back_counts_again() -> None:
    def compute() -> torch.Tensor:
        away = torch.empty(1 << 20, device="meta").to("cpu")
        return away.to(torch.device("meta"))

    assert count(compute).peak_bytes >= 4 << 20


def test_a_convolution_has_two_operations_for_every_weight_and_value() -> None:
    layer = nn.Conv3d(3, 5, 3, padding=1, bias=False, device="meta")
    counts = count(lambda: layer(torch.empty(1, 3, 4, 8, 8, device="meta")), held=[layer.weight])
    assert counts.convolution_flops == counts.flops == 2 * 5 * 3 * 27 * 4 * 8 * 8


@pytest.mark.long
def test_the_vae_of_the_published_models_takes_what_was_counted_of_it_whole() -> None:
    known = known_model("CogVideoX-5b")
    assert known is not None
    costs = vae_costs(known.vae, (13, 60, 90), dtype=torch.float32)
    # Of 13 latent frames counted as a whole, in GiB and TFLOP.
    assert costs.decode_bytes["plain"] / 2**30 == pytest.approx(29.5, rel=0.01)
    assert costs.decode_bytes["sliced"] / 2**30 == pytest.approx(18.2, rel=0.01)
    assert costs.decode_flops / 1e12 == pytest.approx(315.0, rel=0.001)
    assert costs.encode_flops / 1e12 == pytest.approx(149.0, rel=0.001)


def test_a_key_that_a_network_does_not_take_is_ignored_as_it_is_when_it_is_loaded() -> None:
    config = known_model("cogvideox-5b").vae
    named = [dict(empty_part("vae", each).named_parameters()) for each in (config, {**config, "las": 1})]
    assert named[0].keys() == named[1].keys()

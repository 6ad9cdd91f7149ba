import torch
from torch import nn

from benchmarks.accounting import (
    LARGEST_BYTES_RATIO,
    LARGEST_FLOPS_ERROR,
    LARGEST_PEAK_RATIO,
    attention_flops,
    count_block,
)
from benchmarks.cases import BLOCK_5B
from m2d.placement.counting import count


def test_a_5b_block_moves_and_holds_at_most_half_of_the_official_scheme() -> None:
    counts = count_block()
    for official in (counts.official, counts.official_with_context):
        assert counts.ours.moved_bytes <= LARGEST_BYTES_RATIO * official.moved_bytes
        assert counts.ours.peak_bytes <= LARGEST_PEAK_RATIO * official.peak_bytes
    formula = attention_flops(BLOCK_5B)
    assert abs(counts.ours.attention_flops / formula - 1) <= LARGEST_FLOPS_ERROR
    assert abs(counts.official.attention_flops / formula - 1) <= LARGEST_FLOPS_ERROR
    assert counts.stock.attention_flops > counts.official.attention_flops


def test_an_operation_reads_its_tensors_and_writes_its_results() -> None:
    x = torch.empty(10, 4, device="meta")
    counts = count(lambda: (x + x).view(40)[:8], held=[x])
    assert counts.moved_bytes == 3 * 160
    assert counts.peak_bytes == 160


def test_the_peak_is_what_is_held_at_one_time() -> None:
    x = torch.empty(10, 4, device="meta")
    assert count(lambda: (x * 2 * 2) * 2, held=[x]).peak_bytes == 2 * 160
    assert count(lambda: [x * 2, x * 2, x * 2], held=[x]).peak_bytes == 3 * 160


def test_a_copy_does_not_read_what_it_replaces() -> None:
    x, y = (torch.empty(10, 4, device="meta") for _ in range(2))
    assert count(lambda: x.copy_(y), held=[x, y]).moved_bytes == 2 * 160


def test_a_normalization_pays_for_making_its_input_contiguous() -> None:
    x = torch.empty(4, 10, device="meta")
    norm = nn.LayerNorm(4, elementwise_affine=False)
    small = count(lambda: norm(x.t().contiguous()), held=[x]).moved_bytes
    assert count(lambda: norm(x.t()), held=[x]).moved_bytes == small


def test_products_are_two_operations_each() -> None:
    linear = nn.Linear(4, 6, device="meta")
    x = torch.empty(10, 4, device="meta")
    assert count(lambda: linear(x), held=[x]).matmul_flops == 2 * 10 * 4 * 6
    q, kv = torch.empty(1, 2, 5, 8, device="meta"), torch.empty(1, 2, 7, 8, device="meta")
    attended = count(lambda: nn.functional.scaled_dot_product_attention(q, kv, kv), held=[q, kv])
    assert attended.attention_flops == 4 * 2 * 5 * 7 * 8

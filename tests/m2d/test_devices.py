"""What the CPU is fast at, as Linux lists it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d import devices
from m2d.devices import cpu_fact, cpu_has_bfloat16

LISTED = """\
processor\t: 0
model name\t: Some Processor @ 2.80GHz
flags\t\t: fpu avx2 avx512f {flag} amx_tile
processor\t: 1
model name\t: Another
"""


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    cpu_has_bfloat16.cache_clear()
    yield
    cpu_has_bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("flag", "is_fast"), [("amx_bf16", True), ("avx512_bf16", True), ("avx512_fp16", False), ("", False)]
)
def test_products_in_bfloat16_need_instructions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, is_fast: bool
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(LISTED.format(flag=flag))
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    assert cpu_has_bfloat16() is is_fast
    assert cpu_fact("model name") == "Some Processor @ 2.80GHz"
    assert cpu_fact("bogomips") == ""


def test_a_system_that_lists_nothing_is_not_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "missing")
    assert not cpu_has_bfloat16()
    assert cpu_fact("model name") == ""

"""What the CPU is fast at, as Linux lists it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from m2d import devices
from m2d.devices import bfloat16_unit, cpu_fact, cpu_has_bfloat16
from m2d.pipeline.machine import this_machine

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
    ("flag", "unit"),
    [
        ("amx_bf16", "AMX"),
        ("avx512_bf16", "AVX-512 BF16"),
        ("avx512_bf16 amx_bf16", "AMX"),
        ("avx512_fp16", ""),
        ("", ""),
    ],
)
def test_products_in_bfloat16_need_instructions_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str, unit: str
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(LISTED.format(flag=flag))
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    assert bfloat16_unit() == unit
    assert cpu_has_bfloat16() is bool(unit)
    assert cpu_fact("model name") == "Some Processor @ 2.80GHz"
    assert cpu_fact("bogomips") == ""


def test_a_system_that_lists_nothing_is_not_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "missing")
    assert not cpu_has_bfloat16()
    assert cpu_fact("model name") == ""


@pytest.mark.parametrize(
    ("device", "dtypes", "names_it"),
    [
        ("cpu", ("bfloat16", "float32"), True),
        ("cpu", ("float32", "bfloat16"), True),
        ("cpu", ("float32", "float32"), False),
        ("cuda", ("bfloat16", "float32"), False),
    ],
)
def test_a_film_in_bfloat16_records_what_multiplied_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, dtypes: tuple[str, ...], names_it: bool
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(LISTED.format(flag="amx_bf16"))
    monkeypatch.setattr(devices, "_CPU_INFO", path)
    record = this_machine(device, dtypes=dtypes, num_threads=2)
    assert record.processor.startswith("Some Processor, ")
    assert record.processor.endswith(", AMX") is names_it

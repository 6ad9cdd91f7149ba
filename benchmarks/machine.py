"""The machine of a benchmark: versions, processor, measured rates, attention kernels.

Does not time models, and records no host or user name.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

_PACKAGES = ("torch", "diffusers", "onnxruntime", "onnxruntime-gpu", "triton", "nvidia-cudnn-cu13")
_CUBE = {"cpu": 1024, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**26, "cuda": 2**32}


def describe_machine(device: str) -> dict[str, object]:
    """Return processor or GPU, threads and versions."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    facts: dict[str, object] = {
        "processor": _processor_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": versions,
    }
    if device.startswith("cuda"):
        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "card": properties.name,
            "capability": f"sm_{properties.major}{properties.minor}",
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]  # torch
        }
    return facts


def roofline(device: str, dtype: torch.dtype) -> dict[str, float]:
    """Measure the current rates of the machine for a large square product and a copy."""
    kind = device.split(":")[0]
    side = _CUBE[kind]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    # Several in a row, with one start and one synchronization of the GPU.
    num_products = 1 if kind == "cpu" else 20

    def multiply() -> None:
        for _ in range(num_products):
            torch.mm(left, right)

    product_s = _median_seconds(multiply, device) / num_products
    source = torch.randn(_COPY_BYTES[kind] // 4, device=device)
    target = torch.empty_like(source)
    copy_s = _median_seconds(lambda: target.copy_(source), device)
    return {
        "matmul_side": float(side),
        "matmul_flop_per_s": 2 * side**3 / product_s,
        "copy_byte_per_s": 2 * source.nbytes / copy_s,
    }


def attention_kernels(run: Callable[[], object], device: str) -> list[str]:
    """Return the attention operations and kernels that a call ran, or why the profiler cannot show them."""
    activities = [ProfilerActivity.CPU]
    if device.startswith("cuda"):
        activities.append(ProfilerActivity.CUDA)
    try:
        with profile(activities=activities, acc_events=True) as found:
            run()
            if device.startswith("cuda"):
                torch.cuda.synchronize(device)
    except RuntimeError as error:
        return [f"not known: {error}"]
    names = {event.key for event in found.key_averages()}
    marks = ("_scaled_dot_product", "flash", "fmha", "cudnn_generated", "attention")
    plain = {"aten::scaled_dot_product_attention", "aten::_scaled_dot_product_attention_math_for_mps"}
    return sorted(name for name in names - plain if any(mark in name.lower() for mark in marks))


def _median_seconds(run: Callable[[], object], device: str, *, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats + 1):
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

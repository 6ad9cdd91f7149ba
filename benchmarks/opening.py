"""What a checkpoint costs to open: memory while a part is loaded, seconds until a bad folder is refused.

Run: `python -m benchmarks.opening`. Writes `benchmarks/results/opening.json` and fails if a limit is missed.
The folders have the layout of CogVideoX-5B, at full width; their weights are zeros, in files of 3 GB on the
disk at most. Memory is the largest resident size, mapped files included, above that of a process that has
loaded a small model, with every weight read once; each part is opened in a new process. The refusals are
whole commands, by their processor time, which is their time on an idle machine. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch

from m2d.errors import EXIT_BAD_INPUT
from m2d.families.family import KnownModel
from m2d.families.loading import load_text, load_transformer, load_vae
from m2d.families.registry import family_of, known_model
from m2d.files import write_json
from m2d.model.components import COMPONENTS
from m2d.reading import read_text
from m2d.tasks.models import make_random
from m2d.tensor_files import read_header

RESULTS = Path(__file__).parent / "results" / "opening.json"
MODEL = "cogvideox-5b"
LIMITS = {"peak_share": 1.1, "refusal_s": 2.0}
# Enough for sizes of gigabytes; the largest tensor, T5's vocabulary, is then a small share of its part.
NUM_LAYERS = 12
# The least counts: other programs slow each other down.
NUM_REFUSALS = 5
_WRITTEN_SHARE, _ZEROS = 7, bytes(1 << 20)
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_LOADERS: Mapping[str, Callable[..., Any]] = {
    "transformer": load_transformer,
    "text_encoder": load_text,
    "vae": load_vae,
}
STORY = """title: Opening
scenes: [A red hat jumps over the wall., The hat lands.]
"""


class Opening(NamedTuple):
    """A part, the type of its weights on the disk and in memory, and the number of its files."""

    part: str
    stored: str
    opened: str
    num_files: int

    def __str__(self) -> str:
        files = "one file" if self.num_files == 1 else f"{self.num_files} files"
        return f"{self.part}, {self.stored} in {files}, opened in {self.opened}"


OPENINGS = (
    Opening("transformer", "BF16", "BF16", 1),
    Opening("transformer", "F32", "BF16", 1),
    Opening("transformer", "F32", "BF16", 3),
    Opening("transformer", "BF16", "F32", 2),
    Opening("text_encoder", "F32", "BF16", 2),
    Opening("text_encoder", "BF16", "F16", 1),
    Opening("vae", "BF16", "F32", 1),
)


def write_folder(
    folder: Path, *, num_layers: int, dtype: str = "BF16", num_files: int = 1, parts: tuple[str, ...] = ()
) -> None:
    """Write a folder of the published layout whose weights are zeros.

    Args:
        num_layers: Layers of transformer and text encoder.
        parts: Parts of full size; the others are tiny. Empty: all.
    """
    known = known_model(MODEL)
    assert known is not None
    make_random(MODEL, folder, is_tiny=True)
    for name in parts or _LOADERS:
        config = _config(known, name, num_layers)
        path = folder / name / COMPONENTS[name].config
        write_json(path, json.loads(read_text(path, limit_bytes=1 << 20)) | config)
        model = family_of(folder).empty_part(name, config)
        tied = getattr(model, "_tied_weights_keys", None) or {}
        shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items() if key not in tied}
        write_weights(folder / name, COMPONENTS[name].stem, shapes, dtype=dtype, num_files=num_files)


def _config(known: KnownModel, name: str, num_layers: int) -> dict[str, Any]:
    config = dict(getattr(known, name))
    if "num_layers" in config:
        config["num_layers"] = min(num_layers, config["num_layers"])
    return config


def write_weights(
    folder: Path, stem: str, shapes: Mapping[str, list[int]], *, dtype: str, num_files: int
) -> None:
    """Write zeros of these shapes into one safetensors file, or into several with an index."""
    (folder / f"{stem}.safetensors").unlink()
    if num_files == 1:
        write_zeros(folder / f"{stem}.safetensors", shapes, dtype=dtype)
        return
    weight_map: dict[str, str] = {}
    for number in range(num_files):
        file = f"{stem}-{number + 1:05}-of-{num_files:05}.safetensors"
        names = list(shapes)[number::num_files]
        write_zeros(folder / file, {name: shapes[name] for name in names}, dtype=dtype)
        weight_map |= dict.fromkeys(names, file)
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write_zeros(path: Path, shapes: Mapping[str, list[int]], *, dtype: str) -> None:
    """Write a safetensors file of zeros, most of which take no space on the disk."""
    item_bytes = 1 if dtype.startswith("F8") else _DTYPES[dtype].itemsize
    header, position = {}, 0
    for name, shape in shapes.items():
        stop = position + math.prod(shape) * item_bytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        # A file with larger holes is refused as what was never downloaded.
        for _ in range(position // _WRITTEN_SHARE // len(_ZEROS) + 1):
            file.write(_ZEROS)
        file.truncate(8 + len(text) + position)


def measure_opening(opening: Opening, folder: Path, small: Path) -> dict[str, Any]:
    """Open a part, read all of it once, and return its size and the memory that it took."""
    load = _LOADERS[opening.part]
    options: dict[str, Any] = {"device": "cpu", "dtype": _DTYPES[opening.opened]}
    if opening.part == "text_encoder":
        # The folder's transformer is a tiny one, which takes narrower embeddings.
        options["max_tokens"] = 226
    # Loads the libraries.
    load(small, **options)
    # Makes the largest resident size that of now (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    before, began_s = _largest_resident(), time.perf_counter()
    loaded = load(folder, **options)
    module = {"text_encoder": "model", "vae": "module"}.get(opening.part)
    weights = list((getattr(loaded, module) if module else loaded).parameters())
    for weight in weights:
        weight.detach().flatten()[::512].sum()
    peak, size = _largest_resident() - before, sum(weight.nbytes for weight in weights)
    seconds = time.perf_counter() - began_s
    return {"size_bytes": size, "peak_bytes": peak, "peak_share": peak / size, "seconds": seconds}


def _largest_resident() -> int:
    for line in read_text(Path("/proc/self/status"), limit_bytes=1 << 16).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM")


def open_all(root: Path) -> dict[str, dict[str, Any]]:
    """Measure every opening in a process of its own."""
    make_random(MODEL, root / "small", is_tiny=True)
    found = {}
    for number, opening in enumerate(OPENINGS):
        folder = root / f"model-{number}"
        write_folder(
            folder,
            num_layers=NUM_LAYERS,
            dtype=opening.stored,
            num_files=opening.num_files,
            parts=(opening.part,),
        )
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found[str(opening)] = pool.apply(measure_opening, (opening, folder, root / "small"))
        shutil.rmtree(folder)
        sys.stdout.write(f"{opening}: {found[str(opening)]['peak_share']:.3f} of its size\n")
    return found


def _rename(change: Callable[[str], str], dtype: str = "BF16") -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        _rewrite(folder, lambda shapes: {change(key): shape for key, shape in shapes.items()}, dtype)

    return damage


def _rewrite(
    folder: Path, change: Callable[[dict[str, list[int]]], dict[str, list[int]]], dtype: str = "BF16"
) -> None:
    path = _transformer_file(folder)
    shapes = {name: list(entry.shape) for name, entry in read_header(path).tensors.items()}
    path.unlink()
    write_zeros(path, change(shapes), dtype=dtype)


def _transformer_file(folder: Path) -> Path:
    return folder / "transformer" / f"{COMPONENTS['transformer'].stem}.safetensors"


def _truncate(folder: Path) -> None:
    path = _transformer_file(folder)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def _pickle(folder: Path) -> None:
    path = _transformer_file(folder)
    path.rename(path.with_suffix(".bin"))


def _without_last(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return dict(list(shapes.items())[:-1])


def _widened(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    return shapes | {"proj_out.bias": [65]}


DAMAGES: Mapping[str, Callable[[Path], None]] = {
    "truncated": _truncate,
    "a pickle": _pickle,
    "fp8": _rename(str, "F8_E4M3"),
    "a tensor missing": lambda folder: _rewrite(folder, _without_last),
    "a tensor of another shape": lambda folder: _rewrite(folder, _widened),
    "of a compiled model": _rename("_orig_mod.{}".format),
}


class _Refusal(NamedTuple):
    cpu_s: float
    wall_s: float
    message: str


def _refused(words: tuple[str, ...]) -> _Refusal:
    """Run `m2d`, which has to refuse its input.

    Raises:
        RuntimeError: It ended otherwise.
    """
    with tempfile.TemporaryFile() as errors:
        began_s = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "m2d", *words], stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        errors.seek(0)
        message = errors.read().decode(errors="replace").strip()
    if process.returncode != EXIT_BAD_INPUT:
        raise RuntimeError(f"m2d {' '.join(words)} exited with {process.returncode}: {message}")
    return _Refusal(usage.ru_utime + usage.ru_stime, wall_s, message.splitlines()[-1])


def refuse_all(root: Path) -> dict[str, dict[str, Any]]:
    """Time how `m2d check` and `m2d generate` refuse a whole 5B folder with one fault."""
    story = root / "story.yaml"
    story.write_text(STORY)
    found = {}
    for name, damage in DAMAGES.items():
        folder = root / name.replace(" ", "-")
        write_folder(folder, num_layers=1000)
        damage(folder)
        for task in ("check", "generate"):
            words = (task, str(story), "--model", str(folder), "--out", str(root / "film.mp4"))
            runs = [_refused(words if task == "generate" else words[:4]) for _ in range(NUM_REFUSALS)]
            cpu_s, wall_s, message = min(runs)
            found[f"{name}, m2d {task}"] = {
                "cpu_s": cpu_s,
                "wall_s": wall_s,
                "message": message.replace(f"{root}/", ""),
            }
            sys.stdout.write(f"{name}, m2d {task}: {cpu_s:.2f} s, {wall_s:.2f} s with waiting\n")
        shutil.rmtree(folder)
    return found


def main() -> int:
    """Measure, write the figures and report whether all limits are met."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        opened, refused = open_all(Path(folder)), refuse_all(Path(folder))
    figures = {
        "peak_share": max(each["peak_share"] for each in opened.values()),
        "refusal_s": max(each["cpu_s"] for each in refused.values()),
    }
    kept = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    report = {
        "what": "CogVideoX-5B at full width: parts of some layers opened, whole folders with a fault refused",
        "figures": figures,
        "limits": LIMITS,
        "kept": kept,
        "num_layers": NUM_LAYERS,
        "openings": opened,
        "refusals": refused,
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in ("m2d", "torch", "diffusers")},
    }
    write_json(RESULTS, report)
    sys.stdout.write(f"{RESULTS}: {figures}\n")
    return 0 if all(kept.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

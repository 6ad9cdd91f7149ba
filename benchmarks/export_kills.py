"""Kills exports by `kill -9` at random moments, repeats them, and compares the graphs.

Run: `python -m benchmarks.export_kills [--kills N] [--model NAME]`. Writes
`benchmarks/results/export_kills.json` and fails if an incomplete graph ever had a graph's name, if a graph
differs from that of an undisturbed export, or if a file is left over.

The model is traced once: that takes most of an export's time and changes nothing on disk, so that a kill
during it leaves what one just before leaves. Kills are spread over the rest.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import onnx_ir as ir
import torch
from m2d_backends import onnx_export
from m2d_backends.baked import BakedTransformer
from m2d_backends.onnx_graph import Opset

from benchmarks.child import BEGIN, END, Child
from benchmarks.train_kills import write_kills
from m2d.backend import BackendOptions
from m2d.families.source import resolve_model
from m2d.files import sha256_file
from m2d.progress import Reporter, SilentReporter
from m2d.registry import get_backend
from m2d.tasks.export import StoryShape, graph_of, run

RESULTS = Path(__file__).parent / "results" / "export_kills.json"
NUM_KILLS = 30
SEED = 613
BACKEND = "onnx"
SHAPE = StoryShape(num_scenes=2, frames=(5,), size=(32, 32), mask="mask2dit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One killed export and its outcome.

    Attributes:
        after_s: Seconds into the export at which it was killed.
        was_there: Whether the graph already had its name.
        wrong: Faults.
    """

    after_s: float
    was_there: bool
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """An export whose undisturbed run is done.

    Attributes:
        digests: sha256 of each file of its graph, without the manifest, which holds the time.
        export_s: Seconds of that run.
    """

    model: str
    digests: dict[str, str]
    export_s: float

    def start(self, folder: Path) -> Child:
        """Export to `folder` in a child process."""
        return Child(lambda reporter: export(self.model, folder, reporter))


def export(model: str, folder: Path, reporter: Reporter) -> bool:
    """Export the graph; return whether it was made, and not there already."""
    request = graph_of(resolve_model(model), SHAPE, BackendOptions(device="cpu"))
    graphs = run([request], get_backend(BACKEND), reporter=reporter, out=folder)
    return graphs[0].artifact is not None


def prepare(folder: Path, *, model: str) -> Prepared:
    """Export twice without disturbance: the first run imports everything."""
    torch.set_num_threads(1)
    export(model, folder / "warm-up", SilentReporter())
    child = Child(lambda reporter: export(model, folder / "straight", reporter))
    code = child.wait()
    if code:
        raise RuntimeError(f"the undisturbed export failed with {code}: {child.error}")
    return Prepared(
        model=model, digests=_digests(folder / "straight"), export_s=sum(child.spans_s().values())
    )


@contextmanager
def traced_once() -> Iterator[None]:
    """Trace the model in the first export of the block, and let later exports write that graph."""
    trace, graphs = onnx_export.trace, list[ir.Model]()

    def traced(baked: BakedTransformer, opset: Opset) -> ir.Model:
        if not graphs:
            graphs.append(trace(baked, opset))
        return graphs[0].clone()

    with mock.patch.object(onnx_export, "trace", traced):
        yield


def kill_often(prepared: Prepared, folder: Path, *, count: int, seed: int = SEED) -> Iterator[Kill]:
    """Kill `count` exports, each at a uniformly drawn moment, and repeat each."""
    draw = random.Random(seed)
    for index in range(count):
        yield kill_and_repeat(prepared, folder / f"run-{index}", after_s=draw.uniform(0, prepared.export_s))


def kill_and_repeat(prepared: Prepared, folder: Path, *, after_s: float) -> Kill:
    """Kill an export, repeat it to its end, and compare; remove the folder if there is no fault."""
    child = prepared.start(folder)
    child.wait_for(BEGIN)
    time.sleep(after_s)
    child.kill(with_encoder=True)
    child.wait()
    named = {path.name for path in folder.glob("*") if not path.name.startswith(".")}
    wrong = []
    again = Child(lambda reporter: reporter.send("note", str(export(prepared.model, folder, reporter))))
    code = again.wait()
    if again.stage != END:
        wrong.append(f"the repeated export failed with {code}: {again.error}")
    elif named and again.messages[-2].text == "True":
        wrong.append("an incomplete graph had a graph's name")
    wrong += [f"{name}: differs" for name in prepared.digests.items() ^ _digests(folder).items()]
    wrong += [f"left over: {path.name}" for path in folder.rglob("*") if ".part" in path.name]
    if not wrong:
        shutil.rmtree(folder)
    return Kill(after_s=round(after_s, 3), was_there=bool(named), wrong=tuple(wrong))


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def main() -> int:
    """Kill, repeat, compare and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=NUM_KILLS)
    parser.add_argument("--model", default="builtin:puppet")
    parser.add_argument("--out", type=Path, default=RESULTS)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        # The key that signs graphs.
        os.environ["M2D_CACHE"] = name
        with traced_once():
            prepared = prepare(Path(name), model=words.model)
            kills = list(kill_often(prepared, Path(name), count=words.kills))
    facts = {
        "what": "kill -9 of exports at random moments, then the same export again",
        "backend": BACKEND,
        "model": Path(words.model).name,
        "before_the_graph_was_there": sum(not kill.was_there for kill in kills),
        "seed": SEED,
        "export_s": round(prepared.export_s, 2),
    }
    return write_kills(words.out, [asdict(kill) for kill in kills], facts)


if __name__ == "__main__":
    sys.exit(main())

"""The data set pipeline against its targets.

Run: `python -m benchmarks.data_set PART... [--film bbb.mp4]`; parts are `cuts`, `fit`, `moments`, `relate`,
`film`, `baselines`, `memory`, `kills`, `broken`, `train` and `finetuned`. Each writes its own entry of
`benchmarks/results/data_set.json`. `film` and `baselines` need Big Buck Bunny at 720p, and the networks
efficientnet and transnetv2. Puppet films are rendered as needed; `fit` measures the likeness of puppets on
stories that no other part uses, rendered shot by shot.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.data_set_faults import measure_broken, measure_kills
from benchmarks.data_set_films import measure_baselines, measure_film, measure_memory
from benchmarks.data_set_puppets import measure_cuts, measure_finetuned, measure_relate, measure_train
from benchmarks.data_set_stories import measure_fit, measure_moments
from m2d.curation.cut_detectors import DETECTORS
from m2d.files import write_json

RESULTS = Path(__file__).parent / "results" / "data_set.json"


def main() -> None:
    """Measure the parts and record them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="+")
    parser.add_argument("--film", type=Path)
    parser.add_argument("--detectors", nargs="+", default=["shots", *DETECTORS, "scenedetect"])
    parser.add_argument(
        "--part", choices=["blind", "seen"], default="blind", help="of the film, for baselines"
    )
    parser.add_argument("--minutes", type=float, default=2.0, help="length of a puppet film")
    parser.add_argument("--lengths", type=float, nargs="+", default=[2, 10, 40], help="minutes, for memory")
    parser.add_argument(
        "--films", type=int, default=30, help="puppet films for finetuned, and for relate, three per seed"
    )
    parser.add_argument("--stories", type=int, default=500, help="puppet stories for fit")
    parser.add_argument("--clips", type=int, default=400, help="puppet scenes for moments")
    parser.add_argument("--evaluated", type=int, default=40, help="stories that finetuned makes")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--broken", type=int, default=220)
    parser.add_argument("--steps", type=int, default=3, help="steps of the training")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--folder", type=Path, help="keep films and sets here, and use what is there")
    given = parser.parse_args()
    parts: dict[str, Callable[[Path], dict[str, Any]]] = {
        "cuts": lambda folder: measure_cuts(folder, given.minutes),
        "fit": lambda _: measure_fit(given.stories),
        "moments": lambda _: measure_moments(given.clips),
        "relate": lambda folder: measure_relate(folder, given.minutes, given.films),
        "film": lambda folder: measure_film(folder, given.film),
        "baselines": lambda _: measure_baselines(given.film, given.detectors, given.part),
        "memory": lambda folder: measure_memory(folder, given.lengths),
        "kills": lambda folder: measure_kills(folder, given.kills),
        "broken": lambda folder: measure_broken(folder, given.videos, given.broken),
        "train": lambda folder: measure_train(folder, given.steps),
        "finetuned": lambda folder: measure_finetuned(
            folder, num_films=given.films, minutes=given.minutes, num_stories=given.evaluated
        ),
    }
    for name in given.parts:
        with tempfile.TemporaryDirectory() as folder:
            result = parts[name](given.folder or Path(folder))
        found = json.loads(given.results.read_text()) if given.results.is_file() else {}
        if name == "baselines":
            # Parts and detectors may be measured one by one.
            earlier = found.get(name, {})
            result = earlier | result | {given.part: earlier.get(given.part, {}) | result[given.part]}
        write_json(given.results, found | {name: result})


if __name__ == "__main__":
    main()

"""How likely two shots of puppet films show one story, by what their attribute classifier reads.

A story keeps its cast, the cast's size and eyes, and what stands in a place that it returns to; place and
time change from shot to shot. Logistic regression weighs these; `benchmarks.data_set fit` measures the
weights on films of its own. Shapes: N shots.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from m2d.evaluation.consistency import Scores
from m2d.evaluation.embedder import Extractor, Features
from m2d.evaluation.puppet_embedder import READER, PuppetEmbedder, answers_of, share_of
from m2d.puppet.labels import NUM_SLOTS, UNPROMPTED_RANGES

_LOOKS = ("shape", "colour", "hat")
# Distances in places where things stand, as shares of their range, that count once; at most two count.
_SCALES = {"tree_x": 0.1, "horizon_y": 0.1, "sun_x": 0.08}
WEIGHTS: Mapping[str, float] = {
    "eyes": -1.21,
    "actor_size": -3.86,
    "actor1": 1.84,
    "actor2": 1.77,
    "shape": -0.87,
    "colour": -3.15,
    "hat": -1.71,
    "tree_x": -0.32,
    "horizon_y": -0.45,
    "sun_x": -0.23,
}
BIAS = 1.55


class PuppetLikeness:
    """The networks of `PuppetEmbedder` with this likeness as similarity, from 0 to 1."""

    def __init__(self, embedder: PuppetEmbedder) -> None:
        """Use the classifier of `embedder`."""
        self.extractors: Mapping[str, Extractor] = embedder.extractors

    def similarity(self, features: Features) -> Scores:
        """Return the likeness of every pair of shots, (N, N)."""
        evidence = evidence_of(features)
        return np.asarray(1 / (1 + np.exp(-BIAS - sum(WEIGHTS[name] * evidence[name] for name in WEIGHTS))))


def evidence_of(features: Features) -> dict[str, Scores]:
    """Return what is compared of every pair of shots, (N, N) each: shared actors, and differences."""
    answers = answers_of(features[READER])
    numbers = dict(zip(UNPROMPTED_RANGES, answers[:, -len(UNPROMPTED_RANGES) :].clip(0, 1).T, strict=True))
    apart = {name: np.abs(each[:, None] - each) for name, each in numbers.items()}
    found = {"eyes": 1 - _agreement(answers, "eyes"), "actor_size": apart["actor_size"]}
    found |= dict.fromkeys(_LOOKS, np.zeros((len(answers), len(answers))))
    for slot in range(1, NUM_SLOTS + 1):
        is_on_N = share_of(answers, f"actor{slot}.on_stage")[:, 1]
        both = np.outer(is_on_N, is_on_N)
        found[f"actor{slot}"] = both
        for look in _LOOKS:
            found[look] = found[look] + both * (1 - _agreement(answers, f"actor{slot}.{look}"))
    same_place = _agreement(answers, "setting")
    same = {"tree_x": same_place, "horizon_y": same_place, "sun_x": same_place * _agreement(answers, "time")}
    return found | {name: same[name] * np.clip(apart[name] / scale, 0, 2) for name, scale in _SCALES.items()}


def _agreement(answers_ND: Scores, name: str) -> Scores:
    """Return the Bhattacharyya coefficients of a class's probabilities."""
    roots = np.sqrt(share_of(answers_ND, name))
    return np.asarray(roots @ roots.T)

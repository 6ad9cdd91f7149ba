"""How likely shots of puppet films show one story, by what their attribute classifier reads.

A story keeps its cast, the cast's size and eyes, and what stands in a place that it returns to; place and
time change from shot to shot. All shots are judged at once, by Bayes' rule: how likely are these readings if
the shots show one story, against a story for each shot? `benchmarks.data_set fit` measures what they keep.
Shapes: K shots, C classes, G values of a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from m2d.evaluation.consistency import Scores
from m2d.evaluation.embedder import Extractor, Features
from m2d.evaluation.puppet_embedder import READER, PuppetEmbedder, answers_of, share_of
from m2d.puppet.labels import NUM_SLOTS, UNPROMPTED_RANGES

_LOOKS = ("shape", "colour", "hat")
# The classifier is sometimes wrong where it is certain: this share of probability goes to all classes alike.
_FLOOR = 0.01
# Standard deviation of what is read of a number, as a share of its range, and how often it is anything: as
# `fit` measures them, rounded up.
_NOISE: Mapping[str, tuple[float, float]] = {
    "tree_x": (0.03, 0.02),
    "sun_x": (0.03, 0.02),
    "horizon_y": (0.025, 0.02),
    "actor_size": (0.045, 0.05),
}
_VALUES_G = np.linspace(0, 1, 101)
# The evidence, in nats, at which shots are as likely to be kept as not.
LEAST_EVIDENCE = 2.0


class PuppetLikeness:
    """The networks of `PuppetEmbedder` with this likeness."""

    def __init__(self, embedder: PuppetEmbedder) -> None:
        """Use the classifier of `embedder`."""
        self.extractors: Mapping[str, Extractor] = embedder.extractors

    def likeness(self, features: Features) -> float:
        """Return how likely all shots show one story, from 0 to 1."""
        evidence = evidence_of(answers_of(features[READER]))
        return float(1 / (1 + np.exp(LEAST_EVIDENCE - evidence)))


def evidence_of(answers_KD: Scores) -> float:
    """Return the logarithm of the likelihood ratio of one story against a story for each shot."""
    values = answers_KD[:, -len(UNPROMPTED_RANGES) :]
    numbers = {
        name: _density(values[:, column], *_NOISE[name]) for column, name in enumerate(UNPROMPTED_RANGES)
    }
    always_K = np.ones(len(answers_KD))
    found = _same_class(_softened(share_of(answers_KD, "eyes")), always_K)
    found += np.log(_same_number(numbers["actor_size"]))
    for slot in range(1, NUM_SLOTS + 1):
        is_on_K = share_of(answers_KD, f"actor{slot}.on_stage")[:, 1]
        for look in _LOOKS:
            found += _same_class(_softened(share_of(answers_KD, f"actor{slot}.{look}")), is_on_K)
    return float(found + _same_grounds(answers_KD, numbers))


def _softened(shares_KC: Scores) -> Scores:
    return np.asarray((1 - _FLOOR) * shares_KC + _FLOOR / shares_KC.shape[1])


def _same_class(shares_KC: Scores, is_shown_K: Scores) -> float:
    """Return the logarithm of the ratio for a property that is one of C equally likely classes."""
    ratios_KC = is_shown_K[:, None] * shares_KC * shares_KC.shape[1] + 1 - is_shown_K[:, None]
    return float(np.log(ratios_KC.prod(axis=0).mean()))


def _density(read_K: Scores, noise: float, stray: float) -> Scores:
    """Return how likely each reading is for each true value, (K, G)."""
    offsets_KG = (_VALUES_G - read_K[:, None]) / noise
    near_KG = np.exp(-(offsets_KG**2) / 2) / (noise * np.sqrt(2 * np.pi))
    return np.asarray((1 - stray) * near_KG + stray)


def _same_number(density_KG: Scores) -> float:
    """Return the ratio for a number that is equally likely anywhere in its range."""
    return float((density_KG / density_KG.mean(axis=1, keepdims=True)).prod(axis=0).mean())


def _same_grounds(answers_KD: Scores, numbers: Mapping[str, Scores]) -> float:
    """Return the logarithm of the ratio for where tree, horizon and sun stand in shots of one place.

    Of the pairs of K shots only K - 1 are independent, so each counts 2 / K.
    """
    settings_KC, times_KC = (share_of(answers_KD, name) for name in ("setting", "time"))
    found = 0.0
    for pair in combinations(range(len(answers_KD)), 2):
        places = list(pair)
        is_same = float(settings_KC[places].prod(axis=0).sum())
        is_same_time = is_same * float(times_KC[places].prod(axis=0).sum())
        for name, share in (("tree_x", is_same), ("horizon_y", is_same), ("sun_x", is_same_time)):
            found += float(np.log(share * _same_number(numbers[name][places]) + 1 - share))
    return 2 / len(answers_KD) * found

"""How well scores rank what belongs together before what does not: R@1, R@5 and AUC, beside chance.

A prompt is ranked among all prompts of the set, a scene among all scenes. Owns the ranks; an embedder scores.
Shapes: N scenes of the set, C candidates, D features of a scene, S stories.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from m2d.evaluation.consistency import Scores, cosines, tally_means
from m2d.evaluation.embedder import Embedder, Features
from m2d.evaluation.intervals import Tally

Flags = npt.NDArray[np.bool_]

_FIRST, _FEW = 1, 5
# With fewer candidates, chance alone places its own among the first five more often than not.
_FEWEST_FOR_FEW = 2 * _FEW
# Scores of one value differ by the order of their sums; those are tied.
_DIGITS = 9
# Scenes whose scores are in memory at a time.
_BLOCK = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """Where a scene's own candidates are among all. Tied ones are in random order, so a recall may be a part.

    Attributes:
        recall: By k, the probability that an own candidate is among the first k.
        chance: By k, the same probability if all candidates were tied.
        auc: Share of pairs of an own and another candidate in which the own one is first; NaN without pairs.
    """

    recall: dict[int, float]
    chance: dict[int, float]
    auc: float


def rank_of(scores_C: Scores, is_own_C: Flags) -> Rank:
    """Return the rank of a scene's own candidates; those without a score (NaN) do not take part."""
    is_known_C = ~np.isnan(scores_C)
    rounded_C = np.round(scores_C, _DIGITS)
    own, others = rounded_C[is_known_C & is_own_C], rounded_C[is_known_C & ~is_own_C]
    if not len(own) or not len(others):
        unknown = dict.fromkeys((_FIRST, _FEW), math.nan)
        return Rank(recall=unknown, chance=unknown, auc=math.nan)
    best = own.max()
    num_before, num_tied = int((others > best).sum()), int((others == best).sum())
    num_best = int((own == best).sum())
    gaps = own[:, None] - others
    return Rank(
        recall={k: _hit(k - num_before, own=num_best, others=num_tied) for k in (_FIRST, _FEW)},
        chance={k: _hit(k, own=len(own), others=len(others)) for k in (_FIRST, _FEW)},
        auc=float((gaps > 0).mean() + (gaps == 0).mean() / 2),
    )


def prompt_ranks(
    embedder: Embedder, features: Sequence[Features], prompts: Sequence[Sequence[str]]
) -> dict[str, Tally]:
    """Return how well scenes find their own prompts: `prompt_recall_1`, `prompt_recall_5`, `prompt_auc`.

    Prompts with the same words are one candidate. The second figure needs at least ten candidates; all need
    two stories, and are left out otherwise.

    Args:
        features: Of the scenes of each story.
        prompts: Of the scenes of each story.
    """
    texts = [" ".join(prompt.split()) for story in prompts for prompt in story]
    places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    own_N = np.array([places[text] for text in texts])
    found = []
    for start, block in _blocks(features):
        match_NC = embedder.match(block, list(places))
        own = own_N[start : start + len(match_NC), None] == np.arange(len(places))
        found += [rank_of(*row) for row in zip(match_NC, own, strict=True)]
    tallies = _tallies("prompt", found, [len(story) for story in prompts], counts=(_FIRST, _FEW))
    return tallies if len(places) >= _FEWEST_FOR_FEW else _without(tallies, f"prompt_recall_{_FEW}")


def scene_ranks(embedder: Embedder, features: Sequence[Features]) -> dict[str, Tally]:
    """Return how well scenes find others of their own story: `scene_recall_1` and `scene_auc`.

    Left out with fewer than two stories of several scenes.

    Args:
        features: Of the scenes of each story.
    """
    embeddings_ND = np.concatenate([embedder.embeddings(each) for each in features])
    sizes = [_num_scenes(each) for each in features]
    story_N = np.repeat(np.arange(len(sizes)), sizes)
    found = []
    for start in range(0, len(story_N), _BLOCK):
        similarity_NC = cosines(embeddings_ND[start : start + _BLOCK], embeddings_ND)
        for number, scores_C in enumerate(similarity_NC, start=start):
            is_other_C = np.arange(len(story_N)) != number
            is_own_C = story_N == story_N[number]
            found.append(rank_of(scores_C[is_other_C], is_own_C[is_other_C]))
    return _tallies("scene", found, sizes, counts=(_FIRST,))


def _hit(num_first: int, *, own: int, others: int) -> float:
    """Return the probability that one of `own` is among the first, in a random order of both."""
    num_drawn = min(max(num_first, 0), own + others)
    return 1 - math.comb(others, num_drawn) / math.comb(own + others, num_drawn)


def _blocks(features: Sequence[Features]) -> Iterator[tuple[int, Features]]:
    """Yield the first scene's number, and the features of at most `_BLOCK` scenes, of any story."""
    all_features = {name: np.concatenate([each[name] for each in features]) for name in features[0]}
    for start in range(0, _num_scenes(all_features), _BLOCK):
        yield start, {name: each[start : start + _BLOCK] for name, each in all_features.items()}


def _num_scenes(features: Features) -> int:
    return len(next(iter(features.values())))


def _tallies(
    name: str, ranks: Sequence[Rank], sizes: Sequence[int], *, counts: Sequence[int]
) -> dict[str, Tally]:
    """Return the means of the stories; nothing for fewer than two stories that have one."""
    stops = np.cumsum(sizes)
    stories = [ranks[stop - size : stop] for stop, size in zip(stops, sizes, strict=True)]
    found = {
        f"{name}_recall_{k}": replace(
            _story_means([[rank.recall[k] for rank in story] for story in stories]),
            chance=_mean_of(_story_means([[rank.chance[k] for rank in story] for story in stories])),
        )
        for k in counts
    }
    auc = _story_means([[rank.auc for rank in story] for story in stories])
    found[f"{name}_auc"] = replace(auc, chance=0.5)
    return found if auc.counts_S.sum() > 1 else {}


def _story_means(values: Sequence[Sequence[float]]) -> Tally:
    known = [[value for value in story if not math.isnan(value)] for story in values]
    return tally_means([sum(story) / len(story) if story else math.nan for story in known])


def _mean_of(tally: Tally) -> float:
    return float(tally.amounts_S.sum() / max(tally.counts_S.sum(), 1))


def _without(tallies: dict[str, Tally], name: str) -> dict[str, Tally]:
    return {each: tally for each, tally in tallies.items() if each != name}

"""The embedder of real videos: EfficientNet-Lite0 for pictures, and the label bridge for prompts.

The label bridge (ConSE, Norouzi et al. 2014) compares a video with a text by way of class labels: the
sentence vectors of the likeliest labels of I3D (actions) and of EfficientNet (things), weighted by their
probability, against the sentence vector of the prompt. It is coarse; it is no CLIP score.
Shapes: N scenes, M prompts, K classes, D features of a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources

import numpy as np

from m2d.evaluation.consistency import Scores, cosines
from m2d.evaluation.efficientnet import NUM_FEATURES, EfficientNet
from m2d.evaluation.embedder import Extractor, Features
from m2d.evaluation.i3d import I3D
from m2d.evaluation.intervals import Tally
from m2d.evaluation.sentences import Sentences

VISUAL_NETWORKS = ("efficientnet",)
PROMPT_NETWORKS = ("i3d", "minilm")
DISTANCE_NETWORKS = ("i3d",)
_PICTURES, _ACTIONS = "pictures", "actions"
_LABELS = {_PICTURES: "imagenet-1000.txt", _ACTIONS: "kinetics-400.txt"}
_TOP = 10


class NaturalEmbedder:
    """Scores scenes of any video."""

    def __init__(self, *, device: str, has_prompts: bool, has_reference: bool) -> None:
        """Load the networks that are needed from the cache.

        Args:
            has_prompts: Whether scenes are compared with prompts.
            has_reference: Whether sets are compared.

        Raises: as `load_network`.
        """
        self.name = "efficientnet-lite0 + label-bridge" if has_prompts else "efficientnet-lite0"
        self.distance_name = "I3D logits, FVD"
        self.extractors: dict[str, Extractor] = {_PICTURES: EfficientNet(device=device)}
        if has_prompts or has_reference:
            self.extractors[_ACTIONS] = I3D(device=device)
        self._sentences = Sentences(device=device) if has_prompts else None
        self.text_networks: Mapping[str, str] = (
            {self._sentences.protocol: self._sentences.digest} if self._sentences else {}
        )
        self._labels = {name: self._label_vectors(name) for name in _LABELS} if has_prompts else {}

    def embeddings(self, features: Features) -> Scores:
        """Return the scenes' mean picture features."""
        return features[_PICTURES][:, :NUM_FEATURES]

    def match(self, features: Features, prompts: Sequence[str]) -> Scores:
        """Return the mean of both label bridges: cosines of vectors from which the labels' mean is taken."""
        if self._sentences is None:
            raise ValueError("an embedder without prompts cannot match them")
        texts_MD = self._sentences.encode(prompts)
        logits = {_PICTURES: features[_PICTURES][:, NUM_FEATURES:], _ACTIONS: features[_ACTIONS]}
        scores = [_bridge(logits[name], self._labels[name], texts_MD) for name in _LABELS]
        return np.asarray(np.mean(scores, axis=0))

    def distance_features(self, features: Features) -> Scores:
        """Return the logits of I3D: their Frechet distance is FVD."""
        return features[_ACTIONS]

    def truth(self, stories: Sequence[tuple[Features, Sequence[str] | None]]) -> Mapping[str, Tally]:
        """Return nothing: no truth is known of real videos."""
        del stories
        return {}

    def _label_vectors(self, name: str) -> Scores:
        assert self._sentences is not None
        text = resources.files(__package__).joinpath("labels", _LABELS[name]).read_text("ascii")
        return self._sentences.encode(text.splitlines())


def _bridge(logits_NK: Scores, labels_KD: Scores, texts_MD: Scores) -> Scores:
    mean_D = labels_KD.mean(0)
    top_NT = np.argsort(-logits_NK, axis=1)[:, :_TOP]
    top_logits_NT = np.take_along_axis(logits_NK, top_NT, axis=1)
    weights_NT = np.exp(top_logits_NT - top_logits_NT[:, :1])
    weights_NT /= weights_NT.sum(1, keepdims=True)
    videos_ND = np.einsum("nt,ntd->nd", weights_NT, labels_KD[top_NT]) - mean_D
    return cosines(videos_ND, texts_MD - mean_D)

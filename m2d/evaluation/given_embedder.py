"""An embedder with one network that the user gives: ViCLIP, CLIP, DINO or VideoMAE, from a folder.

Owns which folder is read, and which of the scores a network has. Shapes: N scenes, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from m2d.errors import InputError
from m2d.evaluation.consistency import Scores, cosines
from m2d.evaluation.embedder import Extractor, Features
from m2d.evaluation.hub_networks import HubNetwork
from m2d.evaluation.intervals import Tally
from m2d.evaluation.viclip import ViCLIP
from m2d.families.hub import cached_snapshot, hub_model

GIVEN = ("viclip", "clip", "dino", "videomae")
WITH_TEXTS = ("viclip", "clip")


class GivenNetwork(Extractor, Protocol):
    """An extractor that may also know sentences."""

    def encode(self, prompts: Sequence[str]) -> Scores:
        """Return the vectors of prompts, (N, D)."""


class GivenEmbedder:
    """Compares scenes, and scenes with prompts, by the cosine of the network's vectors."""

    def __init__(self, name: str, folder: Path, *, device: str = "cpu", has_prompts: bool = False) -> None:
        """Load the network.

        Args:
            has_prompts: Whether scenes are compared with prompts; without effect if the network knows none.

        Raises: as `ViCLIP` and `HubNetwork`.
        """
        has_texts = has_prompts and name in WITH_TEXTS
        self._network: GivenNetwork = (
            ViCLIP(folder, device=device, has_texts=has_texts)
            if name == "viclip"
            else HubNetwork(name, folder, device=device, has_texts=has_texts)
        )
        self.extractors: Mapping[str, Extractor] = {name: self._network}
        self.name, self._has_texts = name, has_texts
        self.distance_name = f"vectors of {name}"
        # Texts are read by the same file.
        self.text_networks: Mapping[str, str] = {}

    def embeddings(self, features: Features) -> Scores:
        """Return the scenes' vectors."""
        return features[self.name]

    def match(self, features: Features, prompts: Sequence[str]) -> Scores:
        """Return the cosines of scenes and prompts; NaN for a network without a text encoder."""
        scenes_ND = features[self.name]
        if not self._has_texts:
            return np.full((len(scenes_ND), len(prompts)), np.nan)
        return cosines(scenes_ND, self._network.encode(prompts))

    def distance_features(self, features: Features) -> Scores:
        """Return the vectors themselves."""
        return features[self.name]

    def truth(self, stories: Sequence[tuple[Features, Sequence[str] | None]]) -> Mapping[str, Tally]:
        """Return nothing: no truth is known of real videos."""
        del stories
        return {}


def given_folder(name: str, model: str | None, *, field: str) -> Path:
    """Return the folder of a network's weights.

    Args:
        model: A folder, or the hub name of one that is in the cache.
        field: Names the choice in messages.

    Raises:
        InputError: There is none.
    """
    if model is None:
        raise InputError(f"{field}: {name} needs a folder with its weights, or the hub name of one")
    hub = hub_model(model) if not Path(model).is_dir() else None
    folder = Path(model) if hub is None else cached_snapshot(hub)
    if folder is None or not folder.is_dir():
        raise InputError(
            f"{field}: {model!r} is no folder and not in Hugging Face's cache; `hf download {model}` "
            "gets it, if it is a name of the hub"
        )
    return folder.resolve()

"""What evaluation needs of networks: features of a scene's frames, and scores made from them.

An extractor turns the frames of a scene into one vector, which is cached; an embedder turns the vectors of a
story into similarities. Shapes: N scenes, M prompts, D features, H W pixels, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from m2d.evaluation.intervals import Tally

Vector = npt.NDArray[np.float32]
Features = Mapping[str, npt.NDArray[np.float64]]
"""Per extractor, the vectors of a story's scenes, (N, D)."""


class Extractor(Protocol):
    """One network, with the preprocessing that belongs to it.

    Attributes:
        protocol: Name of network and preprocessing; another number for other preprocessing.
        digest: SHA-256 of the weights.
        fewest_frames: Scenes with fewer frames are rejected.
    """

    protocol: str
    digest: str
    fewest_frames: int

    def picks(self, num_frames: int) -> list[int]:
        """Return which frames of a scene are used, ascending; a frame may be used several times."""

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return what is kept of a used frame, uint8 RGB, until the scene is complete."""

    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return the features of a scene, (D,), from its prepared frames in the order of `picks`."""


class Embedder(Protocol):
    """Scores of scenes and prompts.

    Attributes:
        name: Name of the scores; the report prints it beside them.
        distance_name: Name of the features that set distances compare.
        text_networks: SHA-256 of the weights, by protocol, of networks that read prompts alone.
    """

    name: str
    distance_name: str
    text_networks: Mapping[str, str]

    @property
    def extractors(self) -> Mapping[str, Extractor]:
        """The networks, by a short name."""

    def embeddings(self, features: Features) -> npt.NDArray[np.float64]:
        """Return vectors whose cosine is how similar two scenes are, (N, D)."""

    def match(self, features: Features, prompts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return how well each scene (row) matches each prompt (column), (N, M), at most 1; NaN: unknown."""

    def distance_features(self, features: Features) -> npt.NDArray[np.float64]:
        """Return the vectors that set distances compare, (N, D)."""

    def truth(self, stories: Sequence[tuple[Features, Sequence[str] | None]]) -> Mapping[str, Tally]:
        """Return shares of what is known exactly; empty for embedders of real videos."""


def spread(num_frames: int, count: int) -> list[int]:
    """Return `count` frame numbers at even steps, the first and the last frame among them."""
    return [round(place) for place in np.linspace(0, num_frames - 1, count)]

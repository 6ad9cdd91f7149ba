"""Stage `embed`: a vector for every kept shot, from its stills, by a named network.

Owns names and the default choice; the networks are those of the evaluation, or of a folder that is given.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
from pydantic import AfterValidator

from m2d.curation.filter import shot_id, shot_name
from m2d.curation.puppet_likeness import PuppetLikeness
from m2d.curation.settings import RelateSettings
from m2d.curation.shots import Shot
from m2d.curation.stage_file import Outcome, key_of
from m2d.curation.stills import opened_stills, stills_path
from m2d.errors import DatasetError, InputError, Remedy
from m2d.evaluation.consistency import cosines
from m2d.evaluation.embedder import Embedder, Extractor, Features
from m2d.evaluation.given_embedder import GIVEN, GivenEmbedder, given_folder
from m2d.evaluation.natural_embedder import NaturalEmbedder
from m2d.evaluation.networks import missing_networks
from m2d.evaluation.puppet_embedder import load_puppet_embedder

_VERSION = "embed/1"
_LARGEST_VALUE = 1e6
# Similarity of shots that belong together. That of puppets is a probability; the other is an estimate, which
# the histogram of the report helps to correct.
RANGES: Mapping[str, tuple[float, float]] = {"efficientnet": (0.5, 0.97), "puppet": (0.5, 1.0)}


class ShotEmbedder(Protocol):
    """Networks, and how similar shots are by their vectors."""

    @property
    def extractors(self) -> Mapping[str, Extractor]:
        """The networks, by a short name."""

    def likeness(self, features: Features) -> float:
        """Return how similar the shots of these vectors are, at most 1; see `EmbedderChoice.is_joint`."""


class PairEmbedder:
    """An embedder of the evaluation, which compares two shots."""

    def __init__(self, embedder: Embedder) -> None:
        """Compare by the similarity of `embedder`."""
        self.extractors: Mapping[str, Extractor] = embedder.extractors
        self._embedder = embedder

    def likeness(self, features: Features) -> float:
        """Return the similarity of two shots."""
        first_D, second_D = self._embedder.embeddings(features)
        return float(cosines(first_D[None], second_D[None])[0, 0])


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedderChoice:
    """Which network embeds shots; it is loaded where it is used.

    Attributes:
        name: `efficientnet`, `puppet`, or one of `GIVEN`.
        width, height: Of the stills, which decide the classifier of puppets.
        folder: Of the weights, for one of `GIVEN`.
    """

    name: str
    width: int
    height: int
    folder: Path | None = None

    @property
    def is_joint(self) -> bool:
        """Whether all shots of a window are judged at once, and not pair by pair."""
        return self.name == "puppet"


def _array(text: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


def _is_vector(text: str) -> str:
    # A sum of squares stays finite. NaN compares false.
    if not (np.abs(_array(text)) < _LARGEST_VALUE).all():
        raise ValueError("is not a vector of numbers")
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Vectors:
    """The vectors of one shot per network, float32 in base64."""

    values: dict[str, Annotated[str, AfterValidator(_is_vector)]]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the vectors, (D,)."""
        return {name: _array(text) for name, text in self.values.items()}


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedTask:
    """One shot to embed."""

    shot: Shot
    data_set: Path
    choice: EmbedderChoice
    key: str

    @property
    def place(self) -> str:
        """Names the shot for people."""
        return shot_name(self.shot)


def choose_embedder(settings: RelateSettings, shots: Sequence[Shot], *, is_puppet: bool) -> EmbedderChoice:
    """Choose the network of a data set.

    Args:
        is_puppet: Whether all films say that they show the puppet world.

    Raises:
        InputError: Its weights are not here, or it needs a folder of them.
    """
    name: str = settings.embedder
    if name in ("auto", "vit"):
        name = "puppet" if is_puppet else "efficientnet"
    # Without shots there is nothing to embed, but a name that was asked for is checked.
    is_used = bool(shots) or settings.embedder == name
    if name == "efficientnet" and is_used and missing_networks([name]):
        raise InputError("relate.embedder: the network efficientnet is not here", remedy=Remedy.GET_NETWORKS)
    first = shots[0] if shots else None
    return EmbedderChoice(
        name=name,
        width=first.width if first else 0,
        height=first.height if first else 0,
        folder=given_folder(name, settings.model, field="relate.model") if name in GIVEN else None,
    )


def check_embedder(settings: RelateSettings) -> None:
    """Make sure that an embedder chosen by name can run, before films are read.

    Raises:
        InputError: As `choose_embedder` and `sim_range`.
    """
    if settings.embedder not in ("auto", "vit"):
        sim_range(settings, choose_embedder(settings, (), is_puppet=False))


def sim_range(settings: RelateSettings, choice: EmbedderChoice) -> tuple[float, float]:
    """Return the smallest and largest similarity of shots that belong together.

    Raises:
        InputError: The embedder has no default range, and none is set.
    """
    least, largest = RANGES.get(choice.name, (None, 1.0))
    least = least if settings.min_sim is None else settings.min_sim
    if least is None:
        raise InputError(
            f"relate.min_sim: {choice.name} has no default, because it depends on the weights; "
            "build with -1, choose by the histogram on the page, and build again"
        )
    return least, largest if settings.max_sim is None else settings.max_sim


@cache
def load_embedder(choice: EmbedderChoice) -> ShotEmbedder:
    """Load a network once per process; raises as its loader."""
    if choice.folder is not None:
        return PairEmbedder(GivenEmbedder(choice.name, choice.folder))
    if choice.name == "puppet":
        return PuppetLikeness(load_puppet_embedder(height=choice.height, width=choice.width))
    return PairEmbedder(NaturalEmbedder(device="cpu", has_prompts=False, has_reference=False))


def embed_key(shot: Shot, choice: EmbedderChoice) -> str:
    """Return the key of a shot's vectors: its content and the network's."""
    networks = {name: (each.protocol, each.digest) for name, each in load_embedder(choice).extractors.items()}
    return key_of(_VERSION, shot_id(shot), shot.stills, sorted(networks.items()))


def embed_shot(task: EmbedTask) -> Outcome[Vectors]:
    """Embed one shot; a missing stills file rejects it."""
    values = {}
    try:
        with opened_stills(stills_path(task.data_set, task.shot.stills)) as stills:
            times_s = stills.times_s(task.shot.start_s, task.shot.end_s)
            for name, extractor in load_embedder(task.choice).extractors.items():
                pictures = {
                    place: extractor.prepare(stills.picture(times_s[place]))
                    for place in dict.fromkeys(extractor.picks(len(times_s)))
                }
                vector = extractor.extract([pictures[place] for place in extractor.picks(len(times_s))])
                values[name] = base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    except DatasetError as error:
        return Outcome(key=task.key, place=task.place, reason=str(error))
    return Outcome(key=task.key, place=task.place, outputs=(Vectors(values=values),))


def likeness(choice: EmbedderChoice, vectors: Sequence[Vectors]) -> float:
    """Return how similar shots are: two shots, or any number if the choice is joint.

    Raises:
        DatasetError: The vectors are of another network, or of several.
    """
    arrays = [each.arrays() for each in vectors]
    embedder = load_embedder(choice)
    try:
        features: Features = {
            name: np.stack([each[name] for each in arrays]).astype(np.float64) for name in embedder.extractors
        }
        return embedder.likeness(features)
    except (LookupError, ValueError) as error:
        raise DatasetError(
            f"the vectors of stage embed are not those of {choice.name}; build again"
        ) from error

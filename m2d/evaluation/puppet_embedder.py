"""The embedder of puppet films: the attribute classifier, which reads every property of a scene.

Similarities and matches are shares of properties, so a score of 80 means that four of five agree.
Shapes: N scenes, D features, B = 1 scene, P frames, C channels, H W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from m2d.errors import InputError
from m2d.evaluation.consistency import Scores
from m2d.evaluation.embedder import Extractor, Features, Vector, spread
from m2d.evaluation.intervals import Tally
from m2d.families.opening import BUILTIN_MODELS, builtin_folder
from m2d.files import sha256_file
from m2d.puppet.attribute_classifier import CLASSIFIER_FILE, AttributeClassifier, read_classifier
from m2d.puppet.labels import NUM_SLOTS, PROMPTED_CLASSES, UNPROMPTED_CLASSES, UNPROMPTED_RANGES
from m2d.puppet.prompt_labels import prompt_labels

READER = "attributes"
CLASS_SIZES = PROMPTED_CLASSES | UNPROMPTED_CLASSES
_NUM_ANSWERS = sum(CLASS_SIZES.values()) + len(UNPROMPTED_RANGES)
_LOOKS = ("shape", "colour", "hat")
_STARTS = dict(zip(CLASS_SIZES, itertools.accumulate(CLASS_SIZES.values(), initial=0), strict=False))


class AttributeExtractor:
    """The attribute classifier's features, then the probability of each class, then the numbers."""

    def __init__(self, classifier: AttributeClassifier, *, digest: str, device: str = "cpu") -> None:
        """Wrap a classifier in evaluation mode; `digest` is that of its weights."""
        num_frames, self._height, self._width = classifier.own_size()
        self.protocol = f"attribute-classifier-{num_frames}x{self._height}x{self._width}/1"
        self.digest = digest
        self.fewest_frames = 2
        self.classifier, self._num_frames, self._device = classifier.to(device), num_frames, device

    def picks(self, num_frames: int) -> list[int]:
        """Return as many frames as the classifier reads, at even steps."""
        return spread(num_frames, self._num_frames)

    def prepare(self, frame_HWC: np.ndarray) -> np.ndarray:
        """Return the frame at the classifier's size, averaged over areas."""
        size = (self._width, self._height)
        return np.asarray(Image.fromarray(frame_HWC).resize(size, Image.Resampling.BOX))

    @torch.inference_mode()
    def extract(self, prepared: Sequence[np.ndarray]) -> Vector:
        """Return features, probabilities and numbers of the scene."""
        frames_PHWC = torch.from_numpy(np.stack(prepared)).to(self._device)
        frames_BPCHW = frames_PHWC.permute(0, 3, 1, 2)[None].float() / 255
        features_BD = self.classifier.features(frames_BPCHW)
        scores, numbers = self.classifier.judge(features_BD)
        shares = [scores[name].softmax(-1) for name in CLASS_SIZES]
        vector: Vector = torch.cat([features_BD, *shares, numbers], dim=-1)[0].cpu().numpy()
        return vector


class PuppetEmbedder:
    """Scores puppet scenes by the attributes that the classifier reads."""

    def __init__(self, extractor: AttributeExtractor) -> None:
        """Score with this classifier."""
        self.name = "puppet-attributes"
        self.distance_name = "attribute classifier"
        # Prompts are parsed.
        self.text_networks: Mapping[str, str] = {}
        self.extractors: Mapping[str, Extractor] = {READER: extractor}
        self._classifier = extractor.classifier

    @property
    def size(self) -> str:
        """The smallest frames that it reads, such as `96x64`."""
        _, height, width = self._classifier.own_size()
        return f"{width}x{height}"

    def can_read(self, *, height: int, width: int) -> bool:
        """Whether the classifier reads frames of this size."""
        return self._classifier.can_read_frames(height=height, width=width)

    def embeddings(self, features: Features) -> Scores:
        """Return vectors whose cosine is the mean agreement of place, time, unprompted properties and looks.

        Two scenes agree on a class by the Bhattacharyya coefficient of its probabilities, on a number by the
        cosine of its distance, from 1 (equal) to -1 (opposite ends of its range). An actor off stage agrees
        with none on stage. Actions do not count.
        """
        answers = answers_of(features[READER])
        parts = [np.sqrt(share_of(answers, name)) for name in ("setting", "time", *UNPROMPTED_CLASSES)]
        angles = np.pi * answers[:, -len(UNPROMPTED_RANGES) :].clip(0, 1)
        parts += [np.stack([np.cos(angle), np.sin(angle)], axis=-1) for angle in angles.T]
        for slot in range(NUM_SLOTS):
            is_on_N1 = share_of(answers, f"actor{slot + 1}.on_stage")[:, 1:]
            for look in _LOOKS:
                shown = is_on_N1 * share_of(answers, f"actor{slot + 1}.{look}")
                parts.append(np.sqrt(np.concatenate([1 - is_on_N1, shown], axis=1)))
        return np.concatenate(parts, axis=1)

    def match(self, features: Features, prompts: Sequence[str]) -> Scores:
        """Return the mean probability of the properties that each prompt names; NaN if it names none."""
        answers = answers_of(features[READER])
        columns = [_probability(answers, prompt_labels(prompt)) for prompt in prompts]
        return np.stack(columns, axis=1)

    def distance_features(self, features: Features) -> Scores:
        """Return the classifier's features before its heads."""
        return features[READER][:, :-_NUM_ANSWERS]

    def truth(self, stories: Sequence[tuple[Features, Sequence[str] | None]]) -> dict[str, Tally]:
        """Return, per kind of property, the share of prompted properties that scenes show.

        `shown.setting`, `shown.hat` and so on; `unprompted_difference` is the mean distance of unprompted
        numbers, as a share of their range, between scenes whose prompts name one place and time.
        """
        kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in PROMPTED_CLASSES))
        rows = [_counts(answers_of(features[READER]), prompts or (), kinds) for features, prompts in stories]
        tallies = {
            f"shown.{kind}": Tally(
                amounts_S=np.array([row[kind][0] for row in rows]),
                counts_S=np.array([row[kind][1] for row in rows]),
            )
            for kind in kinds
        }
        gaps = [_gaps(answers_of(features[READER]), prompts or ()) for features, prompts in stories]
        tallies["unprompted_difference"] = Tally(
            amounts_S=np.array([sum(gap) for gap in gaps], dtype=np.float64),
            counts_S=np.array([len(gap) for gap in gaps], dtype=np.float64),
        )
        return {name: tally for name, tally in tallies.items() if tally.counts_S.any()}


def load_puppet_embedder(*, height: int, width: int, device: str = "cpu") -> PuppetEmbedder:
    """Load the classifier of the embedded model whose frames have the same shape and are not larger.

    Raises:
        InputError: The classifiers read no frames of this shape.
        CheckpointError: The embedded model's folder is incomplete.
    """
    known = []
    for name in BUILTIN_MODELS:
        folder = builtin_folder(name)
        assert folder is not None
        path = folder / CLASSIFIER_FILE
        classifier = read_classifier(path)
        embedder = PuppetEmbedder(AttributeExtractor(classifier, digest=sha256_file(path), device=device))
        if embedder.can_read(height=height, width=width):
            return embedder
        known.append(embedder.size)
    raise InputError(
        f"frames of {width}x{height}: no attribute classifier reads pictures of this shape; they read"
        f" {' or '.join(known)} pixels, or larger pictures of that shape"
    )


def answers_of(vectors_ND: Scores) -> Scores:
    """Return the part of the classifier's vectors that holds its answers."""
    return vectors_ND[:, -_NUM_ANSWERS:]


def share_of(answers_ND: Scores, name: str) -> Scores:
    """Return the probabilities of the classes of a property, (N, K)."""
    start = _STARTS[name]
    return answers_ND[:, start : start + CLASS_SIZES[name]]


def _probability(answers_ND: Scores, labels: Mapping[str, int]) -> npt.NDArray[np.float64]:
    """Return the mean probability of the labelled classes, (N,); an actor off stage has no look."""
    if not labels:
        return np.full(len(answers_ND), np.nan)
    shares = []
    for name, label in labels.items():
        share_N = share_of(answers_ND, name)[:, label]
        actor, _, kind = name.rpartition(".")
        is_on_stage = actor and kind != "on_stage"
        shares.append(share_N * share_of(answers_ND, f"{actor}.on_stage")[:, 1] if is_on_stage else share_N)
    mean_N: npt.NDArray[np.float64] = np.mean(shares, axis=0)
    return mean_N


def _counts(
    answers_ND: Scores, prompts: Sequence[str], kinds: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return how many prompted properties of each kind are shown, and how many there are."""
    found = dict.fromkeys(kinds, (0.0, 0.0))
    for scene, prompt in enumerate(prompts):
        for name, label in prompt_labels(prompt).items():
            kind = name.rpartition(".")[2]
            is_right = int(share_of(answers_ND, name)[scene].argmax()) == label
            found[kind] = (found[kind][0] + is_right, found[kind][1] + 1)
    return found


def _gaps(answers_ND: Scores, prompts: Sequence[str]) -> list[float]:
    numbers_NV = answers_ND[:, -len(UNPROMPTED_RANGES) :]
    labels = [prompt_labels(prompt) for prompt in prompts]
    places = [(each.get("setting"), each.get("time")) for each in labels]
    pairs = itertools.combinations(range(len(places)), 2)
    return [
        float(np.abs(numbers_NV[first] - numbers_NV[second]).mean())
        for first, second in pairs
        if places[first] == places[second]
    ]

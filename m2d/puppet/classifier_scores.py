"""Accuracy of the attribute classifier on rendered clips, on which all other puppet figures depend."""

from __future__ import annotations

from collections.abc import Sequence

from m2d.puppet.attribute_classifier import Reading
from m2d.puppet.labels import ABSENT, UNPROMPTED_RANGES, class_labels, unprompted_numbers
from m2d.puppet.render import Clip


def reading_accuracy(clips: Sequence[Clip], reading: Reading) -> dict[str, float]:
    """Return the share of correct classes per property, both actors counted together.

    Actors off stage count in `on_stage` alone.

    Raises:
        ValueError: The reading is of another number of clips.
    """
    _check_length(clips, reading)
    right: dict[str, int] = {}
    shown: dict[str, int] = {}
    for column, label in class_labels(list(clips)).items():
        name = column.rpartition(".")[2]
        is_shown = label != ABSENT
        is_right = (reading.classes[column].cpu() == label) & is_shown
        right[name] = right.get(name, 0) + int(is_right.sum())
        shown[name] = shown.get(name, 0) + int(is_shown.sum())
    return {name: right[name] / shown[name] for name in right if shown[name]}


def reading_errors(clips: Sequence[Clip], reading: Reading) -> dict[str, float]:
    """Return the mean absolute error of each unprompted number, as a share of its range.

    Raises:
        ValueError: The reading is of another number of clips.
    """
    _check_length(clips, reading)
    errors_V = (reading.numbers.cpu() - unprompted_numbers(list(clips))).abs().mean(0)
    return {name: float(errors_V[index]) for index, name in enumerate(UNPROMPTED_RANGES)}


def _check_length(clips: Sequence[Clip], reading: Reading) -> None:
    if len(reading.numbers) != len(clips):
        raise ValueError(f"a reading of {len(reading.numbers)} scenes for {len(clips)} clips")

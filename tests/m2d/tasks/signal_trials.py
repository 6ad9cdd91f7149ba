"""Whole productions that are asked to stop at random moments, and what can be made of what they leave."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import BEGIN
from benchmarks.small_films import STAGES, Prepared, complete
from m2d.errors import EXIT_RESUMABLE, Remedy

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SEED = 75
BEFORE_THE_RUN = (-signal.SIGTERM, 128 + signal.SIGINT)
"""Codes of processes that ended before they had begun to handle signals: nothing was made yet."""


@dataclass(kw_only=True)
class Stops:
    """What became of all runs of one film.

    Attributes:
        codes: Exit codes, and how often.
        stages: Stages in which they were stopped, and how often.
        wrong: What was not as it must be.
    """

    codes: dict[str, int]
    stages: dict[str, int]
    wrong: list[str]


def stop_often(prepared: Prepared, folder: Path, *, num_trials: int) -> Stops:
    """Send a signal so many times, to every stage in turn, and go on from what is left."""
    codes: Counter[str] = Counter()
    stages: Counter[str] = Counter()
    wrong = []
    for number in range(num_trials):
        draw = random.Random(f"{SEED} {prepared.case.name} {number}")
        stage, own = STAGES[number % len(STAGES)], prepared.fresh(folder / str(number))
        sent = SIGNALS[(number + number // len(STAGES)) % len(SIGNALS)]
        child = prepared.start(own)
        if child.wait_for(stage):
            time.sleep(draw.uniform(0, prepared.spans_s[stage]))
            child.signal(sent, with_encoder=False)
        code = child.wait()
        codes[str(code)] += 1
        stages[child.stage] += 1
        found = _complaints(code, child.error, began=child.stage != BEGIN, sent=sent)
        found += complete(prepared, own).wrong
        wrong += [f"{sent.name} in {stage}, ended in {child.stage} with {code}: {each}" for each in found]
    return Stops(codes=dict(codes), stages=dict(stages), wrong=wrong)


def _complaints(code: int, complaint: str, *, began: bool, sent: signal.Signals) -> list[str]:
    if code == 0 or (code in BEFORE_THE_RUN and not began):
        return []
    if (
        code == EXIT_RESUMABLE
        and complaint.startswith(f"{sent.name}: ")
        and f"({Remedy.RESUME})" in complaint
    ):
        return []
    return [f"neither finished nor resumable: {complaint!r}"]

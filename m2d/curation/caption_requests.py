"""Captions from a model: all shots of a group in one request, repeated until the answer follows the rules.

Owns the request and the conversation about an answer that breaks the rules; a model is an `Answerer`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from m2d.curation.caption_rules import MOST_WORDS, PROMPT, Captions, problems_of, read_answer
from m2d.curation.data_set import DataSet
from m2d.curation.relate import Group
from m2d.curation.settings import CaptionSettings
from m2d.curation.stage_file import Outcome, StageFile, key_of, run_stage
from m2d.curation.stills import opened_stills, stills_path
from m2d.errors import InputError
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.video.printable import printable

_VERSION = "captions/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaidAnswer:
    """One answer of a model, and what it cost."""

    text: str
    cost: float


class Answerer(Protocol):
    """A model that answers conversations about pictures; it journals every answer.

    Attributes:
        name: Names the model in the data set.
        identity: What its answers depend on, besides the conversation.
    """

    @property
    def name(self) -> str: ...
    @property
    def identity(self) -> Sequence[str | None]: ...
    @property
    def spent(self) -> float:
        """Cost of all recorded answers."""

    def ask(self, messages: Sequence[dict[str, Any]], count: int) -> PaidAnswer:
        """Return the answer, with `count` captions, to a conversation in the form of OpenAI's."""

    def close(self) -> None:
        """Close connection and journal."""


def ask_captions(
    data: DataSet,
    groups: Sequence[Group],
    file: StageFile[Captions],
    open_answerer: Callable[[CaptionSettings, StageFile[PaidAnswer]], Answerer],
    *,
    reporter: Reporter,
    stop: StopRequest,
) -> list[Outcome[Captions]]:
    """Ask for the captions of every group; a group that breaks the rules too often is rejected.

    Args:
        open_answerer: Opens the model, with the journal of its answers.

    Raises:
        InputError: The model is not given, or not there.
        DatasetError: The model fails, or the limit of the cost is reached; paid answers are kept.
        Interrupted: A stop was requested.
    """
    settings = data.settings.caption
    tokens = _token_counter(settings)
    answerer = open_answerer(settings, StageFile(data.folder, "answers", PaidAnswer))
    how = (answerer.identity, settings.frames, settings.attempts, settings.max_tokens)
    keys = [key_of(_VERSION, PROMPT, group.name, how) for group in groups]

    def work(places: Sequence[int]) -> Iterator[tuple[int, Outcome[Captions]]]:
        with reporter.stage("caption groups", total=len(places)) as progress:
            for place in places:
                yield place, _caption(data, groups[place], answerer, tokens, key=keys[place])
                progress.advance(detail=f"cost {answerer.spent:.4f}")
                stop.check("while captioning: run the same command again")

    try:
        return run_stage(file, keys, work)
    finally:
        answerer.close()


def _caption(
    data: DataSet, group: Group, answerer: Answerer, tokens: Callable[[str], int] | None, *, key: str
) -> Outcome[Captions]:
    settings, count = data.settings.caption, len(group.shots)
    messages = _first_messages(data, group)
    reason, cost = "", 0.0
    for _ in range(settings.attempts):
        answer = answerer.ask(messages, count)
        cost += answer.cost
        try:
            texts = read_answer(answer.text)
            problems = problems_of(texts, count=count, tokens=tokens, max_tokens=settings.max_tokens)
        except ValueError as error:
            problems = [str(error)]
        if not problems:
            captions = Captions(group=group.name, texts=tuple(texts), by=answerer.name, cost=cost)
            return Outcome(key=key, place=group.name, outputs=(captions,))
        reason = "; ".join(problems)
        messages += [
            {"role": "assistant", "content": answer.text},
            {"role": "user", "content": f"Repair this and answer with all captions again: {reason}"},
        ]
    return Outcome(
        key=key,
        place=group.name,
        reason=f"captions break the rules: after {settings.attempts} answers: {printable(reason, limit=400)}",
    )


def _first_messages(data: DataSet, group: Group) -> list[dict[str, Any]]:
    """Return the request for a group: the rules, then the pictures of every shot in order."""
    content: list[dict[str, Any]] = []
    for number, shot in enumerate(group.shots, start=1):
        content.append({"type": "text", "text": f"Shot {number} of {len(group.shots)}:"})
        with opened_stills(stills_path(data.folder, shot.stills)) as stills:
            times_s = stills.times_s(shot.start_s, shot.end_s)
            step = max(len(times_s) / data.settings.caption.frames, 1.0)
            for place in range(min(len(times_s), data.settings.caption.frames)):
                encoded = base64.b64encode(stills.jpeg(times_s[int(place * step)])).decode("ascii")
                content.append(
                    {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{encoded}"}}
                )
    prompt = PROMPT.format(most_words=MOST_WORDS, count=len(group.shots))
    return [{"role": "system", "content": prompt}, {"role": "user", "content": content}]


def _token_counter(settings: CaptionSettings) -> Callable[[str], int] | None:
    if settings.tokenizer is None:
        if settings.max_tokens is not None:
            raise InputError("caption.max_tokens: needs caption.tokenizer, the model that is to be trained")
        return None
    from m2d.families.loading import load_tokenizer
    from m2d.families.source import resolve_model

    return load_tokenizer(resolve_model(settings.tokenizer)).count_tokens

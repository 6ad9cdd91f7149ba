"""Captions from an OpenAI-compatible endpoint: all shots of a group in one request.

Owns the connection and what is recorded of it. Every paid answer is journaled before it is judged, so that no
request is paid twice; the key is in the environment and in one header only, and no redirect is followed.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2 as httpx

from m2d.curation.caption_rules import (
    MOST_WORDS,
    PROMPT,
    Captions,
    answer_schema,
    problems_of,
    read_answer,
)
from m2d.curation.data_set import DataSet
from m2d.curation.relate import Group
from m2d.curation.settings import CaptionSettings
from m2d.curation.stage_file import Outcome, StageFile, key_of, run_stage
from m2d.curation.stills import opened_stills, stills_path
from m2d.errors import DatasetError, InputError
from m2d.progress import Reporter
from m2d.stop import StopRequest
from m2d.video.printable import printable

_VERSION = "endpoint/1"
_LARGEST_ANSWER_BYTES = 1 << 20
_LONGEST_PAUSE_S, _FIRST_PAUSE_S = 60.0, 1.0
_BUSY = frozenset({408, 409, 425, 429, *range(500, 600)})
_MASK = "[key]"


@dataclass(frozen=True, kw_only=True, slots=True)
class PaidAnswer:
    """One answer of the endpoint, and what it cost."""

    text: str
    cost: float


class _Refused(Exception):
    """A request that may succeed if it is repeated."""


class Endpoint:
    """One endpoint with its journal."""

    def __init__(self, settings: CaptionSettings, journal: StageFile[PaidAnswer]) -> None:
        """Read the journal; nothing is sent.

        Raises:
            InputError: No address, or one that is not http or https.
        """
        url = httpx.URL(settings.url or "")
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(f"caption.url: {settings.url!r} is no http address; give one up to /v1")
        self._settings, self._journal = settings, journal
        self._key = os.environ.get(settings.key_variable, "")
        self._known = journal.known()
        self._url = f"{str(url).rstrip('/')}/chat/completions"
        self._host = url.host
        # No proxy, no password file: requests go to this host alone.
        self._client = httpx.Client(follow_redirects=False, trust_env=False, timeout=settings.timeout_s)

    @property
    def spent(self) -> float:
        """Cost of all recorded answers."""
        return sum(answer.cost for line in self._known.values() for answer in line.outputs)

    def close(self) -> None:
        """Close connection and journal."""
        self._client.close()
        self._journal.close()

    def ask(self, messages: Sequence[dict[str, Any]], count: int) -> PaidAnswer:
        """Return the answer to a conversation, from the journal if it was given before.

        Raises:
            DatasetError: The endpoint is not there, rejects the request, or the limit of the cost is reached.
        """
        body = {
            "model": self._settings.model,
            "messages": list(messages),
            "response_format": answer_schema(count),
        }
        key = key_of(_VERSION, self._url, body)
        if key not in self._known:
            self._check_cost()
            answer = self._repeated(body)
            line = Outcome(key=key, place=self._host, outputs=(answer,))
            self._journal.append(line)
            self._known[key] = line
        return self._known[key].outputs[0]

    def _check_cost(self) -> None:
        limit = self._settings.max_cost
        dearest = max((answer.cost for line in self._known.values() for answer in line.outputs), default=0.0)
        if limit is not None and self.spent + dearest > limit:
            raise DatasetError(
                f"caption.max_cost: {self.spent:.4f} of {limit:g} are spent; raise the limit to continue"
            )

    def _repeated(self, body: dict[str, Any]) -> PaidAnswer:
        reason = ""
        for attempt in range(self._settings.attempts):
            try:
                return self._send(body, attempt=attempt)
            except _Refused as error:
                reason = str(error)
        raise DatasetError(f"caption.url: {self._host}: {reason}, {self._settings.attempts} times")

    def _send(self, body: dict[str, Any], *, attempt: int) -> PaidAnswer:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        until_s = time.monotonic() + self._settings.timeout_s
        try:
            with self._client.stream("POST", self._url, json=body, headers=headers) as response:
                if response.status_code in _BUSY:
                    _pause(
                        response.headers.get("retry-after", ""), attempt, longest_s=self._longest_pause_s()
                    )
                    raise _Refused(f"answers with status {response.status_code}")
                if response.status_code != 200:
                    raise DatasetError(self._rejection(response.status_code))
                return self._read(response, until_s)
        except httpx.HTTPError as error:
            _pause("", attempt, longest_s=self._longest_pause_s())
            raise _Refused(f"cannot be reached ({type(error).__name__})") from error

    def _longest_pause_s(self) -> float:
        return min(_LONGEST_PAUSE_S, self._settings.timeout_s)

    def _rejection(self, status: int) -> str:
        if 300 <= status < 400:
            return f"caption.url: {self._host} redirects (status {status}); give the final address"
        hint = f"; is {self._settings.key_variable} set?" if status in (401, 403) else ""
        return f"caption.url: {self._host} rejects the request with status {status}{hint}"

    def _read(self, response: httpx.Response, until_s: float) -> PaidAnswer:
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > _LARGEST_ANSWER_BYTES:
                raise _Refused(f"answers with more than {_LARGEST_ANSWER_BYTES:,} bytes")
            if time.monotonic() > until_s:
                raise _Refused(f"has not answered after {self._settings.timeout_s:g} s")
        try:
            document = json.loads(data)
            message = document["choices"][0]["message"]
            text = message.get("content") or message.get("refusal") or ""
            usage = document.get("usage") or {}
            counts = (int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise _Refused("answers with something that is not a chat completion") from error
        prices = self._settings.cost_per_million
        cost = sum(max(count, 0) * price / 1e6 for count, price in zip(counts, prices, strict=True))
        # A server may send back what it received.
        text = str(text).replace(self._key, _MASK) if self._key else str(text)
        return PaidAnswer(text=text, cost=round(cost, 8))


def caption_by_endpoint(
    data: DataSet,
    groups: Sequence[Group],
    file: StageFile[Captions],
    *,
    reporter: Reporter,
    stop: StopRequest,
) -> list[Outcome[Captions]]:
    """Ask for the captions of every group; a group that breaks the rules too often is rejected.

    Raises:
        InputError: No endpoint is given.
        DatasetError: The endpoint fails, or the limit of the cost is reached; paid answers are kept.
        Interrupted: A stop was requested.
    """
    settings = data.settings.caption
    tokens = _token_counter(settings)
    endpoint = Endpoint(settings, StageFile(data.folder, "answers", PaidAnswer))
    how = (settings.url, settings.model, settings.frames, settings.attempts, settings.max_tokens)
    keys = [key_of(_VERSION, PROMPT, group.name, how) for group in groups]

    def work(places: Sequence[int]) -> Iterator[tuple[int, Outcome[Captions]]]:
        with reporter.stage("caption groups", total=len(places)) as progress:
            for place in places:
                yield place, _caption(data, groups[place], endpoint, tokens, key=keys[place])
                progress.advance(detail=f"cost {endpoint.spent:.4f}")
                stop.check("while captioning: run the same command again")

    try:
        return run_stage(file, keys, work)
    finally:
        endpoint.close()


def _caption(
    data: DataSet, group: Group, endpoint: Endpoint, tokens: Callable[[str], int] | None, *, key: str
) -> Outcome[Captions]:
    settings, count = data.settings.caption, len(group.shots)
    messages = _first_messages(data, group)
    reason, cost = "", 0.0
    for _ in range(settings.attempts):
        answer = endpoint.ask(messages, count)
        cost += answer.cost
        try:
            texts = read_answer(answer.text)
            problems = problems_of(texts, count=count, tokens=tokens, max_tokens=settings.max_tokens)
        except ValueError as error:
            problems = [str(error)]
        if not problems:
            captions = Captions(group=group.name, texts=tuple(texts), by=settings.model, cost=cost)
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


def _pause(retry_after: str, attempt: int, *, longest_s: float) -> None:
    """Wait as long as the server asks, in seconds or until a date, or longer after every attempt."""
    wanted_s = _FIRST_PAUSE_S * 2**attempt
    if retry_after.strip().isdigit():
        wanted_s = float(retry_after[:6])
    elif retry_after:
        with contextlib.suppress(ValueError):
            wanted_s = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    time.sleep(min(max(wanted_s, 0.0), longest_s))

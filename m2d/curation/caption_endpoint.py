"""The connection to an OpenAI-compatible endpoint.

Owns the connection and what is recorded of it. Every paid answer is journaled before it is judged, so that no
request is paid twice; the key is in the environment and in one header only, and no redirect is followed.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import time
from collections.abc import Sequence
from typing import Any

import httpx2 as httpx

from m2d.curation.caption_requests import PaidAnswer
from m2d.curation.caption_rules import answer_schema
from m2d.curation.settings import CaptionSettings
from m2d.curation.stage_file import Outcome, StageFile, key_of
from m2d.errors import DatasetError, InputError

_VERSION = "endpoint/1"
_LARGEST_ANSWER_BYTES = 1 << 20
_LONGEST_PAUSE_S, _FIRST_PAUSE_S = 60.0, 1.0
_BUSY = frozenset({408, 409, 425, 429, *range(500, 600)})
_MASK = "[key]"


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
    def name(self) -> str:
        """Name of the model there."""
        return self._settings.model

    @property
    def identity(self) -> Sequence[str | None]:
        """Address and model."""
        return (self._settings.url, self._settings.model)

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
            answer = self._repeated(body, key)
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

    def _repeated(self, body: dict[str, Any], key: str) -> PaidAnswer:
        reason = ""
        for attempt in range(self._settings.attempts):
            try:
                return self._send(body, key, attempt=attempt)
            except _Refused as error:
                reason = str(error)
        raise DatasetError(f"caption.url: {self._host}: {reason}, {self._settings.attempts} times")

    def _send(self, body: dict[str, Any], key: str, *, attempt: int) -> PaidAnswer:
        # An answer that was on its way when a process died is asked again: some servers then charge once.
        headers = {"Idempotency-Key": key}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
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
            raise _Refused(f"does not answer ({type(error).__name__})") from error

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


def _pause(retry_after: str, attempt: int, *, longest_s: float) -> None:
    """Wait as long as the server asks, in seconds or until a date, or longer after every attempt."""
    wanted_s = _FIRST_PAUSE_S * 2**attempt
    if retry_after.strip().isdigit():
        wanted_s = float(retry_after[:6])
    elif retry_after:
        with contextlib.suppress(ValueError):
            wanted_s = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
    time.sleep(min(max(wanted_s, 0.0), longest_s))

"""Captions from an endpoint that misbehaves in every known way: no crash, no key in a file, no other host."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from m2d.curation import caption_endpoint
from m2d.errors import DatasetError, InputError
from tests.m2d.curation.conftest import build_set

KEY = "sk-very-secret-4711"
Reply = Callable[[BaseHTTPRequestHandler, int, int], None]


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def completion(captions: object, content: str | None = None) -> bytes:
    text = json.dumps({"captions": captions}) if content is None else content
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    return json.dumps({"choices": [{"message": {"content": text}}], "usage": usage}).encode()


def good(handler: BaseHTTPRequestHandler, number: int, count: int) -> None:
    del number
    send(handler, completion(["Park at noon. Actor1 (round red body) waves."] * count))


@contextmanager
def server(reply: Reply) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run an endpoint; yield its address and the requests that it has received."""
    requests: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(body | {"authorization": self.headers.get("Authorization"), "path": self.path})
            count = sum(part["type"] == "text" for part in body["messages"][1]["content"])
            with suppress(OSError):
                reply(self, len(requests), count)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1", requests
    finally:
        listening.shutdown()
        listening.server_close()


@pytest.fixture
def data_set(straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("M2D_CAPTION_KEY", KEY)
    monkeypatch.setattr(caption_endpoint, "_FIRST_PAUSE_S", 0.0)
    shutil.copytree(straight, tmp_path / "set")
    return tmp_path / "set"


def caption(data_set: Path, films: Path, url: str, *settings: str) -> list[dict[str, Any]]:
    given = (f"caption.url={url}", "caption.timeout_s=2", *settings)
    try:
        build_set(data_set, films, *given, stages=("caption",))
    finally:
        for path in data_set.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    return [json.loads(line) for line in (data_set / "stages" / "caption.jsonl").read_text().splitlines()]


def test_all_shots_of_a_group_are_asked_for_in_one_request(data_set: Path, films: Path) -> None:
    with server(good) as (url, requests):
        lines = caption(data_set, films, url)
    assert len(requests) == len(lines)
    assert all(line["outputs"][0]["texts"] for line in lines)
    assert requests[0]["path"] == "/v1/chat/completions"
    assert requests[0]["authorization"] == f"Bearer {KEY}"
    assert requests[0]["response_format"]["type"] == "json_schema"


def test_no_answer_is_paid_twice(data_set: Path, films: Path) -> None:
    with server(good) as (url, requests):
        caption(data_set, films, url)
        paid = len(requests)
        (data_set / "stages" / "caption.jsonl").unlink()
        caption(data_set, films, url)
        assert len(requests) == paid


@pytest.mark.parametrize(
    "bad",
    [
        lambda handler, _count: send(handler, b"busy", 429, Retry_After="0"),
        lambda handler, _count: send(handler, b"oops", 500),
        lambda handler, _count: send(handler, completion(["a"])[:40]),
        lambda handler, _count: send(handler, b"x" * (10 << 20)),
        lambda handler, _count: send(handler, completion([], "I cannot help with that.")),
        lambda handler, count: send(handler, completion(["one too many"] * (count + 1))),
        lambda handler, count: send(handler, completion(["The video shows a park."] * count)),
        lambda handler, count: send(handler, completion([f"Actor1 (look {n}) waves." for n in range(count)])),
        lambda _handler, _count: time.sleep(3),
    ],
    ids=["429", "500", "truncated", "10MB", "refusal", "count", "about-itself", "identity", "hang"],
)
def test_one_bad_answer_is_asked_again(
    bad: Callable[[BaseHTTPRequestHandler, int], None], data_set: Path, films: Path
) -> None:
    def reply(handler: BaseHTTPRequestHandler, number: int, count: int) -> None:
        bad(handler, count) if number == 1 else good(handler, number, count)

    with server(reply) as (url, requests):
        lines = caption(data_set, films, url)
    assert all(line["outputs"] for line in lines)
    assert len(requests) == len(lines) + 1


def test_a_group_whose_captions_break_the_rules_three_times_is_rejected(data_set: Path, films: Path) -> None:
    with (
        server(lambda handler, _number, count: send(handler, completion([""] * count))) as (url, requests),
        pytest.raises(DatasetError, match=r"stage caption rejected all of its \d+ inputs"),
    ):
        caption(data_set, films, url)
    lines = [json.loads(line) for line in (data_set / "stages" / "caption.jsonl").read_text().splitlines()]
    assert {line["reason"][:40] for line in lines} == {"captions break the rules: after 3 answers"[:40]}
    assert len(requests) == 3 * len(lines)


@pytest.mark.parametrize("status", [301, 307, 308])
def test_no_redirect_is_followed(status: int, data_set: Path, films: Path) -> None:
    with server(good) as (other, elsewhere):

        def reply(handler: BaseHTTPRequestHandler, number: int, count: int) -> None:
            del number, count
            send(handler, b"", status, Location=f"{other}/chat/completions")

        with server(reply) as (url, _), pytest.raises(DatasetError, match=rf"redirects \(status {status}\)"):
            caption(data_set, films, url)
    assert elsewhere == []


def test_a_key_that_is_sent_back_reaches_no_file(data_set: Path, films: Path) -> None:
    def reply(handler: BaseHTTPRequestHandler, number: int, count: int) -> None:
        del number
        send(handler, completion([f"Park at noon. {KEY} waves."] * count))

    with server(reply) as (url, _):
        lines = caption(data_set, films, url)
    assert "[key]" in lines[0]["outputs"][0]["texts"][0]


def test_the_limit_of_the_cost_ends_the_stage_and_keeps_what_was_paid(data_set: Path, films: Path) -> None:
    with server(good) as (url, requests):
        with pytest.raises(DatasetError, match=r"caption\.max_cost: 1\.0000 of 1\.5 are spent"):
            caption(data_set, films, url, "caption.max_cost=1.5", "caption.cost_per_million=[1, 0]")
        assert len(requests) == 1
        caption(data_set, films, url, "caption.max_cost=null", "caption.cost_per_million=[1, 0]")
        answers = (data_set / "stages" / "answers.unfinished.jsonl").read_text().splitlines()
        assert len(answers) == len(requests)


@pytest.mark.parametrize("url", ["ftp://host/v1", "nonsense", "file:///etc/passwd"])
def test_an_address_that_is_not_http_is_refused(url: str, data_set: Path, films: Path) -> None:
    with pytest.raises(InputError, match=r"caption\.url: .* is no http address"):
        caption(data_set, films, url)


def test_an_endpoint_that_is_down_is_named(data_set: Path, films: Path) -> None:
    with pytest.raises(DatasetError, match=r"caption\.url: 127\.0\.0\.1: does not answer"):
        caption(data_set, films, "http://127.0.0.1:1/v1", "caption.attempts=2")

"""A headless Chromium that is driven through its own debugging pipe; needs nothing but the browser."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_S = 300.0
# No window, no sandbox (which root cannot have), and no service that would look for a network.
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-quic", "--disable-sync", "--disable-background-networking", "--disable-component-update"),
    *("--no-first-run", "--disable-default-apps", "--mute-audio", "--remote-debugging-pipe"),
]
_PROBLEMS = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}


def find_chromium() -> str | None:
    """The browser's program; None when there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """The browser, with one page. Runs until its block ends."""

    def __init__(self, program: str, profile: Path) -> None:
        self._program, self._profile = program, profile
        self._num_calls = 0
        self._received = b""
        self._session = ""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        ours, theirs = _pipe(), _pipe()
        command = [self._program, *_FLAGS, f"--user-data-dir={self._profile}", "about:blank"]

        def connect() -> None:
            # The browser reads commands from 3 and writes answers to 4.
            os.dup2(ours[0], 3)
            os.dup2(theirs[1], 4)

        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,
            close_fds=False,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._commands, self._answers = ours[1], theirs[0]
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Network.emulateNetworkConditions", **_OFFLINE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._commands)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(60)
        self._process.kill()
        self._process.wait()
        os.close(self._answers)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Do something and return its result."""
        self._num_calls += 1
        message = {"id": self._num_calls, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        for answer in self._messages():
            if answer.get("id") == self._num_calls:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
        raise AssertionError("the browser is gone")

    def open(self, page: Path, *, width: int = 1200, height: int = 900, **features: str) -> None:
        """Load a page afresh, with media features such as `prefers_color_scheme="dark"`."""
        self.resize(width, height)
        wanted = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=wanted)
        self.move_to(1, 1)
        self.events.clear()
        self.call("Page.navigate", url=page.absolute().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def resize(self, width: int, height: int = 900) -> None:
        """Give the window another size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        end_s = time.monotonic() + PATIENCE_S
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end_s, f"never true: {expression}"
            time.sleep(0.03)

    def hover(self, selector: str) -> None:
        """Move the pointer onto the first element of a selector, scrolled into view."""
        x, y = self.evaluate(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.move_to(x, y)

    def move_to(self, x: float, y: float) -> None:
        """Move the pointer."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press and release a key, such as `Tab`."""
        code, text = _KEYS[key]
        parameters = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **parameters)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def problems(self) -> list[str]:
        """Errors, warnings, refused contents and whatever the page's scripts wrote to the console."""
        return [json.dumps(event["params"]) for event in self.events if event["method"] in _PROBLEMS]

    def requests(self) -> list[str]:
        """Addresses that were really asked for, data addresses excepted."""
        asked = {
            event["params"]["requestId"]: event["params"]["request"]["url"]
            for event in self.events
            if event["method"] == "Network.requestWillBeSent"
        }
        for event in self.events:
            if event["method"] == "Network.loadingFailed" and event["params"].get("blockedReason") == "csp":
                asked.pop(event["params"]["requestId"], None)
        return [url for url in asked.values() if not url.startswith("data:")]

    def _messages(self) -> Iterator[dict[str, Any]]:
        """All messages as they come; events are kept."""
        end_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            while b"\0" in self._received:
                first, self._received = self._received.split(b"\0", maxsplit=1)
                message = json.loads(first)
                if "method" in message:
                    self.events.append(message)
                yield message
            if not select.select([self._answers], [], [], 1.0)[0]:
                continue
            data = os.read(self._answers, 1 << 20)
            if not data:
                return
            self._received += data
        raise AssertionError(f"no answer for {PATIENCE_S} s")


_OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
_KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    "Space": (32, " "),
    "End": (35, ""),
    "Home": (36, ""),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
}


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are far from 3 and 4, which the browser gets."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 20) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]

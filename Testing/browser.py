"""A headless Chromium that is driven as a person drives it: keys, wheel, mouse; over the DevTools protocol on two pipes."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_S = 20.0

_CODES = {
    "ArrowUp": 38, "ArrowDown": 40, "ArrowLeft": 37, "ArrowRight": 39, "PageUp": 33, "PageDown": 34, "Enter": 13,
    "Tab": 9, "Escape": 27, "Backspace": 8,
}  # fmt: skip
SHIFT, ALT, CONTROL = 8, 1, 2


def chromium() -> str:
    """Return the program; skip the test where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium found; on Debian: apt-get install --no-install-recommends chromium")
    return found


class Browser:
    """One window. To be used in a `with`; its profile and its downloads are gone afterwards."""

    def __init__(self, width: int = 1280, height: int = 800) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="browser_"))
        self.downloads = self.folder / "downloads"
        self.downloads.mkdir()
        self.problems: list[str] = []
        """What the page threw or logged as an error, and every address that it asked for."""
        self.requests: list[str] = []
        to_browser, self._commands = os.pipe()
        self._events, from_browser = os.pipe()
        options = (
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
            "--remote-debugging-pipe", f"--window-size={width},{height}", f"--user-data-dir={self.folder / 'profile'}",
        )  # fmt: skip
        # The protocol wants its pipes at 3 and 4, wherever they are here.
        program = f"exec {chromium()} {' '.join(options)} 3<&{to_browser} 4>&{from_browser}"
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", program], pass_fds=(to_browser, from_browser), stdout=quiet, stderr=quiet
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number = 0
        self._pending = b""
        self._session = ""
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        session, self._session = self._session, ""
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        self._session = session

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._commands)
        os.close(self._events)
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the protocol and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return dict(answer["result"])
            self._note(answer)

    def open(self, page: Path, *, before: str = "") -> None:
        """Open a file, after some JavaScript of the test's own, and wait until its script has run."""
        if before:
            self.ask("Page.addScriptToEvaluateOnNewDocument", source=before)
        self.ask("Page.navigate", url=page.as_uri())
        self.until("document.readyState === 'complete' && location.protocol === 'file:'")

    def value(self, expression: str) -> Any:
        """Return what some JavaScript says."""
        done = self.ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until some JavaScript is true."""
        end = time.monotonic() + TIMEOUT_S
        while not self.value(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.01)

    def text(self, selector: str) -> str:
        """Return what a person reads in an element."""
        return str(self.value(f"document.querySelector({selector!r}).innerText"))

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key."""
        code = _CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
        typed = {"text": key} if len(key) == 1 and not modifiers & (ALT | CONTROL) else {}
        if key == "Enter":
            typed = {"text": "\r"}
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self.ask("Input.dispatchKeyEvent", type="keyDown" if typed else "rawKeyDown", **common, **typed)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **common)

    def write(self, text: str) -> None:
        """Type text where the focus is."""
        self.ask("Input.insertText", text=text)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse: mousePressed, mouseMoved, mouseReleased, mouseWheel."""
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def picture(self, path: Path) -> None:
        """Write what the window shows."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def downloaded(self, name: str) -> Path:
        """Wait for a download and return it."""
        end = time.monotonic() + TIMEOUT_S
        path = self.downloads / name
        while not path.exists():
            assert time.monotonic() < end, sorted(p.name for p in self.downloads.iterdir())
            time.sleep(0.02)
        return path

    def _note(self, event: dict[str, Any]) -> None:
        notes: dict[str, Callable[[dict[str, Any]], None]] = {
            "Runtime.exceptionThrown": lambda p: self.problems.append(str(p["exceptionDetails"].get("exception", p))),
            "Log.entryAdded": lambda p: (
                self.problems.append(p["entry"]["text"]) if p["entry"]["level"] == "error" else None
            ),
            "Network.requestWillBeSent": lambda p: self.requests.append(p["request"]["url"]),
            "Page.javascriptDialogOpening": lambda p: self.problems.append(f"dialog: {p['type']}"),
        }
        note = notes.get(event.get("method", ""))
        if note is not None:
            note(event["params"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._pending:
            read = os.read(self._events, 1 << 20)
            assert read, "the browser has gone"
            self._pending += read
        message, _, self._pending = self._pending.partition(b"\0")
        return dict(json.loads(message))

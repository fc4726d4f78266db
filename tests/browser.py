# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium for tests, spoken to over its debugging pipe: no driver, no package, no port."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
_WORDS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-extensions --mute-audio --hide-scrollbars --lang=en-US
--remote-debugging-pipe""".split()


class Browser:
    """One page of one browser. It counts what went wrong and what was asked of a network.

    Attributes:
        errors: Exceptions of scripts and what the console called an error.
        requests: Addresses that were asked for.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM
        (theirs, self._out), (self._in, back) = os.pipe(), os.pipe()
        self._number, self._rest = 0, b""
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.confirm = True  # the answer to window.confirm

        def wire() -> None:  # the browser reads from 3 and writes to 4
            reads, writes = os.dup(theirs), os.dup(back)
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        words = [CHROMIUM, *_WORDS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            words, preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        os.close(theirs)
        os.close(back)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **words: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its answer."""
        self._number += 1
        mine = {"id": self._number, "method": method, "params": words}
        if self._session:
            mine["sessionId"] = self._session
        os.write(self._out, json.dumps(mine).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            said = self._hear(end - time.monotonic())
            if said is not None and said.get("id") == mine["id"]:
                assert "error" not in said, f"{method}: {said.get('error')}"
                return said["result"]
        raise TimeoutError(method)

    def wait(self, seconds: float) -> None:
        """Listen for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._hear(left)

    def until(self, script: str, seconds: float = 20.0) -> Any:
        """Wait until a script gives something true, and give it back."""
        end = time.monotonic() + seconds
        while not (found := self.run(script)):
            assert time.monotonic() < end, f"never true: {script}"
            self.wait(0.1)
        return found

    def open(self, address: str, *, width: int = 1200, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Load a page in a window of that size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", media=media, features=scheme)
        self.call("Page.navigate", url=address)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard: Tab, Enter, Space."""
        codes = {"Tab": (9, ""), "Enter": (13, "\r"), "Space": (32, " "), "ArrowRight": (39, "")}
        code, text = codes[key]
        word = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **word)
        self.call("Input.dispatchKeyEvent", type="keyUp", **word)

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """The page as PNG."""
        made = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(made["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def pdf(self, path: Path) -> None:
        """The page as printed on A4."""
        made = self.call("Page.printToPDF", printBackground=True, paperWidth=8.27, paperHeight=11.69)
        path.write_bytes(base64.b64decode(made["data"]))

    def _hear(self, seconds: float) -> dict[str, Any] | None:
        while b"\0" not in self._rest:
            if not select.select([self._in], [], [], max(0.0, seconds))[0]:
                return None
            got = os.read(self._in, 1 << 20)
            assert got, "the browser ended"
            self._rest += got
        one, self._rest = self._rest.split(b"\0", 1)
        said = json.loads(one)
        self._note(said.get("method", ""), said.get("params", {}))
        return said

    def _note(self, method: str, words: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.errors.append(str(words["exceptionDetails"].get("exception", words["exceptionDetails"])))
        elif method == "Log.entryAdded" and words["entry"]["level"] == "error":
            self.errors.append(words["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and words["type"] == "error":
            self.errors.append(str(words["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(words["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self._number += 1
            answer = {"id": self._number, "method": "Page.handleJavaScriptDialog", "params": {"accept": self.confirm}}
            os.write(self._out, json.dumps(answer | {"sessionId": self._session}).encode() + b"\0")

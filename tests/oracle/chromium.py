"""A headless Chromium, spoken to through the DevTools protocol on two pipes: no port and no other package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-pipe",
    "--window-size=1100,1400",
)


class PageError(Exception):
    """The browser refused a command, or a script in the page threw."""


class Chromium:
    """One browser with one page."""

    def __init__(self, program: str, profile: Path, *, timeout: float = 30.0) -> None:
        """Start ``program`` with an empty ``profile`` directory; no command may take longer than ``timeout`` s."""
        self.timeout = timeout
        self.events: list[dict[str, Any]] = []
        self._ids = itertools.count(1)
        self._buffer = b""
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4; the shell puts them there.
        command = [f'exec "$0" "$@" 3<&{to_browser} 4>&{from_browser}', program, *FLAGS]
        self._process = subprocess.Popen(
            ["bash", "-c", *command, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(profile.parent / "chromium.log").open("wb"),
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        targets = self.send("Target.getTargets", browser=True)["targetInfos"]
        page = next(item["targetId"] for item in targets if item["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=page, flatten=True, browser=True)
        self._session: str = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            self.send(f"{domain}.enable")

    def close(self) -> None:
        """End the browser and all its processes."""
        os.close(self._write)
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._read)

    def send(self, method: str, *, browser: bool = False, **params: Any) -> dict[str, Any]:
        """One command and its result. Events that arrive meanwhile go to ``events``."""
        number = next(self._ids)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if not browser:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self.timeout
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise PageError(f"{method}: {answer['error']['message']}")
                return answer["result"]
            self.events.append(answer)

    def _receive(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise PageError(f"{method}: the browser {'ended' if ready else 'gave no answer in time'}")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; a promise is waited for."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The value of ``expression`` as soon as it is true."""
        end = time.monotonic() + self.timeout
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                raise PageError(f"never true: {expression}")
            time.sleep(0.01)
        return value

    def open(self, url: str, ready: str) -> None:
        """Open an address and wait until ``ready`` is true there."""
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.wait(ready)

    def choose(self, selector: str, *paths: Path) -> None:
        """Choose files in a file input as a person does."""
        root = self.send("DOM.getDocument")["root"]["nodeId"]
        node = self.send("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.send("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def drop(self, selector: str, *paths: Path) -> None:
        """Drag files or a folder from the desktop onto an element."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        self.evaluate(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        x, y = self.evaluate(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({box})")
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def screenshot(self, out: Path) -> None:
        """The whole page as PNG."""
        answer = self.send("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        out.write_bytes(base64.b64decode(answer["data"]))

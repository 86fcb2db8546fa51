"""A headless Chromium, driven over a pipe by its own protocol: no driver, no package, no port."""

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
# The protocol's descriptors are 3 and 4; above 10 first, for either may be in use.
AT_3_AND_4 = """
import fcntl, os, sys
reading, writing = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(reading, 3)
os.dup2(writing, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
KEYS = {
    "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9,
    "Enter": 13, "+": 187, "-": 189, "0": 48,
}  # fmt: skip


def find() -> str | None:
    """Path of a Chromium: that of SNOWMELT_CHROMIUM, or the first on the search path."""
    names = (os.environ.get("SNOWMELT_CHROMIUM", ""), *NAMES)
    return next(filter(None, map(shutil.which, names)), None)


class Browser:
    """One page in one browser. Commands go in and events come out as JSON, each ended by a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        commands_out, commands_in = os.pipe()
        events_out, events_in = os.pipe()

        command = [sys.executable, "-c", AT_3_AND_4, str(commands_out), str(events_in)]
        self.process = subprocess.Popen(
            [*command, program, *FLAGS, f"--user-data-dir={profile}"],
            pass_fds=(commands_out, events_in), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands_out)
        os.close(events_in)
        self.commands, self.answers = os.fdopen(commands_in, "wb"), os.fdopen(events_out, "rb")
        self.rest, self.number, self.session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer; events on the way are kept."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        self.commands.write(json.dumps(message).encode() + b"\0")
        self.commands.flush()
        answer = self._until(lambda each: each.get("id") == self.number)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def wait(self, method: str) -> None:
        """Wait for an event that did not come yet."""
        if not any(each["method"] == method for each in self.events):
            self.events.append(self._until(lambda each: each.get("method") == method))

    def _until(self, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        while True:
            while b"\0" not in self.rest:
                part = os.read(self.answers.fileno(), 1 << 20)
                assert part, "the browser is gone"
                self.rest += part
            text, _, self.rest = self.rest.partition(b"\0")
            message: dict[str, Any] = json.loads(text)
            if fits(message):
                return message
            if "method" in message:
                self.events.append(message)

    def open(self, path: Path) -> None:
        """Load a file; what was asked for and complained of is in `events`."""
        self.events.clear()
        self.send("Page.navigate", url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """Value of an expression on the page."""
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, *keys: str, shift: bool = False) -> None:
        """Press and release keys, one after the other."""
        for key in keys:
            parameters: dict[str, Any] = {"key": key, "modifiers": 8 if shift else 0}
            parameters |= {"windowsVirtualKeyCode": KEYS[key]}
            if len(key) == 1:
                parameters["text"] = key
            self.send("Input.dispatchKeyEvent", type="keyDown", **parameters)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def drag(self, *places: tuple[float, float]) -> None:
        """Press the mouse at the first place, move it over the others, let it go."""
        for kind, (x, y) in zip(
            ["mousePressed", *["mouseMoved"] * (len(places) - 1)], places, strict=True
        ):
            self._mouse(kind, x, y)
        self._mouse("mouseReleased", *places[-1])

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def touch(self, *moments: list[tuple[float, float]]) -> None:
        """Fingers at places, moment after moment; then they are lifted."""
        for kind, places in zip(
            ["touchStart", *["touchMove"] * (len(moments) - 1)], moments, strict=True
        ):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
            self.send("Input.dispatchTouchEvent", type=kind, touchPoints=points)
        self.send("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def emulate(self, *, media: str = "", scheme: str = "light") -> None:
        """Show as on screen ("") or on paper ("print"), in the dark or light scheme."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", media=media, features=features)

    def resize(self, width: int, height: int, *, ratio: float = 1) -> None:
        """Size of the window in CSS pixels, and screen pixels in one of them."""
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=ratio, mobile=False,
        )  # fmt: skip

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Write a PNG of the page."""
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """End the browser."""
        self.session = ""
        self.send("Browser.close")
        self.commands.close()
        self.answers.close()
        self.process.wait(timeout=20)

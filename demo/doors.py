"""The doors as people use them: stock ssh with a code from the phone, a terminal of one's own, a browser without pictures."""

from __future__ import annotations

import fcntl
import http.client
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final
from urllib.parse import urlencode, urlsplit

from broker.clock import Clock

SSH_WITHIN_S: Final = 60.0
POLL_S: Final = 0.02


class Client:
    """One engineer's stock ssh with its own configuration."""

    def __init__(self, config: Path, askpass: Path) -> None:
        self._config = config
        self._askpass = askpass

    def command(self, login: str, *words: str, code: str | None, options: Sequence[str] = ()) -> list[str]:
        """The command line; with a code it is asked for once, without one nothing is asked."""
        asking = "NumberOfPasswordPrompts=1" if code is not None else "BatchMode=yes"
        return ["ssh", "-F", str(self._config), "-o", asking, *options, f"{login}@gate", *words]

    def run(
        self,
        login: str,
        *words: str,
        code: str | None = None,
        options: Sequence[str] = (),
        stdin: bytes = b"",
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ssh to its end, whatever its end is."""
        return subprocess.run(
            self.command(login, *words, code=code, options=options),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=SSH_WITHIN_S,
            env=self._environment(code),
        )

    def terminal(self, login: str, *words: str, clock: Clock) -> Terminal:
        """Open a session with a terminal, by certificate."""
        return Terminal(self.command(login, *words, code=None, options=["-tt"]), self._environment(None), clock)

    def _environment(self, code: str | None) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("SSH_AUTH_SOCK", "DISPLAY")}
        kept |= {"TERM": "xterm-256color"}
        if code is not None:
            kept |= {"SSH_ASKPASS": str(self._askpass), "SSH_ASKPASS_REQUIRE": "force", "KESTREL_CODE": code}
        return kept


def write_askpass(path: Path) -> Path:
    """The program that ssh asks for a code when there is no person."""
    path.write_text("#!/bin/sh\nprintf '%s\\n' \"$KESTREL_CODE\"\n", encoding="ascii")
    path.chmod(0o700)
    return path


@dataclass(frozen=True, slots=True)
class Said:
    """What a terminal showed, and when it came. at: microseconds of the monotonic clock."""

    at: int
    data: bytes


class Terminal:
    """A program on a pseudo-terminal of its own, read all the time by a thread."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], clock: Clock) -> None:
        self._clock = clock
        self._said: list[Said] = []
        self._near, far = pty.openpty()
        try:
            self._set_size(80, 24)
            # A session of its own whose terminal this is: resizing and ^C reach it as they reach a person's program.
            self.process = subprocess.Popen(
                ["setsid", "-c", *command], stdin=far, stdout=far, stderr=far, env=environment
            )
        finally:
            os.close(far)
        self._thread = threading.Thread(target=self._read, name="terminal", daemon=True)
        self._thread.start()

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._thread.join(10)
        os.close(self._near)

    @property
    def text(self) -> str:
        """All it has shown so far."""
        return b"".join(one.data for one in list(self._said)).decode("utf-8", "replace")

    @property
    def last_at(self) -> int:
        """When the newest bytes came."""
        return self._said[-1].at if self._said else 0

    def type(self, text: str) -> None:
        os.write(self._near, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size; the kernel tells the program."""
        self._set_size(columns, rows)

    def wait_for(self, wanted: str, *, within_s: float = 20.0, after: int = 0) -> None:
        """Return once it has shown something behind that many characters. Raises TimeoutError with what it did show."""
        until = self._clock.monotonic_us() + int(within_s * 1e6)
        while True:
            over = not self._thread.is_alive()  # looked at first: what it read last is looked at once more
            if wanted in self.text[after:]:
                return
            if over or self._clock.monotonic_us() > until:
                when = "before the end" if over else f"within {within_s:.0f} s"
                raise TimeoutError(f"{wanted!r} did not come {when}; the last was {self.text[-300:]!r}")
            time.sleep(POLL_S)

    def wait_end(self, *, within_s: float = 20.0) -> int:
        """The program's exit status, after its last word has been read. Raises TimeoutExpired."""
        status = self.process.wait(within_s)
        self._thread.join(within_s)
        return status

    def _read(self) -> None:
        with suppress(OSError):  # the far end is closed
            while data := os.read(self._near, 65536):
                self._said.append(Said(self._clock.monotonic_us(), data))

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._near, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the web."""

    status: int
    text: str
    location: str

    @property
    def token(self) -> str:
        """The form token of the page."""
        return self.field("token")

    def field(self, name: str) -> str:
        """The value of a hidden field; empty when the page has none."""
        found = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', self.text)
        return found[1] if found else ""

    @property
    def plain(self) -> str:
        """The text without its marks, in one line."""
        return " ".join(re.sub(r"<[^>]*>", " ", self.text).split())


class Browser:
    """Somebody's browser: keeps the cookie, sends forms as the pages hold them."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._cookie = ""

    def get(self, path: str) -> Page:
        return self._ask("GET", path, None)

    def send(self, path: str, *fields: tuple[str, str]) -> Page:
        """Send a form of these fields; a name may come several times, as tick boxes do."""
        return self._ask("POST", path, urlencode(fields))

    def log_in(self, handle: str, password: str, code: str) -> Page:
        return self.send("/login", ("handle", handle), ("password", password), ("code", code), ("after", "/"))

    def _ask(self, method: str, path: str, body: str | None) -> Page:
        headers = {"Origin": self._origin} if body is not None else {}
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        if self._cookie:
            headers["Cookie"] = self._cookie
        connection = http.client.HTTPConnection(urlsplit(self._origin).netloc, timeout=30)
        try:
            connection.request(method, path, body=body, headers=headers)
            answer = connection.getresponse()
            if cookie := answer.headers.get("Set-Cookie"):
                self._cookie = cookie.partition(";")[0]
            text = answer.read().decode("utf-8", "replace")
            return Page(answer.status, text, answer.headers.get("Location", ""))
        finally:
            connection.close()

"""What the scenes of the story share: the running site, everybody's client and browser, and what earlier scenes left behind."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from subprocess import CompletedProcess
from typing import Any, Final

from broker.control_client import ask
from demo.deployment import Deployment
from demo.doors import POLL_S, Browser, Client, Page, Terminal, write_askpass
from demo.kestrel import PASSWORD, Figure

REST_S: Final = 1.3
"""A failed code makes the next try of that person wait a second."""


class Missed(Exception):
    """A scene did not go as the product promises; the text says what was seen instead."""


def expect(true: bool, what: str, seen: object = "") -> None:
    """Raises Missed unless it is so. what: the promise; seen: what came instead."""
    if not true:
        shown = " ".join(str(seen).split())
        raise Missed(f"{what}; seen: {shown[-300:]}" if shown else what)


@dataclass(slots=True)
class Stage:
    """State that goes from scene to scene. Ids are empty until the scene that makes them has been played."""

    site: Deployment
    request_id: str = ""
    short_request_id: str = ""
    grant_id: str = ""
    terminal_recording: str = ""
    terminal_command: str = "show cells"
    spent_code: str = ""
    _browsers: dict[str, Browser] = field(default_factory=dict)

    # People
    def client(self, figure: Figure) -> Client:
        """The engineer's own ssh."""
        return Client(self.site.ssh_config(figure.handle), write_askpass(self.site.home.path / "askpass"))

    def code(self, figure: Figure) -> str:
        return self.site.phones.take(figure.handle)

    def rest(self) -> None:
        """Wait until a failed try no longer stands in the way of the next one."""
        time.sleep(REST_S)

    def browser(self, figure: Figure) -> Browser:
        """Their browser, logged in with password and code."""
        if figure.handle not in self._browsers:
            fresh = Browser(self.site.web)
            answer = fresh.log_in(figure.handle, PASSWORD, self.code(figure))
            expect(answer.status == 303, f"{figure.handle} logs in with password and code", answer.plain)
            self._browsers[figure.handle] = fresh
        return self._browsers[figure.handle]

    def console(self, figure: Figure, *words: str) -> Any:
        """One console command by key and code, with --json; gives what it printed."""
        done = self.client(figure).run("gate", *words, "--json", code=self.code(figure))
        expect(done.returncode == 0, f"{words[0]} is answered", last_line(done.stderr))
        return json.loads(done.stdout)

    def collect(self, figure: Figure) -> None:
        """Collect the certificate of the newest open grant, for all further ssh of theirs."""
        certificate = self.console(figure, "cert")["certificate"]
        self.site.certificate(figure.handle).write_text(certificate, encoding="ascii")

    def terminal(self, figure: Figure, login: str, *words: str) -> Terminal:
        return self.client(figure).terminal(login, *words, clock=self.site.clock)

    # The site's own machine
    def cli(self, *words: str) -> CompletedProcess[str]:
        """One command that is done without complaint."""
        done = self.site.cli(*words)
        expect(done.returncode == 0, f"wicketgate {words[0]} is done", done.stderr or done.stdout)
        return done

    def rows(self, *words: str) -> list[dict[str, Any]]:
        """What a list command prints with --json."""
        found: list[dict[str, Any]] = json.loads(self.cli(*words, "--json").stdout)
        return found

    def row(self, row_id: str, *words: str) -> dict[str, Any]:
        """The one row of that id."""
        found = [one for one in self.rows(*words) if one["id"] == row_id]
        expect(len(found) == 1, f"{words[0]} lists {row_id}", found)
        return found[0]

    def all_live(self) -> list[dict[str, Any]]:
        """The live sessions as the bastion itself holds them, over its control socket."""
        found: list[dict[str, Any]] = ask(self.site.home.control_socket, {"act": "sessions"})["sessions"]
        return found

    def live(self, figure: Figure) -> dict[str, Any]:
        """The one live session of an engineer."""
        found: list[dict[str, Any]] = []

        def one() -> bool:
            found[:] = [row for row in self.all_live() if row["person"] == figure.handle]
            return len(found) == 1

        self.wait_until(one, f"{figure.handle} has one live session")
        return found[0]

    # Waiting
    def now(self) -> datetime:
        return self.site.clock.now()

    def wait_until(self, true: Callable[[], bool], what: str, *, within_s: float = 15.0) -> None:
        """Return as soon as something is so. Raises Missed."""
        until = self.site.clock.monotonic_us() + int(within_s * 1e6)
        while not true():
            expect(self.site.clock.monotonic_us() < until, f"within {within_s:.0f} s {what}")
            time.sleep(POLL_S)


def last_line(told: bytes | str) -> str:
    """The last line that says something."""
    text = told.decode("utf-8", "replace") if isinstance(told, bytes) else told
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def approve(owner: Browser, request_id: str, *fields: tuple[str, str]) -> Page:
    """Send the approval form as the request's page holds it, with these ticks and entries."""
    page = owner.get(f"/requests/{request_id}")
    kept = (("token", page.token), ("version", page.field("version")))
    return owner.send(f"/requests/{request_id}/approve", *kept, *fields)

"""Around every page: which host, from where, how much, how long; the headers on every answer; a number for every incident."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from approval.answers import HEADERS, HSTS, NOT_THERE
from approval.render import plain_page

log = logging.getLogger("approval.guard")
BODY_MAX_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
_SAFE: Final = frozenset({"GET", "HEAD"})
_PROBES: Final = frozenset({"/healthz", "/readyz"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Origin:
    """The one origin of these pages. hosts: the Host headers under which they may be asked for, each with its own origin.

    Source: WEB-8.
    """

    text: str
    hosts: Mapping[str, str]

    @property
    def is_secure(self) -> bool:
        return self.text.startswith("https://")


def origin_of(text: str, *, loopback_port: int | None) -> Origin:
    """The origin from settings. loopback_port: of a plain listener on this machine, which has three names; else None."""
    parts = urlsplit(text)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    # A browser leaves the scheme's own port out of Host and Origin.
    named = host if port == _DEFAULT_PORTS.get(parts.scheme) else f"{host}:{port}"
    hosts: dict[str, str] = {}
    if loopback_port is not None:
        here = [f"{name}:{loopback_port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        hosts |= {one: f"http://{one}" for one in here}
    return Origin(f"{parts.scheme}://{named}", hosts | {named: f"{parts.scheme}://{named}"})


class Refused(Exception):
    """An answer given before any page was asked."""

    def __init__(self, status: HTTPStatus, line: str) -> None:
        super().__init__(line)
        self.status = status
        self.line = line


class Guard:
    """Lets through what may be asked, with its whole body; nothing of it trusts what a browser could be made to send."""

    def __init__(self, app: ASGIApp, *, origin: Origin) -> None:
        self._app = app
        self._origin = origin

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            elif scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self._add_headers(message)
            await send(message)

        try:
            _check_text(scope["path"], scope["query_string"])
            check(scope["method"], scope["path"], Headers(scope=scope), self._origin)
            body = await _read_body(scope, receive)
            await self._app(scope, _replay(body, receive), answer)
        except Refused as refused:
            told = plain_page(refused.status, refused.line)
            told.headers["connection"] = "close"  # what is left of the body is not read
            await told(scope, receive, answer)
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("incident %s", incident)
            if started:
                raise  # half an answer must not look like a whole one: the server cuts the connection
            line = f"Incident {incident}. Nothing was changed by what you just did. Tell the site's admin this number."
            await plain_page(HTTPStatus.INTERNAL_SERVER_ERROR, line)(scope, receive, answer)

    def _add_headers(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        for name, value in HEADERS.items():
            headers.setdefault(name, value)
        headers["cache-control"] = HEADERS["cache-control"]
        if self._origin.is_secure:
            headers.setdefault(*HSTS)


def _check_text(path: str, query: bytes) -> None:
    """Refuse what no page has in its address and no database wants to be asked for. Raises Refused."""
    asked = path + unquote_to_bytes(query).decode("utf-8", "replace")
    if any(ch < " " or "\x7f" <= ch <= "\x9f" or ch == "\ufffd" for ch in asked):
        raise Refused(HTTPStatus.NOT_FOUND, NOT_THERE)


def check(method: str, path: str, headers: Mapping[str, str], origin: Origin) -> None:
    """Refuse a foreign Host, a form from another site, a use by another site's page. Raises Refused. Source: WEB-4, WEB-8.

    Behind a proxy that ends TLS the settings' origin counts, forwarded headers never.
    """
    if path in _PROBES and method in _SAFE:
        return  # asked for by address, by whatever watches the service
    host = headers.get("host", "").lower()
    if host not in origin.hosts:
        raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "These pages have another address; use the one you were given.")
    fetch_site = headers.get("sec-fetch-site")
    if method in _SAFE:
        how = (headers.get("sec-fetch-mode", "navigate"), headers.get("sec-fetch-dest", "document"))
        # same-site too: another port of this host is another service, and gets the cookie along.
        if fetch_site in ("cross-site", "same-site") and how != ("navigate", "document"):
            raise Refused(HTTPStatus.FORBIDDEN, "Another site may link here, but not use these pages.")
        return
    came_from = headers.get("origin")
    if fetch_site not in (None, "same-origin") or came_from not in (None, origin.text, origin.hosts[host]):
        raise Refused(HTTPStatus.FORBIDDEN, "This form was sent from another site; nothing was changed.")
    if fetch_site is None and came_from is None:
        raise Refused(HTTPStatus.FORBIDDEN, "Your browser did not say where this form comes from; nothing was changed.")


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body, before anything reads it as a form. Raises Refused: 400, 408, 413."""
    headers = Headers(scope=scope)
    told = headers.get("content-length", "0")
    if "content-length" in headers and "transfer-encoding" in headers:  # a proxy may have believed the other one
        raise Refused(HTTPStatus.BAD_REQUEST, "The request says in two ways how long it is.")
    if not (told.isascii() and told.isdecimal()) or int(told) > BODY_MAX_BYTES:
        raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"That is too much: at most {BODY_MAX_BYTES} bytes.")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refused(HTTPStatus.BAD_REQUEST, "The connection ended too early.")
                body += message.get("body", b"")
                if len(body) > BODY_MAX_BYTES:
                    raise Refused(
                        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"That is too much: at most {BODY_MAX_BYTES} bytes."
                    )
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "The form took too long to arrive; nothing was changed.") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again

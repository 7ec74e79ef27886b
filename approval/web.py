"""What every page is given: the home, the settings, the database, the clock, the seal, and this service's own origin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Concatenate, Final, ParamSpec, TypeVar

from starlette.requests import Request

from approval.guard import Origin
from approval.visitors import Visit, Visitor, require_visitor
from broker.clock import Clock
from broker.identity import Seal, TryLimits
from broker.isolation import load
from broker.settings import Home, Settings, plain_ip
from broker.store import web_sessions
from broker.store.db import Database, Tx

P = ParamSpec("P")
T = TypeVar("T")
HASHES_AT_ONCE: Final = 2
"""argon2 takes 64 MiB and a tenth of a second each: more at once would let strangers fill the memory."""
_TOUCH_AFTER: Final = timedelta(seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """The service. hashing: held by whoever computes a password's hash."""

    home: Home
    settings: Settings
    db: Database
    clock: Clock
    seal: Seal
    origin: Origin
    hashing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(HASHES_AT_ONCE))

    @property
    def cookie(self) -> str:
        """The name of the session cookie: __Host- demands Secure, which plain http on loopback cannot have. Source: WEB-5."""
        return "__Host-wicketgate" if self.origin.is_secure else "wicketgate"

    @property
    def visit(self) -> Visit:
        return Visit(
            idle=timedelta(seconds=self.settings.web_idle_s),
            longest=timedelta(seconds=self.settings.web_absolute_s),
            fresh=timedelta(seconds=self.settings.fresh_proof_s),
        )

    @property
    def tries(self) -> TryLimits:
        """How often somebody may try, the same numbers as at the other doors."""
        return TryLimits(
            per_person=self.settings.tries_per_person,
            per_source=self.settings.tries_per_source,
            window=timedelta(seconds=self.settings.tries_window_s),
        )

    def secret_of(self, request: Request) -> str:
        """The session's secret as the browser sent it, foreign; empty without one."""
        return request.cookies.get(self.cookie, "")


def web_of(request: Request) -> Web:
    """The service that the request came to."""
    web = request.app.state.web
    assert isinstance(web, Web)  # noqa: S101 - set once in create_app
    return web


async def look(
    request: Request, fn: Callable[Concatenate[Tx, Visitor, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[Visitor, T]:
    """Who asks, and what they see: one snapshot for both, so that no right is older than what it shows. Raises NotLoggedIn."""
    web = web_of(request)
    secret = web.secret_of(request)
    ladder = load(web.home, web.settings)

    def inside(tx: Tx) -> tuple[Visitor, T]:
        visitor = require_visitor(tx, secret, web.visit).told(ladder)
        return visitor, fn(tx, visitor, *args, **kwargs)

    visitor, seen = await web.db.look(inside)
    if visitor.now - visitor.session.seen_at > _TOUCH_AFTER:  # not at every page: each touch is a write
        await web.db.run(web_sessions.touch, secret)
    return visitor, seen


async def act(
    request: Request, token: str, fn: Callable[Concatenate[Tx, Visitor, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> tuple[Visitor, T]:
    """Who acts, and the act: one transaction. token: of the form. Raises NotLoggedIn, Forged."""
    web = web_of(request)
    secret = web.secret_of(request)

    def inside(tx: Tx) -> tuple[Visitor, T]:
        visitor = require_visitor(tx, secret, web.visit)
        visitor.require_token(token)
        web_sessions.touch(tx, secret)
        return visitor, fn(tx, visitor, *args, **kwargs)

    return await web.db.run(inside)


def source_of(request: Request) -> str:
    """Whose address tries are counted by and the ledger names: the TCP peer's, or what `web_proxy` says it forwards for.

    Only the rightmost value is the proxy's own; what stands left of it came from whoever asked. Source: AUT-4.
    """
    if request.client is None:
        return "local"
    peer = plain_ip(request.client.host) or request.client.host
    if peer != web_of(request).settings.web_proxy:
        return peer
    told = request.headers.getlist("x-forwarded-for")
    return plain_ip(told[-1].rpartition(",")[2].strip()) or peer if told else peer

"""Logging in and proving again: every try is stored before it is judged, and every no looks and lasts alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Concatenate, Final, ParamSpec, TypeVar

from starlette.requests import Request

from approval.forms import Form
from approval.visitors import Visitor, may_log_in
from approval.web import Web, act, look, source_of, web_of
from broker import identity
from broker.domain.errors import BrokerError
from broker.domain.ids import PersonId, parse_handle
from broker.domain.people import Person
from broker.identity import Locked, TryId
from broker.store import credentials, people, web_sessions
from broker.store.db import Tx

P = ParamSpec("P")
T = TypeVar("T")
DOOR: Final = "web"
NO: Final = "That did not work. Check handle, password and code; after several failures wait some minutes."
# A no is given no earlier than this after the question: how far it came must not be read off its time. Source: AUT-4.
NO_AFTER_S: Final = 0.6
_TOO_OLD: Final = "Type the code that your phone shows now: your last one is too old for this."


@dataclass(frozen=True, slots=True)
class _Found:
    person: Person | None
    stored: str | None


async def log_in(request: Request, *, name: str, password: str, code: str) -> str | None:
    """The secret of a new session, or None: one answer for every reason."""
    web = web_of(request)
    begun_us = web.clock.monotonic_us()
    secret = await _judge(web, name, password, code, source_of(request))
    if secret is None:
        left_s = NO_AFTER_S - (web.clock.monotonic_us() - begun_us) / 1e6
        await asyncio.sleep(max(0.0, min(left_s, NO_AFTER_S)))
    return secret


async def _judge(web: Web, name: str, password: str, code: str, source: str) -> str | None:
    found = await web.db.look(_find, name)
    # The first factor counts by address alone: knowing a handle must not be enough to lock somebody out (AUT-4).
    first = await web.db.run(
        identity.reserve_try, person_id=None, name=name, source=source, door=DOOR, limits=web.tries
    )
    if isinstance(first, Locked):
        return None
    async with web.hashing:
        right = await asyncio.to_thread(identity.check_password, found.stored, password)
    if not right or found.person is None:
        await web.db.run(_refuse_password, first, found.person, name, source)
        return None
    second = await web.db.run(_pass_password, first, found.person.id, name, source, web)
    if isinstance(second, Locked):
        return None
    return await web.db.run(_judge_code, second, found.person.id, code, name, source, web)


def _find(tx: Tx, name: str) -> _Found:
    try:
        person = people.by_handle(tx, parse_handle(name))
    except BrokerError:
        person = None
    if person is None or not may_log_in(tx, person):
        return _Found(None, None)
    return _Found(person, credentials.load_password_hash(tx, person.id))


def _refuse_password(tx: Tx, tried: TryId, person: Person | None, name: str, source: str) -> None:
    identity.fail_try(tx, tried)
    person_id = None if person is None else person.id
    identity.finish_login(tx, person_id=person_id, name=name, source=source, door=DOOR, why="password")


def _pass_password(tx: Tx, tried: TryId, person_id: PersonId, name: str, source: str, web: Web) -> TryId | Locked:
    credentials.finish_try(tx, tried, passed=True)
    return identity.reserve_try(tx, person_id=person_id, name=name, source=source, door=DOOR, limits=web.tries)


def _judge_code(tx: Tx, tried: TryId, person_id: PersonId, code: str, name: str, source: str, web: Web) -> str | None:
    spent = identity.spend_code(tx, person_id=person_id, code=code, seal=web.seal, try_id=tried)
    person = people.load_person(tx, person_id)
    given = spent and person is not None and may_log_in(tx, person)
    identity.finish_login(
        tx,
        person_id=person_id,
        name=name,
        source=source,
        door=DOOR,
        factors="password+code",
        why=None if given else "code",
    )
    return web_sessions.insert(tx, person_id=person_id, source=source)[0] if given else None


async def prove_again(request: Request, visitor: Visitor, code: str) -> str | None:
    """A code for an act, where the last one is too old; None when it was taken, else one line why not. Source: WEB-4."""
    if visitor.is_fresh:
        return None
    if not code:
        return _TOO_OLD
    web, source = web_of(request), source_of(request)
    about = {"person_id": visitor.person.id, "name": visitor.person.handle, "source": source, "door": DOOR}
    reserved = await web.db.run(identity.reserve_try, limits=web.tries, **about)  # type: ignore[arg-type]
    if isinstance(reserved, Locked):
        return f"Too many wrong codes; the next one counts after {reserved.until:%H:%M:%S} UTC."
    if await web.db.run(_judge_proof, reserved, visitor, code, source, web):
        return None
    return "The code does not fit, or was used already; wait for the next one."


def _judge_proof(tx: Tx, tried: TryId, visitor: Visitor, code: str, source: str, web: Web) -> bool:
    person = visitor.person
    spent = identity.spend_code(tx, person_id=person.id, code=code, seal=web.seal, try_id=tried)
    if spent:
        web_sessions.prove(tx, visitor.secret)
    else:
        identity.finish_login(
            tx, person_id=person.id, name=person.handle, source=source, door=DOOR, why="code for an act"
        )
    return spent


@dataclass(frozen=True, slots=True)
class Unproven:
    """The act was not tried: a code is missing or wrong. line: which, for the person."""

    line: str


async def act_proven(
    request: Request, form: Form, fn: Callable[Concatenate[Tx, Visitor, P], T], /, *args: P.args, **kwargs: P.kwargs
) -> T | Unproven:
    """An act that asks for a fresh code: approving, denying, revoking, killing. Raises NotLoggedIn, Forged."""
    visitor, _ = await look(request, _nothing)
    visitor.require_token(form.token)  # before a code is spent
    if (line := await prove_again(request, visitor, form.code)) is not None:
        return Unproven(line)

    def inside(tx: Tx, visitor: Visitor) -> T | Unproven:
        if not visitor.is_fresh:
            return Unproven(_TOO_OLD)
        return fn(tx, visitor, *args, **kwargs)

    return (await act(request, form.token, inside))[1]


def _nothing(tx: Tx, visitor: Visitor) -> None:
    """Who asks is all there is to see."""

"""In and out: /login, /logout, /account."""

from __future__ import annotations

import contextlib
import re
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.forms import read_form
from approval.logins import NO, log_in
from approval.render import page
from approval.showing import go, show
from approval.visitors import NotLoggedIn, Visitor
from approval.web import act, look, web_of
from broker.store import people, web_sessions
from broker.store.db import Tx
from broker.store.people import EnrolledKey

router = APIRouter()
_OWN_PATH: Final = re.compile(r"/(?:[a-z0-9][a-z0-9-]*(?:/[a-z0-9][a-z0-9-]*)*)?")


@router.get("/login")
async def login_page(request: Request, next: str = "") -> Response:
    return page("login.html", line=None, name="", after=own_path(next), banner=web_of(request).settings.site_banner)


@router.post("/login")
async def login(request: Request) -> Response:
    web = web_of(request)
    form = await read_form(request, ["handle", "password", "after"])
    secret = await log_in(request, name=form.one("handle").strip(), password=form.one("password"), code=form.code)
    after = own_path(form.one("after"))
    if secret is None:
        return page(
            "login.html",
            status=403,
            line=NO,
            name=form.one("handle")[:64],
            after=after,
            banner=web.settings.site_banner,
        )
    # An earlier session of this browser ends: nobody may plant one and find it logged in later (WEB-5).
    if earlier := web.secret_of(request):
        await web.db.run(web_sessions.end, earlier)
    answer = go(after)
    _set_cookie(answer, request, secret)
    return answer


def own_path(text: str) -> str:
    """Where to go after the login: a path of these pages, or the first one. Source: WEB-8.

    >>> own_path("/requests/req-1"), own_path("//evil.example"), own_path("https://evil.example")
    ('/requests/req-1', '/', '/')
    """
    return text if _OWN_PATH.fullmatch(text) else "/"


def _set_cookie(answer: Response, request: Request, secret: str) -> None:
    web = web_of(request)
    # Lax, not Strict: a link in a mail to a waiting request must find its owner logged in; it only shows.
    answer.set_cookie(web.cookie, secret, path="/", secure=web.origin.is_secure, httponly=True, samesite="lax")


@router.post("/logout")
async def logout(request: Request) -> Response:
    form = await read_form(request, [])
    web = web_of(request)
    with contextlib.suppress(NotLoggedIn):  # it is what was wanted
        await act(request, form.token, _end)
    answer = go("/login")
    answer.delete_cookie(web.cookie, path="/", secure=web.origin.is_secure, httponly=True, samesite="lax")
    return answer


def _end(tx: Tx, visitor: Visitor) -> None:
    web_sessions.end(tx, visitor.secret)


@router.get("/account")
async def account(request: Request) -> Response:
    visitor, keys = await look(request, _keys)
    return show(visitor, "account.html", section="/account", keys=keys)


def _keys(tx: Tx, visitor: Visitor) -> list[EnrolledKey]:
    return people.keys(tx, visitor.person.id)

"""The web service: its routes, its answers to what goes wrong, the guard around it."""

from __future__ import annotations

from http import HTTPStatus
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from approval import static_files
from approval.answers import NOT_THERE, line_of, status_of
from approval.guard import Guard, Origin, origin_of
from approval.pages import (
    asking,
    decisions,
    enrolment,
    entry,
    grants,
    health,
    home,
    ledger,
    recordings,
    requests,
    sessions,
    suspensions,
    windows,
)
from approval.render import plain_page
from approval.showing import go
from approval.visitors import Forged, NotLoggedIn
from approval.web import Web
from broker.clock import Clock
from broker.domain.errors import BrokerError
from broker.identity import Seal
from broker.settings import Home, Settings
from broker.store.db import Database

# Before the requests: "new" is not an id.
_ROOMS = (
    asking,
    decisions,
    enrolment,
    entry,
    grants,
    health,
    home,
    ledger,
    recordings,
    requests,
    sessions,
    suspensions,
    windows,
)


def create_app(here: Home, settings: Settings, db: Database, clock: Clock, *, origin: Origin | None = None) -> FastAPI:
    """The service. origin: where it is really asked for, when the settings leave the port open.

    Raises BrokerError(UNAVAILABLE) without the seal key.
    """
    origin = origin or origin_of(settings.origin, loopback_port=settings.web.port if settings.web.is_loopback else None)
    app = FastAPI(telemetry={"logs": False}, docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.web = Web(
        home=here, settings=settings, db=db, clock=clock, seal=Seal(here.read_seal_key()), origin=origin
    )
    for room in (*_ROOMS, static_files):
        app.include_router(room.router)
    app.add_exception_handler(NotLoggedIn, _to_login)
    app.add_exception_handler(Forged, _forged)
    app.add_exception_handler(BrokerError, _misused)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _not_there)
    app.add_middleware(Guard, origin=origin)
    return app


async def _to_login(request: Request, _error: Exception) -> Response:
    path = request.scope["path"] if request.method == "GET" else "/"  # request.url holds what Host said
    return go("/login" if path == "/" else f"/login?next={quote(path, safe='/')}")


async def _forged(_request: Request, _error: Exception) -> Response:
    return plain_page(
        HTTPStatus.FORBIDDEN, "This form is not of your session; nothing was changed. Load the page again."
    )


async def _misused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BrokerError)  # noqa: S101 - registered for nothing else
    return plain_page(HTTPStatus(status_of(error)), line_of(error))


async def _told(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for nothing else
    status = HTTPStatus(error.status_code)
    ours = {HTTPStatus.NOT_FOUND: NOT_THERE, HTTPStatus.METHOD_NOT_ALLOWED: "That cannot be done here."}
    answer = plain_page(status, ours.get(status, str(error.detail)))
    for name, value in (error.headers or {}).items():
        answer.headers[name] = value
    return answer


async def _not_there(_request: Request, _error: Exception) -> Response:
    return plain_page(HTTPStatus.NOT_FOUND, NOT_THERE)

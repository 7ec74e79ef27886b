"""Whether the service lives and can serve: for whatever watches it; says nothing more."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response

from approval.web import web_of
from broker.domain.errors import BrokerError
from broker.store import ledger

router = APIRouter()


@router.get("/healthz")
async def healthz() -> Response:
    return PlainTextResponse("ok\n")


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    try:
        await web_of(request).db.look(ledger.head)
    except BrokerError:
        return PlainTextResponse("the database does not answer\n", status_code=503)
    return PlainTextResponse("ok\n")

"""The ledger's last entries, as stored: for auditors, and for owners of every site."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.showing import not_there, show
from approval.visitors import Visitor
from approval.web import look
from broker.domain.people import Right
from broker.store import ledger
from broker.store.db import Tx
from broker.store.ledger import Row

router = APIRouter()
_LAST = 100


@router.get("/ledger")
async def ledger_page(request: Request) -> Response:
    visitor, (rows, size, link) = await look(request, _load)
    return show(visitor, "ledger.html", section="/ledger", rows=rows, size=size, link=link)


def _load(tx: Tx, visitor: Visitor) -> tuple[list[Row], int, str]:
    if not visitor.may_everywhere(Right.AUDIT, Right.APPROVE):
        raise not_there()
    size, link = ledger.head(tx)
    return ledger.show(tx, last=_LAST)[::-1], size, link

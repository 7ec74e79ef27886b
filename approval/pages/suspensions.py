"""What is shut out, for owners: who did it, why, and letting it in again."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, Request
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import read_form
from approval.logins import DOOR, Unproven, act_proven
from approval.showing import go, not_there, show
from approval.visitors import Visitor
from approval.web import look
from broker import desk
from broker.domain.people import Right
from broker.domain.policy import Refusal
from broker.domain.suspension import Suspension
from broker.store import suspensions
from broker.store.db import Tx
from broker.suspending import may_restore, name_of, sites_of

router = APIRouter()


@dataclass(frozen=True, slots=True)
class Shut:
    """One suspension. name: of its subject; may_restore: whether this visitor can."""

    suspension: Suspension
    name: str
    may_restore: bool


@router.get("/suspensions")
async def suspension_list(request: Request) -> Response:
    visitor, seen = await look(request, _load)
    return show(visitor, "suspensions.html", section="/grants", seen=seen, line=None)


def _load(tx: Tx, visitor: Visitor) -> list[Shut]:
    found = []
    for one in suspensions.standing(tx):
        at = sites_of(tx, one.scope, one.subject)
        if not visitor.is_engineer and any(visitor.may(Right.VIEW, site) for site in at):
            found.append(Shut(one, name_of(tx, one), may_restore(tx, visitor.person, one.scope, one.subject)))
    return found


@router.post("/suspensions/{suspension_id}/restore")
async def restore(request: Request, suspension_id: str) -> Response:
    done = await act_proven(request, await read_form(request, []), _restore, suspension_id)
    match done:
        case None:
            raise not_there()
        case Unproven(line):
            told, status = line, 403
        case Refusal():
            told, status = line_of(done), status_of(done)
        case _:
            return go("/suspensions")
    visitor, seen = await look(request, _load)
    return show(visitor, "suspensions.html", section="/grants", status=status, seen=seen, line=told)


def _restore(tx: Tx, visitor: Visitor, suspension_id: str) -> str | Refusal | None:
    found = next((one.suspension for one in _load(tx, visitor) if one.suspension.id == suspension_id), None)
    if found is None:
        return None
    return desk.restore_subject(tx, owner_id=visitor.person.id, scope=found.scope, subject=found.subject, door=DOOR)

"""A page for somebody logged in: the frame around it, and the two answers that every page shares."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

from approval.answers import NOT_THERE
from approval.forms import PROOF, TOKEN
from approval.render import page
from approval.visitors import Visitor
from broker.domain.people import Right

LOOKERS: Final = (Right.APPROVE, Right.REVIEW, Right.AUDIT)
"""Who sees that a recording exists; replaying it takes Right.REVIEW."""


def show(visitor: Visitor, template: str, *, section: str, status: int = 200, **values: Any) -> Response:
    """The page in its frame. section: the path of the part of the site that it belongs to."""
    return page(
        template,
        status=status,
        visitor=visitor,
        now=visitor.now,
        section=section,
        parts=_parts(visitor),
        token_field=TOKEN,
        proof_field=PROOF,
        **values,
    )


def not_there() -> HTTPException:
    """Not yours and not there: one answer (law 7, WEB-1)."""
    return HTTPException(HTTPStatus.NOT_FOUND, NOT_THERE)


def go(path: str) -> Response:
    """After an act: to the page that shows what came of it, by GET, so that reloading acts on nothing."""
    return RedirectResponse(path, status_code=HTTPStatus.SEE_OTHER)


def _parts(visitor: Visitor) -> list[tuple[str, str]]:
    if visitor.is_engineer:
        return [
            ("/", "Overview"),
            ("/requests/new", "Ask"),
            ("/requests", "Requests"),
            ("/grants", "Grants"),
            ("/sessions", "Sessions"),
        ]
    first = "Waiting" if visitor.may_anywhere(Right.APPROVE) else "Overview"
    parts = [("/", first), ("/requests", "Requests"), ("/grants", "Grants"), ("/sessions", "Sessions")]
    if visitor.may_anywhere(*LOOKERS):
        parts.append(("/recordings", "Recordings"))
    parts.append(("/windows", "Windows"))
    if visitor.may_everywhere(Right.AUDIT, Right.APPROVE):
        parts.append(("/ledger", "Ledger"))
    return parts

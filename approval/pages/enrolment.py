"""Enrolling by a one-time link: key, password, code seed, all or nothing, once."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import segno
from fastapi import APIRouter, Request
from markupsafe import Markup
from starlette.responses import Response

from approval.answers import line_of, status_of
from approval.forms import Form, read_form
from approval.render import page
from approval.web import Web, web_of
from broker import identity
from broker.domain.errors import BrokerError, Code
from broker.domain.people import Person
from broker.identity import Drawn
from broker.store.db import Tx

router = APIRouter()
_FIELDS = ("key", "password", "again", "sealed")


@dataclass(frozen=True, slots=True, repr=False)
class EnrolView:
    """The invited person and the seed drawn for this page; the seed is shown here and nowhere else."""

    person: Person
    drawn: Drawn

    @property
    def qr(self) -> Markup:
        """The provisioning URI as an inline SVG; drawn from our own text only."""
        out = io.BytesIO()
        segno.make(self.drawn.totp_uri, error="m").save(
            out, kind="svg", xmldecl=False, svgns=True, omitsize=True, border=2, dark="#000", light="#fff"
        )
        return Markup(out.getvalue().decode())  # noqa: S704

    @property
    def spelt(self) -> str:
        """The seed in groups of four, for a phone without a camera."""
        seed = self.drawn.totp_uri.partition("secret=")[2].partition("&")[0]
        return " ".join(seed[at : at + 4] for at in range(0, len(seed), 4))

    @property
    def sealed(self) -> str:
        return base64.urlsafe_b64encode(self.drawn.sealed).decode()


@router.get("/enrol/{code}")
async def enrol_page(request: Request, code: str) -> Response:
    web = web_of(request)
    person = await web.db.look(identity.open_invitation, code)
    drawn = identity.draw_seed(web.seal, person, issuer=web.settings.totp_issuer)
    return page("enrol.html", seen=EnrolView(person, drawn), line=None, key="")


@router.post("/enrol/{code}")
async def enrol(request: Request, code: str) -> Response:
    web = web_of(request)
    form = await read_form(request, _FIELDS)
    person = await web.db.look(identity.open_invitation, code)
    drawn = _read_sealed(web, person, form.one("sealed"))
    try:
        if form.one("password") != form.one("again"):
            raise BrokerError(Code.INVALID, "the two passwords differ")
        async with web.hashing:
            await web.db.run(_accept, web, code, form, drawn.sealed)
    except BrokerError as error:
        if error.code is Code.NOT_FOUND:
            raise
        view = EnrolView(person, drawn)
        return page("enrol.html", status=status_of(error), seen=view, line=line_of(error), key=form.one("key"))
    return page("enrolled.html", person=person)


def _read_sealed(web: Web, person: Person, text: str) -> Drawn:
    """The seed that the page was made with; it comes back sealed, and only the person's own opens. Raises BrokerError(INVALID)."""
    try:
        sealed = base64.b64decode(text, altchars=b"-_", validate=True)
        return identity.show_again(web.seal, person, sealed, issuer=web.settings.totp_issuer)
    except (ValueError, BrokerError):
        raise BrokerError(Code.INVALID, "the form is incomplete; open the link again") from None


def _accept(tx: Tx, web: Web, code: str, form: Form, sealed: bytes) -> Person:
    return identity.accept_invitation(
        tx,
        code,
        key_line=form.one("key").strip() or None,
        password=form.one("password") or None,
        sealed=sealed,
        first_code=form.code,
        seal=web.seal,
    )

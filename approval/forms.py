"""Forms as they arrive: only the fields that the page has, each bounded, each once unless it may repeat. Source: WEB-9."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import quoted

FIELD_LONGEST: Final = 16 * 1024
FIELDS_MOST: Final = 256
TOKEN: Final = "token"  # noqa: S105 - the name of a field
PROOF: Final = "code"


class Form:
    """The fields of one form. Values are foreign: parse each."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def one(self, name: str) -> str:
        """The value of a field, empty when it is missing."""
        return self._fields.get(name, [""])[0]

    def many(self, name: str) -> list[str]:
        """All values of a field that may repeat, as tick boxes do."""
        return list(self._fields.get(name, []))

    @property
    def token(self) -> str:
        return self.one(TOKEN)

    @property
    def code(self) -> str:
        """A one-time code as typed: phones show it in two groups."""
        return "".join(self.one(PROOF).split())


async def read_form(request: Request, single: Iterable[str], *, repeated: Iterable[str] = ()) -> Form:
    """Read the form. Raises BrokerError(INVALID) for anything the page does not have, HTTPException(415)."""
    kind, _, charset = request.headers.get("content-type", "").lower().replace(" ", "").partition(";")
    if kind != "application/x-www-form-urlencoded" or charset not in ("", "charset=utf-8"):
        raise HTTPException(415, "Send it as the page's own form does.")
    once, often = {TOKEN, PROOF, *single}, set(repeated)
    fields: dict[str, list[str]] = defaultdict(list)
    for name, value in _pairs(await request.body()):
        if name not in once and name not in often:
            raise BrokerError(Code.INVALID, f"the form has no field {quoted(name)}")
        if len(value) > FIELD_LONGEST:
            raise BrokerError(Code.INVALID, f"{name} is too long: at most {FIELD_LONGEST} characters")
        if "\0" in value:
            raise BrokerError(Code.INVALID, f"{name} holds control characters")
        if name in once and name in fields:
            raise BrokerError(Code.INVALID, f"{name} was sent twice")
        fields[name].append(value)
    return Form(dict(fields))


def _pairs(body: bytes) -> list[tuple[str, str]]:
    """Names and values, strictly UTF-8: what cannot be read is refused, not replaced by something the sender never wrote."""
    try:
        return parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=FIELDS_MOST,
        )
    except ValueError:
        raise BrokerError(Code.INVALID, "the form cannot be read; send it as the page's own form does") from None

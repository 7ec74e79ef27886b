"""The web door's one table: what each kind of no is as a status, and the headers that every answer carries."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from broker.domain.errors import BrokerError, Code
from broker.domain.policy import Reason, Refusal, ReviewReason

STATUS_OF: Final[Mapping[Code, int]] = {
    Code.INVALID: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.UNAVAILABLE: 503,
}
_REFUSED: Final[Mapping[Reason | ReviewReason, int]] = {
    ReviewReason.NO_SUCH_REQUEST: 404,
    Reason.NO_GRANT: 404,
    ReviewReason.NO_RIGHT: 403,
    ReviewReason.OWN_REQUEST: 403,
    ReviewReason.SAME_OWNER: 403,
    ReviewReason.NOT_AN_ENGINEER: 403,
    ReviewReason.DISABLED: 403,
    ReviewReason.WRONG_STATE: 409,
    ReviewReason.LAPSED: 409,
    ReviewReason.CHANGED: 409,
    Reason.REVOKED: 409,
    Reason.HANDED_BACK: 409,
    Reason.SUSPENDED: 409,
    Reason.FROZEN: 409,
    Reason.SHUT_OUT: 409,
    Reason.OVER: 409,
}

CONTENT_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# The player's terminal is WebAssembly; nothing else is loosened, and on no other page.
REPLAY_POLICY: Final = CONTENT_POLICY.replace("script-src 'self'", "script-src 'self' 'wasm-unsafe-eval'")
HEADERS: Final[Mapping[str, str]] = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
    # Not no-referrer: under it browsers send "Origin: null" with our own forms too. Nothing leaves for other sites either way.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), usb=(), payment=()",
}
NOT_THERE: Final = "There is no such page, or it is not for you."
HSTS: Final = ("strict-transport-security", "max-age=31536000")


def status_of(no: Refusal | BrokerError) -> int:
    """The status of a no: 422 for a refusal of what could be asked otherwise, unless the table says more."""
    return STATUS_OF[no.code] if isinstance(no, BrokerError) else _REFUSED.get(no.reason, 422)


def line_of(no: Refusal | BrokerError) -> str:
    """A no as one line for the person entitled to know it."""
    if isinstance(no, BrokerError):
        return _sentence(no.detail)
    return _sentence(f"{no.reason.value}: {no.hint}" if no.hint else no.reason.value)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."

"""Misuse, told from refusals: a refusal is a value that a caller must face, misuse is raised."""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """The few kinds of misuse; each door has one table from these to its own answers."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    UNAVAILABLE = "unavailable"


class BrokerError(Exception):
    """A caller's mistake in one clear line; nothing has been changed.

    code: which kind. detail: one line for the person who made the mistake; it holds no secret.
    """

    def __init__(self, code: Code, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail

"""Holding a stream against what the ledger says of it. Source: docs/rules.md, Evidence."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from recorder.examination import State, examine
from recorder.format import FormatError, Head
from recorder.records import open_stream

INTACT: Final = 0
CONTRADICTS: Final = 4
INCOMPLETE: Final = 5
_CHUNK: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Verdict:
    """code: 0 intact; 4 contradicts itself or the ledger; 5 what is there agrees, but something is absent. text: one line."""

    code: int
    text: str


def verify_stream(path: Path, expected: Head | None) -> Verdict:
    """Check every byte. expected: the stream's final head from the ledger; without one the best answer is 5. Raises nothing.

    A stream that was already unreadable when its head was taken (a power cut leaves garbage behind) is 5, not 4: the bytes
    are those attested. Without `expected`, only the stream's own chain is checked, which whoever rewrote all of it passes.
    """
    try:
        found = examine(path)
        prefix = found.sha256 if expected is None else _prefix(path, expected.length)
    except FileNotFoundError:
        return Verdict(INCOMPLETE, "missing")
    except FormatError as error:
        return Verdict(CONTRADICTS, str(error))
    except OSError as error:
        return Verdict(INCOMPLETE, f"cannot be read: {error.strerror}")
    if expected is not None and found.length >= expected.length and prefix != expected.sha256:
        return Verdict(CONTRADICTS, f"not the bytes that the ledger attests; {found.problem or 'rewritten as a whole'}")
    if expected is not None and found.length > expected.length:
        return Verdict(CONTRADICTS, f"bytes were appended after byte {expected.length}")
    if expected is not None and found.length == expected.length:
        return _attested(found.state, found.reason, found.problem)
    if found.problem is not None:
        return Verdict(CONTRADICTS, found.problem)
    if expected is not None:
        return Verdict(INCOMPLETE, f"cut: {expected.length - found.length} of {expected.length} bytes are gone")
    return Verdict(INCOMPLETE, f"{found.state}; agrees with itself, no head in the ledger to hold it against")


def _attested(state: State, reason: str, problem: str | None) -> Verdict:
    if state is State.CLOSED:
        return Verdict(INTACT, f"intact, closed: {_one_line(reason)}")
    if state is State.INTERRUPTED:
        return Verdict(INCOMPLETE, "interrupted; what is there is as attested")
    return Verdict(INCOMPLETE, f"as attested, but it did not read even then: {problem}")


def _prefix(path: Path, length: int) -> str:
    """SHA-256 (hex) of the first `length` bytes, or of all when there are fewer."""
    digest = hashlib.sha256()
    with open_stream(path) as file:
        while length > 0 and (chunk := file.read(min(_CHUNK, length))):
            digest.update(chunk)
            length -= len(chunk)
    return digest.hexdigest()


def _one_line(text: str) -> str:
    return text if text.isascii() and text.isprintable() else ascii(text)

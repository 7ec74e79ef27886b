"""Holding recordings against the ledger, and the ledger against itself. Source: docs/rules.md, Evidence and Faces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from broker.cli.ending import CONTRADICTS, INCOMPLETE
from broker.domain.audit import StreamHead
from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SessionId, quoted
from broker.settings import Home
from broker.store import ledger, recordings
from broker.store.db import Database, Tx
from broker.store.recordings import Recording
from recorder.format import Head
from recorder.verify import verify_stream

_ALL: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one thing that was checked. code: an exit code, 0 is intact."""

    name: str
    code: int
    text: str


def check(db: Database, home: Home, names: Sequence[str], *, closed_only: bool = False) -> list[Verdict]:
    """Check the named recordings, or all of them and the ledger. Raises BrokerError(NOT_FOUND) for a name unknown.

    The rows are read in one snapshot that is over before any file is opened: hashing takes hours, and must hold nothing up.
    """
    with db.read() as tx:
        problem = ledger.verify(tx)
        found = [_require(tx, name) for name in names] or recordings.recordings(tx, newest=_ALL)
        heads = _ledgered(tx)
    verdicts = []
    if problem is not None:
        verdicts.append(Verdict("ledger", CONTRADICTS, f"entry {problem[0]}: {problem[1]}"))
    for one in found:
        if not (closed_only and one.session.ended_at is None):
            verdicts += _recording(home, one, heads.get(one.id, {}))
    if not names:
        absent = heads.keys() - {one.id for one in found}
        verdicts += [Verdict(name, CONTRADICTS, "in the ledger, but not in the database") for name in sorted(absent)]
    return verdicts


def worst(verdicts: Iterable[Verdict]) -> int:
    """The exit code for all of them: a contradiction outweighs what is missing."""
    codes = {one.code for one in verdicts}
    return CONTRADICTS if CONTRADICTS in codes else INCOMPLETE if INCOMPLETE in codes else 0


def _recording(home: Home, one: Recording, heads: dict[str, StreamHead]) -> list[Verdict]:
    verdicts = []
    for stream in one.streams:
        head = heads.get(stream.name)
        judged = verify_stream(home.recordings / stream.path, None if head is None else Head(head.length, head.sha256))
        verdicts.append(Verdict(f"{one.id}/{stream.name}", judged.code, judged.text))
    absent = heads.keys() - {stream.name for stream in one.streams}
    if not one.streams and not heads:  # nothing at all is no proof of anything
        verdicts.append(Verdict(one.id, INCOMPLETE, "no stream is kept of it"))
    return verdicts + [
        Verdict(f"{one.id}/{name}", CONTRADICTS, "in the ledger, but not in the database") for name in sorted(absent)
    ]


def _require(tx: Tx, name: str) -> Recording:
    found = recordings.load_recording(tx, name)
    if found is None:
        raise BrokerError(Code.NOT_FOUND, f"no recording {quoted(name)}; see: recordings")
    return found


def _ledgered(tx: Tx) -> dict[SessionId, dict[str, StreamHead]]:
    """The heads of every session's streams as the ledger has them, not as the rows say."""
    found: dict[SessionId, dict[str, StreamHead]] = {}
    after = 0
    while rows := ledger.since(tx, after):
        after = rows[-1].seq
        for row in rows:
            for head in row.body.get("heads", ()):
                streams = found.setdefault(SessionId(row.body["session_id"]), {})
                streams[head["stream"]] = StreamHead(**head)
    return found

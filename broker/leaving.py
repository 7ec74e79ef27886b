"""How channels and sessions end: by themselves, by somebody's act, or by a crash. Reached through `broker.gate`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.domain.audit import ChannelClosed, SessionClosed, StreamHead
from broker.domain.extension import Stretch, stretches
from broker.domain.hold import Ends
from broker.domain.ids import SessionId
from broker.domain.live import Moved
from broker.domain.session import EndReason
from broker.store import grants, ledger, recordings, sessions, suspensions, windows
from broker.store.db import Tx
from broker.store.sessions import Standing


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What the recorder found of one stream that a crash left open. state: closed, interrupted or damaged; sha256 in hex."""

    length: int
    sha256: str
    state: str = "interrupted"
    duration_us: int | None = None


def leave_channel(
    tx: Tx,
    *,
    session_id: SessionId,
    channel: int,
    state: str,
    exit: str | None,
    heads: Iterable[StreamHead],
    duration_us: int | None = None,
) -> bool:
    """Close one channel with the heads of its streams; False, and no second entry, when it is closed already.

    state: closed, interrupted or damaged; exit: status or signal as text. A stream without a head is damaged.
    """
    if not sessions.close_channel(tx, session_id, channel, state=state, exit_text=exit):
        return False
    kept = tuple(heads)
    recordings.close_streams(tx, session_id, channel, kept, state=state, duration_us=duration_us)
    ledger.append(tx, ChannelClosed(session_id=session_id, channel=channel, state=state, exit=exit, heads=kept))
    return True


def leave(
    tx: Tx, *, session_id: SessionId, reason: EndReason, by: str | None = None, heads: Iterable[StreamHead] = ()
) -> bool:
    """Close a session, naming every stream and its final head; False when it is closed already.

    heads: of streams not closed yet; channels still open close with it as interrupted.
    """
    if not sessions.close_session(tx, session_id, reason):
        return False
    late = tuple(heads)
    for channel in sessions.channels(tx, session_id):
        if channel.closed_at is None:
            mine = [head for head in late if head.stream.startswith(f"{channel.number:02d}.")]
            leave_channel(tx, session_id=session_id, channel=channel.number, state="interrupted", exit=None, heads=mine)
    final = tuple(one.head for one in recordings.streams(tx, session_id) if one.head is not None)
    ledger.append(tx, SessionClosed(session_id=session_id, reason=reason, by=by, heads=final))
    return True


def standing(tx: Tx, session_ids: Iterable[SessionId]) -> dict[SessionId, EndReason | Moved]:
    """What the facts as they are now mean for live sessions; asked after any change of the ledger.

    Moved: it stands, until then, whatever its row said when it was opened. EndReason: it must end; so does one unknown.
    Time alone is not judged here, the live session does that with two clocks.
    """
    wanted = list(session_ids)
    found: dict[SessionId, EndReason | Moved] = dict.fromkeys(wanted, EndReason.INTERRUPTED)
    for one, carried, is_shut_out in _loaded(tx, wanted):
        ends = EndReason.KILLED if is_shut_out else _ends(one, carried, tx.now)
        if isinstance(ends, EndReason):
            found[one.id] = ends
        else:  # a hold is only ever later, and only than what time alone ends
            found[one.id] = Moved(ends.closes if one.held_until is None else max(ends.closes, one.held_until))
    return found


def ends_of(tx: Tx, session_id: SessionId) -> Ends | EndReason:
    """When a live session ends if nobody holds it, or why it must end now."""
    for one, carried, is_shut_out in _loaded(tx, [session_id]):
        return EndReason.KILLED if is_shut_out else _ends(one, carried, tx.now)
    return EndReason.INTERRUPTED


def _loaded(tx: Tx, wanted: list[SessionId]) -> Iterator[tuple[Standing, Sequence[Stretch], bool]]:
    if not wanted:
        return
    shut_out, against = suspensions.by_subject(tx), suspensions.of_sessions(tx, wanted)
    rows = sessions.standings(tx, wanted)
    own = grants.grants_by_id(tx, (one.grant_id for one in rows))
    later = grants.extensions(tx, own)
    places = windows.windows_by_id(tx, (one.window_id for one in (*own.values(), *later)))
    for one in rows:
        carried = stretches(own[one.grant_id], later, places, asset_id=one.asset_id, opened_at=one.opened_at)
        later_shut_out = any(shut_out.keys() & {it.grant.id, it.window.id} for it in carried)
        yield one, carried, later_shut_out or one.id in against


def _ends(one: Standing, carried: Sequence[Stretch], now: datetime) -> EndReason | Ends:
    if one.killed_at is not None:
        return EndReason.KILLED
    first = carried[0]
    if (ended := _act_on(first, now)) is EndReason.KILLED or one.ended_at is not None:
        return ended or EndReason.INTERRUPTED
    if one.disabled or not one.key_stands:
        return ended or EndReason.DISABLED
    if ended is not None:
        return ended
    last = first
    for stretch in carried[1:]:
        if (ended := _act_on(stretch, now)) is not None:
            if now < stretch.since:
                break  # taken back before it began: the end is where it was
            return ended
        last = stretch
    return Ends(closes=min(last.until, one.longest_until), window_closes=last.window.stop(last.since))


def _act_on(stretch: Stretch, now: datetime) -> EndReason | None:
    """By which act a stretch is over, if any."""
    grant, closed_at = stretch.grant, stretch.window.closed_at
    if grant.suspended_at is not None:
        return EndReason.KILLED
    if grant.revoked_at is not None:
        return EndReason.REVOKED
    if grant.handed_back_at is not None:
        return EndReason.HANDED_BACK
    return EndReason.WINDOW_CLOSED if closed_at is not None and closed_at <= now else None


def recover(tx: Tx, *, node: str, findings: Mapping[str, Finding]) -> list[SessionId]:
    """Close what a crash of this bastion has left open, as interrupted, with the heads found; gives the sessions.

    findings: by the stream's path relative to recordings/; a stream without one is damaged. Source: E12.
    """
    recovered = []
    for session in sessions.open_sessions_of(tx, node):
        open_ones = [one for one in recordings.streams(tx, session.id) if one.state == "open"]
        heads = []
        for one in open_ones:
            if (found := findings.get(one.path)) is not None:
                head = StreamHead(stream=one.name, length=found.length, sha256=found.sha256)
                heads.append(head)
                recordings.close_stream(tx, session.id, head, state=found.state, duration_us=found.duration_us)
        leave(tx, session_id=session.id, reason=EndReason.INTERRUPTED, heads=heads)
        recovered.append(session.id)
    return recovered

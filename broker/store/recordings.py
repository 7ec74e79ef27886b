"""Recordings: what is kept of each session, one row a stream; the bytes are the recorder's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from broker.domain.audit import StreamHead
from broker.domain.ids import AssetId, PersonId, SessionId, SiteId
from broker.domain.session import ChannelKind, EndReason, Session
from broker.store.db import Tx
from broker.store.schema import access_session as _session
from broker.store.schema import asset as _asset
from broker.store.schema import person as _person
from broker.store.schema import site as _site
from broker.store.schema import stream as _stream

_INSERT: Final = sa.insert(_stream)
_WORST: Final = ("damaged", "interrupted", "open", "closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One file of a recording.

    name: NN.CLASS, as in StreamHead; path: relative to recordings/; length in bytes and sha256 in hex: once it is closed.
    """

    session_id: SessionId
    name: str
    channel: int
    stream_class: str
    path: str
    state: str
    length: int | None
    sha256: str | None
    opened_at: datetime
    closed_at: datetime | None
    duration_us: int | None

    @property
    def head(self) -> StreamHead | None:
        """Its end as the ledger has it, None while it is open or when it cannot be read."""
        if self.length is None or self.sha256 is None:
            return None
        return StreamHead(stream=self.name, length=self.length, sha256=self.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """The evidence of one session; its id is the session's. asset: ASSET.SITE; person: the handle."""

    id: SessionId
    session: Session
    site_id: SiteId
    asset: str
    person: str
    streams: tuple[Stream, ...]

    @property
    def state(self) -> str:
        """open, closed, interrupted or damaged: the worst of its streams."""
        return min((one.state for one in self.streams), key=_WORST.index, default="closed")


def classes_of(kind: ChannelKind) -> tuple[str, ...]:
    """The streams that a channel of that kind is kept in; typed input stays apart, it holds passwords. Source: E7."""
    return ("screen", "typed") if kind in (ChannelKind.SHELL, ChannelKind.EXEC) else ("wire",)


def folder_of(session: Session) -> str:
    """The folder of a session's files, relative to recordings/. Source: docs/rules.md, Evidence."""
    return f"{session.opened_at:%Y/%m/%d}/{session.id}"


def insert_streams(tx: Tx, session: Session, channel: int, kind: ChannelKind) -> tuple[str, ...]:
    """Keep the rows of a channel's files before the files are there; gives the paths, relative to recordings/."""
    rows = []
    for klass in classes_of(kind):
        name = f"{channel:02d}.{klass}"
        rows.append(
            {
                "session_id": session.id,
                "name": name,
                "channel": channel,
                "stream_class": klass,
                "path": f"{folder_of(session)}/{name}.wgr",
                "state": "open",
                "opened_at": tx.now,
            }
        )
    tx.conn.execute(_INSERT, rows)
    return tuple(str(row["path"]) for row in rows)


def close_stream(
    tx: Tx, session_id: SessionId, head: StreamHead, *, state: str, duration_us: int | None = None
) -> None:
    """Close one stream with its head, once. state: closed, interrupted or damaged."""
    tx.conn.execute(
        sa.update(_stream)
        .where(_stream.c.session_id == session_id, _stream.c.name == head.stream, _stream.c.state == "open")
        .values(state=state, length=head.length, sha256=head.sha256, closed_at=tx.now, duration_us=duration_us)
    )


def close_streams(
    tx: Tx,
    session_id: SessionId,
    channel: int,
    heads: Iterable[StreamHead],
    *,
    state: str,
    duration_us: int | None = None,
) -> None:
    """Close a channel's streams with their heads; one still open without a head is damaged."""
    for head in heads:
        close_stream(tx, session_id, head, state=state, duration_us=duration_us)
    tx.conn.execute(
        sa.update(_stream)
        .where(_stream.c.session_id == session_id, _stream.c.channel == channel, _stream.c.state == "open")
        .values(state="damaged", closed_at=tx.now)
    )


def streams(tx: Tx, session_id: SessionId) -> list[Stream]:
    """The streams of a session by name."""
    found = tx.conn.execute(
        sa.select(_stream).where(_stream.c.session_id == session_id).order_by(_stream.c.channel, _stream.c.name)
    )
    return [_stream_of(row) for row in found]


def load_recording(tx: Tx, recording_id: str) -> Recording | None:
    """The recording of that id, which is the session's."""
    found = _recordings(tx, _asked().where(_session.c.id == recording_id))
    return found[0] if found else None


def recordings(
    tx: Tx,
    *,
    session_id: SessionId | None = None,
    asset_id: AssetId | None = None,
    person_id: PersonId | None = None,
    site_ids: Iterable[SiteId] | None = None,
    since: datetime | None = None,
    newest: int = 1000,
) -> list[Recording]:
    """Recordings, the newest first. since: of sessions opened from then on; site_ids: only these sites."""
    asked = _asked().limit(newest)
    if session_id is not None:
        asked = asked.where(_session.c.id == session_id)
    if asset_id is not None:
        asked = asked.where(_session.c.asset_id == asset_id)
    if person_id is not None:
        asked = asked.where(_session.c.person_id == person_id)
    if site_ids is not None:
        asked = asked.where(_asset.c.site_id.in_(list(site_ids)))
    if since is not None:
        asked = asked.where(_session.c.opened_at >= since)
    return _recordings(tx, asked)


def _asked() -> sa.Select[Any]:
    return (
        sa.select(
            _session,
            _asset.c.name.label("asset_name"),
            _asset.c.site_id,
            _site.c.name.label("site_name"),
            _person.c.handle,
        )
        .select_from(
            _session.join(_asset, _session.c.asset_id == _asset.c.id)
            .join(_site, _asset.c.site_id == _site.c.id)
            .join(_person, _session.c.person_id == _person.c.id)
        )
        .order_by(_session.c.opened_at.desc(), _session.c.id)
    )


def _recordings(tx: Tx, asked: sa.Select[Any]) -> list[Recording]:
    rows = tx.conn.execute(asked).all()
    kept: dict[str, list[Stream]] = defaultdict(list)
    if rows:
        wanted = sa.select(_stream).where(_stream.c.session_id.in_([row.id for row in rows]))
        for one in tx.conn.execute(wanted.order_by(_stream.c.channel, _stream.c.name)):
            kept[one.session_id].append(_stream_of(one))
    return [
        Recording(
            id=row.id,
            session=session_of(row),
            site_id=row.site_id,
            asset=f"{row.asset_name}.{row.site_name}",
            person=row.handle,
            streams=tuple(kept[row.id]),
        )
        for row in rows
    ]


def _stream_of(row: Any) -> Stream:
    return Stream(
        session_id=row.session_id,
        name=row.name,
        channel=row.channel,
        stream_class=row.stream_class,
        path=row.path,
        state=row.state,
        length=row.length,
        sha256=row.sha256,
        opened_at=row.opened_at,
        closed_at=row.closed_at,
        duration_us=row.duration_us,
    )


def session_of(row: Any) -> Session:
    """A row of access_session as the noun."""
    return Session(
        id=row.id,
        grant_id=row.grant_id,
        person_id=row.person_id,
        asset_id=row.asset_id,
        account=row.account,
        source=row.source,
        opened_at=row.opened_at,
        until=row.until,
        frozen_at=row.frozen_at,
        frozen_by=row.frozen_by,
        held_until=row.held_until,
        ended_at=row.ended_at,
        end_reason=None if row.end_reason is None else EndReason(row.end_reason),
    )

"""Recordings: the list, one recording, and the bytes for the player: no look without its ledger entry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from approval.answers import REPLAY_POLICY
from approval.logins import DOOR
from approval.outlet import stream_out
from approval.showing import LOOKERS, not_there, show
from approval.visitors import NotLoggedIn, Visitor, require_visitor
from approval.web import look, web_of
from broker.domain.audit import RecordingViewed
from broker.domain.inventory import Site
from broker.domain.people import Right
from broker.store import inventory, ledger, sessions
from broker.store.db import Tx
from broker.store.sessions import Channel, Recording, Stream
from recorder import export

router = APIRouter()
_NEWEST = 200
# Not the path convertor {channel:int}: it fails, instead of refusing, at a number of five thousand digits.
ChannelNumber = Annotated[int, Field(ge=1, le=9999)]


@dataclass(frozen=True, slots=True)
class Part:
    """One channel of a recording. screen: what the player can show, None for file transfers and raw connections."""

    channel: Channel
    streams: list[Stream]
    screen: Stream | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingView:
    """One recording. may_replay: the visitor holds the right to review at its site."""

    recording: Recording
    zone: str
    parts: list[Part]
    may_replay: bool


@router.get("/recordings")
async def recording_list(request: Request) -> Response:
    visitor, seen = await look(request, _load_list)
    found, sites = seen
    zones = {site.id: site.time_zone for site in sites}
    return show(visitor, "recordings.html", section="/recordings", recordings=found, zones=zones)


def _load_list(tx: Tx, visitor: Visitor) -> tuple[list[Recording], Iterable[Site]]:
    if not (sites := visitor.sites_with(*LOOKERS)):
        raise not_there()
    return sessions.recordings(tx, site_ids=[site.id for site in sites], newest=_NEWEST), sites


@router.get("/recordings/{recording_id}")
async def recording_page(request: Request, recording_id: str, channel: ChannelNumber | None = None) -> Response:
    visitor, seen = await look(request, _load, recording_id)
    if seen is None:
        raise not_there()
    playable = [part for part in seen.parts if part.screen is not None]
    chosen = next((part for part in playable if part.channel.number == channel), playable[0] if playable else None)
    answer = show(visitor, "recording.html", section="/recordings", seen=seen, chosen=chosen)
    if seen.may_replay:
        answer.headers["content-security-policy"] = REPLAY_POLICY
    return answer


def _load(tx: Tx, visitor: Visitor, recording_id: str) -> RecordingView | None:
    found = sessions.load_recording(tx, recording_id)
    if found is None or not any(visitor.may(right, found.site_id) for right in LOOKERS):
        return None
    site = inventory.site_by_id(tx, found.site_id)
    return RecordingView(
        recording=found,
        zone="UTC" if site is None else site.time_zone,
        parts=[_part(channel, found) for channel in sessions.channels(tx, found.id)],
        may_replay=visitor.may(Right.REVIEW, found.site_id),
    )


def _part(channel: Channel, found: Recording) -> Part:
    streams = [one for one in found.streams if one.channel == channel.number]
    # What was typed stays apart: it holds passwords, and a page is looked at over shoulders.
    return Part(channel, streams, next((one for one in streams if one.stream_class == "screen"), None))


@router.get("/recordings/{recording_id}/{channel}.cast")
async def cast(request: Request, recording_id: str, channel: ChannelNumber) -> Response:
    path = await _open(request, recording_id, channel, "replay")
    return StreamingResponse(
        stream_out(lambda out: export.cast(path, out)), media_type="application/x-asciicast; charset=utf-8"
    )


@router.get("/recordings/{recording_id}/{channel}.txt")
async def text(request: Request, recording_id: str, channel: ChannelNumber) -> Response:
    path = await _open(request, recording_id, channel, "text")
    return StreamingResponse(
        stream_out(lambda out: export.text(path, out)),
        media_type="text/plain; charset=utf-8",
        headers={
            "content-disposition": f'attachment; filename="recording-{channel:02d}.txt"'
        },  # WEB-10: a made-up name
    )


async def _open(request: Request, recording_id: str, channel: int, how: str) -> Path:
    """The file of a channel's screen, once the ledger says who looks. Raises HTTPException(404) for all who may not."""
    web = web_of(request)
    secret = web.secret_of(request)

    def inside(tx: Tx) -> str | None:
        visitor = require_visitor(tx, secret, web.visit)
        seen = _load(tx, visitor, recording_id)
        part = None if seen is None else next((one for one in seen.parts if one.channel.number == channel), None)
        if seen is None or part is None or part.screen is None or not seen.may_replay:
            return None
        entry = RecordingViewed(session_id=seen.recording.id, by=visitor.person.handle, how=how, door=DOOR)
        ledger.append(tx, entry)
        return part.screen.path

    try:
        relative = await web.db.run(inside)
    except NotLoggedIn:
        raise not_there() from None  # asked for by a script: a login page would be no recording
    root = web.home.recordings
    path = None if relative is None else root / relative
    if path is None or not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
        raise not_there()
    return path

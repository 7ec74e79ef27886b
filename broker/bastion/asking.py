"""Console commands on access: ask, wait, see, ask for more, hand back. Each changes something only through the desk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from broker import desk
from broker.bastion.answers import FAILED, MISSING, Answer, Desk, Known, Progress, Words, load_known
from broker.domain.capability import USUAL, parse_capabilities, show_capabilities
from broker.domain.errors import BrokerError, Code
from broker.domain.grant import Grant
from broker.domain.ids import GrantId, parse_duration, parse_text, quoted, show_duration
from broker.domain.policy import Reason, Refusal
from broker.domain.request import AccessRequest, Asked, ShownState
from broker.gate import Proof
from broker.store import grants, requests
from broker.store.db import Tx


async def request(house: Desk, proof: Proof, words: Sequence[str], progress: Progress) -> Answer:
    parser = Words()
    parser.add_argument("assets")
    parser.add_argument("--for", dest="length", required=True, type=str)
    parser.add_argument("--from", dest="opens", default=None)
    parser.add_argument("--reason", required=True)
    parser.add_argument("--change", default=None)
    parser.add_argument("--needs", default=None)
    parser.add_argument("--wait", action="store_true")
    asked = parser.parse(words)
    assets = tuple(dict.fromkeys(name.strip() for name in asked.assets.split(",") if name.strip()))
    opens = None
    if asked.opens is not None:
        opens = await house.db.look(desk.read_start, person_id=proof.person_id, assets=assets, text=asked.opens)
    wish = Asked(
        assets=assets,
        length=parse_duration(asked.length),
        reason=parse_text(asked.reason, what="reason"),
        capabilities=USUAL if asked.needs is None else parse_capabilities(asked.needs),
        opens=opens,
        change=None if asked.change is None else parse_text(asked.change, what="change", longest=64),
    )
    made = await house.db.run(
        desk.submit,
        person_id=proof.person_id,
        asked=wish,
        lapses_after=timedelta(seconds=house.settings.request_lapses_s),
        longest=timedelta(seconds=house.settings.longest_request_s),
        door="ssh",
    )
    if isinstance(made, Refusal):
        return Answer.refused(made)
    if asked.wait:
        return await _wait(house, made, progress, as_json=asked.json)
    text = f"{made.id} is pending; an owner of the site decides. See: status {made.id}"
    return Answer(text=text, document={"id": made.id, "state": "pending"}, as_json=asked.json)


async def _wait(house: Desk, request: AccessRequest, progress: Progress, *, as_json: bool) -> Answer:
    """Follow a request until somebody or the clock decides it; going away leaves it standing."""
    mark = -1
    progress(f"{request.id} is pending; ^C leaves it standing")
    while True:
        moved = await asyncio.to_thread(house.db.change_mark)
        if moved != mark or house.clock.now() >= request.lapses_at:
            mark = moved
            state, grant, reason = await house.db.look(_state_of, request.id)
            if state is not ShownState.PENDING:
                status = 0 if state is ShownState.APPROVED else FAILED
                document = {"id": request.id, "state": state.value, "grant": grant, "answer": reason}
                text = f"{request.id} is {state.value}" + (f": {grant or reason}" if grant or reason else "")
                return Answer(status, text=text, document=document, as_json=as_json)
        await asyncio.sleep(house.settings.poll_s)


def _state_of(tx: Tx, request_id: str) -> tuple[ShownState, str, str]:
    request = requests.load(tx, request_id)
    if request is None:
        raise BrokerError(Code.NOT_FOUND, f"no request {quoted(request_id)} of yours")
    grant, decision = grants.of_request(tx, request.id), requests.load_decision(tx, request.id)
    reason = "" if decision is None else decision.reason or ""
    return request.shown_state(tx.now), "" if grant is None else grant.id, reason


async def status(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = Words()
    parser.add_argument("id", nargs="?", default=None)
    asked = parser.parse_args(words)

    def read(tx: Tx) -> tuple[list[AccessRequest], list[Grant], Known, dict[Any, str], datetime]:
        mine = requests.requests(tx, person_id=proof.person_id)
        reasons = {
            one.id: found.reason or "" for one in mine if (found := requests.load_decision(tx, one.id)) is not None
        }
        return mine, grants.grants(tx, person_id=proof.person_id), load_known(tx), reasons, tx.now

    mine, given, known, reasons, now = await house.db.look(read)
    rows = [_request_row(one, known, reasons.get(one.id, ""), now) for one in mine]
    rows += [_grant_row(one, known, now) for one in given]
    if asked.id is not None:
        rows = [row for row in rows if asked.id in (row["id"], row.get("request"))]
        if not rows:
            return Answer(MISSING, error=f"no request or grant {quoted(asked.id)} of yours")
    text = "\n".join(_status_line(row) for row in rows) or "nothing asked yet; see: help"
    return Answer(text=text, document=rows, as_json=asked.json)


def _request_row(request: AccessRequest, known: Known, reason: str, now: datetime) -> dict[str, Any]:
    opens = None if request.opens is None else request.opens.isoformat()
    return {
        "id": request.id,
        "state": request.shown_state(now).value,
        "assets": known.names(request.assets),
        "capabilities": show_capabilities(request.capabilities),
        "opens": opens,
        "for_s": int(request.length.total_seconds()),
        "answer": reason,
    }


def _grant_row(grant: Grant, known: Known, now: datetime) -> dict[str, Any]:
    return {
        "id": grant.id,
        "request": grant.request_id,
        "state": grant.state(now).value,
        "assets": known.names(grant.terms.assets),
        "capabilities": show_capabilities(grant.terms.capabilities),
        "opens": grant.interval.opens.isoformat(),
        "closes": grant.interval.closes.isoformat(),
        "closes_local": known.time(grant.interval.closes, grant.site_id),
    }


def _status_line(row: Mapping[str, Any]) -> str:
    assets = ", ".join(row["assets"])
    if "closes_local" in row:
        return f"{row['id']}  {row['state']:<11} {assets}  {row['capabilities']}  until {row['closes_local']}"
    answer = f"  ({row['answer']})" if row["answer"] else ""
    length = show_duration(timedelta(seconds=row["for_s"]))
    return f"{row['id']}  {row['state']:<11} {assets}  {row['capabilities']}  for {length}{answer}"


async def extend(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = Words()
    parser.add_argument("grant")
    parser.add_argument("--for", dest="length", required=True)
    parser.add_argument("--reason", required=True)
    asked = parser.parse(words)
    made = await house.db.run(
        desk.extend,
        person_id=proof.person_id,
        grant_id=asked.grant,
        length=parse_duration(asked.length),
        reason=parse_text(asked.reason, what="reason"),
        lapses_after=timedelta(seconds=house.settings.request_lapses_s),
        longest=timedelta(seconds=house.settings.longest_request_s),
        door="ssh",
    )
    if isinstance(made, Refusal) and made.reason is Reason.NO_GRANT:
        return Answer(MISSING, error=f"no grant {quoted(asked.grant)} of yours")
    if isinstance(made, Refusal):
        return Answer.refused(made)
    text = f"{made.id} is pending: more time for {made.extends}; an owner of the site decides, and its sessions go on"
    return Answer(text=text, document={"id": made.id, "state": "pending"}, as_json=asked.json)


async def done(house: Desk, proof: Proof, words: Sequence[str], _progress: Progress) -> Answer:
    parser = Words()
    parser.add_argument("grant")
    asked = parser.parse_args(words)
    ended = await house.db.run(desk.hand_back, person_id=proof.person_id, grant_id=GrantId(asked.grant))
    if isinstance(ended, Refusal) and ended.reason is Reason.NO_GRANT:
        return Answer(MISSING, error=f"no grant {quoted(asked.grant)} of yours")
    if isinstance(ended, Refusal):
        return Answer.refused(ended)
    text = f"{ended.id} is handed back; its sessions end now"
    return Answer(text=text, document={"id": ended.id, "state": "handed back"}, as_json=asked.json)

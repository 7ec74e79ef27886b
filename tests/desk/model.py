"""A small second opinion on who may do what, written from the ten laws and not from the code: plain facts, plain answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

HAZARDS = frozenset({"pcs-01"})
HUMAN_OF = {
    "engineer.one": "human-one",
    "engineer.two": "human-two",
    "stranger": "stranger",
    "owner": "human-three",
    "owner2": "human-four",
    "owner-alias": "human-three",
    "engineer-at-site": "human-one",
}
FIRM_OF = {"engineer.one": "cellmaker", "engineer.two": "cellmaker", "stranger": "rival"}
MOST_SESSIONS = 2
LONGEST_SESSION = timedelta(minutes=90)


@dataclass(frozen=True)
class Yes:
    """What may be done where, from when until when."""

    assets: frozenset[str]
    capabilities: frozenset[str]
    opens: datetime
    closes: datetime

    @property
    def empty(self) -> bool:
        return not self.assets or not self.capabilities or self.opens >= self.closes

    def __and__(self, other: Yes) -> Yes:
        return Yes(
            self.assets & other.assets,
            self.capabilities & other.capabilities,
            max(self.opens, other.opens),
            min(self.closes, other.closes),
        )


@dataclass
class AWindow:
    firm: str
    opens: datetime
    closes: datetime
    pattern: str
    closed_at: datetime | None = None
    hours: tuple[int, int] | None = None
    """Of each day, whole hours of UTC: what the wall of this site shows in winter."""

    @property
    def end(self) -> datetime:
        return self.closes if self.closed_at is None else min(self.closes, self.closed_at)

    def stop(self, since: datetime) -> datetime:
        """When what is in there since then has to be out; at once outside of the hours."""
        if self.hours is None:
            return self.end
        first, last = self.hours
        midnight = since.replace(hour=0, minute=0, second=0, microsecond=0)
        inside = first <= since.hour < last
        return min(self.end, midnight + timedelta(hours=last)) if inside else since

    def touched(self, opens: datetime, closes: datetime) -> bool:
        hour = timedelta(hours=1)
        begun = opens.replace(minute=0, second=0, microsecond=0)
        return self.hours is None or any(
            self.hours[0] <= (begun + number * hour).hour < self.hours[1]
            for number in range(24 * 4)
            if begun + number * hour < closes
        )

    def covers(self, firm: str, assets: Iterable[str], opens: datetime, closes: datetime) -> bool:
        inside = self.opens <= opens and closes <= self.end and self.touched(opens, closes)
        return inside and firm == self.firm and all(fnmatchcase(one, self.pattern) for one in assets)


@dataclass
class ARequest:
    asker: str
    assets: tuple[str, ...]
    capabilities: frozenset[str]
    opens: datetime | None
    length: timedelta
    lapses_at: datetime
    state: str = "pending"
    yeses: list[tuple[str, Yes]] = field(default_factory=list)

    def shown(self, now: datetime) -> str:
        return "lapsed" if self.state == "pending" and now >= self.lapses_at else self.state

    def asked(self, now: datetime) -> Yes:
        """What it asks for, were the answer given now; empty when its time is over."""
        opens = now if self.opens is None else max(self.opens, now)
        closes = (now if self.opens is None else self.opens) + self.length
        return Yes(frozenset(self.assets), self.capabilities, opens, closes)


@dataclass
class AGrant:
    request: str
    asker: str
    window: str
    yes: Yes
    revoked: bool = False
    suspended: bool = False
    handed_back: bool = False

    @property
    def ended(self) -> bool:
        return self.revoked or self.suspended or self.handed_back


@dataclass
class ASession:
    grant: str
    asset: str
    until: datetime
    longest: datetime
    opened_at: datetime
    killed: bool = False
    ended: bool = False
    channels: dict[int, bool] = field(default_factory=dict)
    """Number, and whether it is open."""


@dataclass
class Model:
    now: datetime
    windows: dict[str, AWindow] = field(default_factory=dict)
    requests: dict[str, ARequest] = field(default_factory=dict)
    grants: dict[str, AGrant] = field(default_factory=dict)
    sessions: dict[str, ASession] = field(default_factory=dict)
    disabled: set[str] = field(default_factory=set)
    """Handles and firms."""
    rightless: set[str] = field(default_factory=set)
    """Owners who are auditors for a while."""
    keyless: set[str] = field(default_factory=set)

    def shut_out(self, engineer: str) -> bool:
        return engineer in self.disabled or FIRM_OF[engineer] in self.disabled

    def covered(self, firm: str, yes: Yes) -> bool:
        return any(one.covers(firm, yes.assets, yes.opens, yes.closes) for one in self.windows.values())

    # law 2: nothing is asked for outside a window
    def may_ask(self, asker: str, assets: tuple[str, ...], opens: datetime | None, length: timedelta) -> bool:
        if asker not in FIRM_OF or self.shut_out(asker):
            return False
        wanted = ARequest(asker, assets, frozenset({"x"}), opens, length, self.now).asked(self.now)
        return not wanted.empty and self.covered(FIRM_OF[asker], wanted)

    # law 3: nobody decides on what they asked for; who decides is an owner, now
    def may_decide(self, owner: str, request: ARequest) -> bool:
        if owner in FIRM_OF or owner in self.disabled | self.rightless or HUMAN_OF[owner] == HUMAN_OF[request.asker]:
            return False
        return request.shown(self.now) == "pending"

    def agreed(self, owner: str, request: ARequest, narrowed: Yes) -> Yes | None:
        """What the request becomes with this yes; None for a no. Whether it is enough: `complete`."""
        asked = request.asked(self.now)
        wider = not (narrowed.assets <= asked.assets and narrowed.capabilities <= asked.capabilities)
        wider = wider or narrowed.opens < asked.opens or narrowed.closes > asked.closes
        if not self.may_decide(owner, request) or self.shut_out(request.asker):
            return None
        if asked.empty or wider or narrowed.empty or not self.covered(FIRM_OF[request.asker], narrowed):
            return None
        first = self.first(request)
        if not narrowed.assets & HAZARDS or first is None:
            return narrowed
        both = narrowed & first[1]
        return None if HUMAN_OF[first[0]] == HUMAN_OF[owner] or both.empty else both

    def first(self, request: ARequest) -> tuple[str, Yes] | None:
        """The earliest yes of an owner who is still one."""
        return next((one for one in request.yeses if one[0] not in self.disabled | self.rightless), None)

    def complete(self, request: ARequest, narrowed: Yes) -> bool:
        return not narrowed.assets & HAZARDS or self.first(request) is not None

    # laws 1 and 2: a channel opens exactly while everything holds
    def admits(self, grant_id: str, asset: str, capability: str) -> bool:
        grant = self.grants[grant_id]
        window = self.windows[grant.window]
        return (
            not self.shut_out(grant.asker)
            and grant.asker not in self.keyless
            and not grant.ended
            and asset in grant.yes.assets
            and capability in grant.yes.capabilities
            and max(grant.yes.opens, window.opens) <= self.now < min(grant.yes.closes, window.stop(self.now))
        )

    def live(self, grant_id: str, *, beside: str = "") -> int:
        return sum(one.grant == grant_id and not one.ended for name, one in self.sessions.items() if name != beside)

    def may_enter(self, asker: str, asset: str, capability: str) -> dict[str, datetime]:
        """The grants a new session may be opened under, and its hard stop in each."""
        return {
            name: min(self.stop(name), self.now + LONGEST_SESSION)
            for name, grant in self.grants.items()
            if grant.asker == asker and self.admits(name, asset, capability) and self.live(name) < MOST_SESSIONS
        }

    def may_join(self, session_id: str, capability: str) -> datetime | None:
        """The hard stop of a further channel in a session, None when it may not open."""
        one = self.sessions[session_id]
        fits = not one.ended and not one.killed and self.admits(one.grant, one.asset, capability)
        until = min(self.stop(one.grant), one.longest)
        room = self.live(one.grant, beside=session_id) < MOST_SESSIONS
        return until if fits and room and self.now < until else None

    def stop(self, grant_id: str, since: datetime | None = None) -> datetime:
        """The end of what is admitted under the grant now, or was at another time."""
        grant = self.grants[grant_id]
        return min(grant.yes.closes, self.windows[grant.window].stop(since or self.now))

    def void_yeses(self, owner: str) -> int:
        """An owner who loses a right has agreed to nothing that is still pending; gives to how much they had."""
        touched = [one for one in self.requests.values() if one.state == "pending" and owner in dict(one.yeses)]
        for one in touched:
            one.yeses = [yes for yes in one.yeses if yes[0] != owner]
        return len(touched)

    def reasons_to_end(self, session_id: str) -> set[str]:
        """Every act by which the session has to end now; time is judged elsewhere."""
        one = self.sessions[session_id]
        grant = self.grants[one.grant]
        true = {
            "killed": one.killed or grant.suspended,
            "interrupted": one.ended,
            "revoked": grant.revoked,
            "handed back": grant.handed_back,
            "disabled": self.shut_out(grant.asker) or grant.asker in self.keyless,
            "commissioning window closed": self.windows[grant.window].closed_at is not None,
        }
        return {name for name, holds in true.items() if holds}

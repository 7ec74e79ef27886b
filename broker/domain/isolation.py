"""The isolation ladder: how far a site has cut its vendors off. Its state is the higher of its own rung and that of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum
from typing import Final

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import SiteId, parse_name, parse_text, quoted
from broker.domain.people import Person, Right

EVERYWHERE: Final = "*"
REASON_LONGEST: Final = 500
NAME_LONGEST: Final = 100


class Level(IntEnum):
    """The rungs; each holds what the ones below it hold."""

    NORMAL = 0
    ALERT = 1
    FROZEN = 2
    CUT = 3
    DEAF = 4
    SEPARATED = 5


MEANING: Final[Mapping[Level, str]] = {
    Level.NORMAL: "normal",
    Level.ALERT: "alert: every request needs two owners",
    Level.FROZEN: "frozen: sessions show output and take no input",
    Level.CUT: "cut: all vendor sessions are ended, none is admitted",
    Level.DEAF: "deaf: the SSH door does not listen, the site's own hook has run",
    Level.SEPARATED: "separated: cables out; a checklist with two names comes before restore",
}
STEPS: Final[Mapping[str, str]] = {
    "cables-out": "the vendors' cables are out, and tagged",
    "plant-checked": "the plant's own control runs without them, and was looked at",
    "cause-found": "what made it necessary is known and mended",
    "cables-back": "the cables may go back in, by whom and into which ports",
}
"""The checklist of physical separation; all of it stands, each step with two names, before level 5 is left."""
UNREADABLE: Final = Level.CUT
"""What a state that cannot be read counts as, for all sites."""


@dataclass(frozen=True, slots=True)
class Note:
    """One step of the checklist: who did it, who saw it done, when it was noted."""

    done_by: str
    seen_by: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """Where a site, or all of them, stands. by: an account of the machine, or the switch; notes: by step."""

    level: Level
    by: str
    reason: str
    at: datetime
    notes: Mapping[str, Note] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """The steps of the checklist that are still to be noted; none below level 5."""
        return [step for step in STEPS if step not in self.notes] if self.level is Level.SEPARATED else []


@dataclass(frozen=True, slots=True)
class Ladder:
    """The whole state. rungs: by site name or *; damaged: why it cannot be read, else empty; switch: the hard-wired one's level."""

    rungs: Mapping[str, Rung] = field(default_factory=dict)
    damaged: str = ""
    switch: Level = Level.NORMAL

    def level(self, site: str | None) -> Level:
        """Where a site stands; None: what holds for all of them. Raises nothing."""
        own = [self.rungs[name].level for name in {EVERYWHERE, site or EVERYWHERE} & self.rungs.keys()]
        return max([*own, self.switch, UNREADABLE if self.damaged else Level.NORMAL])

    def highest(self, sites: Sequence[str]) -> Level:
        """The highest level at any of these sites, or of all."""
        return max([self.level(None), *(self.level(site) for site in sites)])

    def lowest(self, sites: Sequence[str]) -> Level:
        """The level that every one of these sites has reached; without sites, that of all."""
        return min((self.level(site) for site in sites), default=self.level(None))

    def reason(self, site: str | None) -> str:
        """Why, in the words of whoever raised the rung that counts."""
        own = [self.rungs[name] for name in (EVERYWHERE, site or EVERYWHERE) if name in self.rungs]
        highest = max(own, key=lambda rung: rung.level, default=None)
        if highest is not None and highest.level == self.level(site):
            return highest.reason
        return self.damaged or "the switch is set"

    def after(self, before: Ladder) -> Ladder:
        """What a process that knew `before` holds now. Source: FLT-1.

        A state that cannot be read takes nothing back, and a switch that was set holds until a rung holds what it stood for.
        """
        here = replace(self, rungs=before.rungs) if self.damaged else self
        rung = here.rungs.get(EVERYWHERE)
        kept = before.switch if rung is None or rung.level < before.switch else Level.NORMAL
        return replace(here, switch=max(here.switch, kept))


def raised(ladder: Ladder, site: str, rung: Rung) -> Ladder:
    """The ladder with a site on a higher rung. Raises BrokerError(CONFLICT): a rung is never lowered by raising.

    A state that cannot be read is left as it is up to the level it counts as; above that every site is raised, and two
    owners restore: nobody can say where each of them stood.
    """
    if ladder.damaged and rung.level <= UNREADABLE:
        raise BrokerError(Code.CONFLICT, ladder.damaged)
    site = EVERYWHERE if ladder.damaged else site
    before = ladder.rungs.get(site)
    if before is not None and before.level >= rung.level:
        raise BrokerError(
            Code.CONFLICT, f"{show_site(site)} is at level {before.level:d} already; lower it with: restore"
        )
    return replace(ladder, rungs={**ladder.rungs, site: rung}, damaged="")


def noted(ladder: Ladder, site: str, step: str, note: Note) -> Ladder:
    """The ladder with one step of a separation noted. Raises BrokerError(INVALID, CONFLICT)."""
    rung = ladder.rungs.get(site)
    if step not in STEPS:
        raise BrokerError(Code.INVALID, f"step {quoted(step)}: the steps are {', '.join(STEPS)}")
    if ladder.damaged or rung is None or rung.level is not Level.SEPARATED:
        raise BrokerError(Code.CONFLICT, f"{show_site(site)} is not at level 5; there is nothing to note")
    if note.done_by.casefold() == note.seen_by.casefold():
        raise BrokerError(Code.INVALID, "done by one, seen by another: name two people")
    return replace(ladder, rungs={**ladder.rungs, site: replace(rung, notes={**rung.notes, step: note})})


def restored(ladder: Ladder, site: str, owners: Sequence[Person], sites: Mapping[str, SiteId]) -> Ladder:
    """The ladder without a site's rung. owners: proved by their codes; sites: all there are, by name.

    Raises BrokerError, one line for each thing that is in the way; nothing is lowered then. Source: law 3.
    """
    # 1. There is something to lower. 2. The hard-wired switch is not set. 3. The checklist of a separation stands.
    # 4. Each owner may act, and they are different humans. 5. There are enough of them at each site that opens.
    rung, everywhere = ladder.rungs.get(site), site == EVERYWHERE
    if ladder.damaged and not everywhere:  # (1)
        raise BrokerError(Code.CONFLICT, f"{ladder.damaged}; restore --all first")
    if everywhere and ladder.switch:  # (2)
        raise BrokerError(Code.CONFLICT, "the isolation switch is set; take it back first")
    if rung is None and not ladder.damaged:
        above = "; it is isolated with all: restore --all" if ladder.level(site) else ""
        raise BrokerError(Code.CONFLICT, f"{show_site(site)} is not isolated{above}")
    if rung is not None and rung.missing:  # (3)
        raise BrokerError(
            Code.CONFLICT, f"to be noted first: {', '.join(rung.missing)}; with: isolation note {site} STEP"
        )
    # A site that is not in the inventory has no owner of its own: those of all sites decide.
    concerned = {site: sites[site]} if site in sites else sites or {"every site": SiteId("")}
    _refuse_unfit(owners, concerned)  # (4)
    wanted = owners_needed(rung, damaged=bool(ladder.damaged))  # (5)
    for name, site_id in concerned.items():
        there = [owner for owner in owners if owner.may(Right.APPROVE, site_id)]
        if len(there) < wanted:
            raise BrokerError(
                Code.FORBIDDEN, f"{wanted} owner{'s' * (wanted > 1)} of {name} needed: --as A{' --as B' * (wanted > 1)}"
            )
    if everywhere and ladder.damaged:
        return Ladder()
    return replace(ladder, rungs={name: one for name, one in ladder.rungs.items() if name != site})


def owners_needed(rung: Rung | None, *, damaged: bool) -> int:
    """How many owners lower it: two from level 4 on, and where nobody can say how high it was."""
    return 2 if damaged or (rung is not None and rung.level >= Level.DEAF) else 1


def _refuse_unfit(owners: Sequence[Person], concerned: Mapping[str, SiteId]) -> None:
    for owner in owners:
        if owner.vendor_id is not None or not any(owner.may(Right.APPROVE, one) for one in concerned.values()):
            raise BrokerError(Code.FORBIDDEN, f"{owner.handle} is no owner there")
    for at, owner in enumerate(owners):
        if any(owner.same_human(other) for other in owners[:at]):
            raise BrokerError(Code.FORBIDDEN, f"{owner.handle} is named twice; another owner is needed")


def show_site(site: str) -> str:
    """A site as people read it."""
    return "every site" if site == EVERYWHERE else site


def parse_level(number: int) -> Level:
    """A rung to raise to. Raises BrokerError(INVALID).

    >>> parse_level(3)
    <Level.CUT: 3>
    """
    if not Level.ALERT <= number <= Level.SEPARATED:
        raise BrokerError(Code.INVALID, f"level {number}: write 1 to 5")
    return Level(number)


def parse_site(text: str) -> str:
    """A site's name, or * for all of them. Raises BrokerError(INVALID)."""
    return text if text == EVERYWHERE else parse_name(text, what="site")


def parse_reason(text: str) -> str:
    """Why, on one line. Raises BrokerError(INVALID)."""
    return " ".join(parse_text(text, what="reason", longest=REASON_LONGEST).split())


def parse_witness(text: str, *, what: str) -> str:
    """The name of somebody who stands at the plant. Raises BrokerError(INVALID)."""
    return " ".join(parse_text(text, what=what, longest=NAME_LONGEST).split())

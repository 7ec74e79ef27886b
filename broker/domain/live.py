"""LiveSession: events in, commands out. No IO, no clock: the bastion performs the commands and brings back what came of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from broker.domain.ids import show_duration
from broker.domain.policy import Admission
from broker.domain.session import EndReason


# What is made anew for each keystroke is not frozen: that triples what making one costs. Nobody changes it all the same.
@dataclass(slots=True)
class Moment:
    """The wall clock and a clock that cannot be set, read together. Source: law 2, the end is min(wall, monotonic)."""

    wall: datetime
    mono_us: int


class Direction(StrEnum):
    """Which way bytes go: up to the asset, down to the engineer."""

    UP = "up"
    DOWN = "down"


class Verb(StrEnum):
    """What one piece of traffic is; what a channel says beside bytes is traffic too and is recorded like it."""

    DATA = "data"
    STDERR = "stderr"
    EOF = "eof"
    RESIZE = "resize"
    SIGNAL = "signal"
    BREAK = "break"
    EXIT_STATUS = "exit status"
    EXIT_SIGNAL = "exit signal"


@dataclass(slots=True)
class Piece:
    """One piece of traffic. data: the bytes, or the canonical text of what was said (cols x rows, a signal's name, a status)."""

    verb: Verb
    data: bytes = b""


@dataclass(slots=True)
class Batch:
    """What one side sent on one channel in one turn of the loop, in order."""

    channel: int
    direction: Direction
    pieces: tuple[Piece, ...]


# Events: what has happened.
@dataclass(slots=True)
class Arrived:
    """A side sent something."""

    batch: Batch


@dataclass(slots=True)
class Recorded:
    """write(2) has returned for everything in the batch."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class RecorderFailed:
    """The recording cannot go on; final."""

    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """Somebody's act ends the session: revoked, killed, handed back, disabled, window closed, shut down.

    next_step: what the engineer can do, where it is not the reason's usual one.
    """

    reason: EndReason
    text: str = ""
    next_step: str = ""


@dataclass(frozen=True, slots=True)
class Moved:
    """The end was moved by an act: earlier by a closed window, later by an approved extension."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Frozen:
    """Somebody's act stops input. cause: what stands behind it; a session frozen for several is free after the last."""

    text: str
    cause: str = "act"


@dataclass(frozen=True, slots=True)
class Unfrozen:
    """That cause is gone."""

    cause: str = "act"


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Event = Arrived | Recorded | RecorderFailed | Ended | Moved | Frozen | Unfrozen | Tick


# Commands: what is to be done.
@dataclass(slots=True)
class Record:
    """Put the batch into the recording, then come back with Recorded."""

    batch: Batch


@dataclass(slots=True)
class Forward:
    """Send the batch on; made from Recorded and from nothing else (law 4)."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell the engineer something beside the program's own output."""

    text: str


@dataclass(slots=True)
class Drop:
    """Say in the recording that this input was not passed on, and forget it: it reaches the asset neither now nor later."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop the input of every channel, mark it in the recording, and tell the engineer once."""

    text: str


@dataclass(frozen=True, slots=True)
class Go:
    """Let input through again, mark it and say so."""

    text: str


@dataclass(frozen=True, slots=True)
class Close:
    """End every channel with a plain last line, then seal the recording."""

    reason: EndReason
    text: str


Command = Record | Forward | Drop | Notify | Stop | Go | Close

NEXT_STEP = {
    EndReason.TIME_UP: "ask again with: request",
    EndReason.WINDOW_CLOSED: "ask the site owner for a new commissioning window",
    EndReason.REVOKED: "ask the site owner",
    EndReason.KILLED: "the grant is suspended; ask the site owner",
    EndReason.HANDED_BACK: "ask again with: request",
    EndReason.DISABLED: "ask the site owner",
    EndReason.ISOLATED: "ask the site owner",
    EndReason.NOT_RECORDED: "nothing unrecorded is relayed; tell the site",
    EndReason.SHUT_DOWN: "connect again in a minute",
}


@dataclass(slots=True)
class LiveSession:
    """One live session: its admission, its end, its warnings; every kind of channel goes through it alike.

    warn_before: how long before the end the engineer is told, longest first.
    """

    admission: Admission
    started: Moment
    warn_before: tuple[timedelta, ...]
    ended: EndReason | None = None
    stopped: bool = False
    until: datetime = field(init=False)
    _frozen_by: set[str] = field(init=False, default_factory=set)
    _mono_until_us: int = field(init=False)
    _to_warn: list[timedelta] = field(init=False)

    def __post_init__(self) -> None:
        self._move(self.admission.until, at=self.started)

    def handle(self, event: Event, *, at: Moment) -> list[Command]:
        """What is to be done now. at: both clocks. Raises nothing. Source: laws 2 and 4."""
        if self.ended is not None:
            return []  # bytes still arrive after Close: normal, not a fault
        if self.is_over(at):  # before the match: no event outruns the deadline
            return self._close(EndReason.TIME_UP, f"time is up ({self.until:%H:%M:%S} UTC)")
        match event:
            case Arrived(batch):
                return [Drop(batch) if self.stopped and self._is_input(batch) else Record(batch)]
            case Recorded(batch):
                if self.stopped and self._is_input(batch):
                    return [Drop(batch)]
                return [Forward(batch)]  # the only Forward in the house
            case RecorderFailed(why):
                return self._close(EndReason.NOT_RECORDED, f"the session cannot be recorded ({why})")
            case Ended(reason, text, next_step):
                return self._close(reason, text or reason.value, next_step)
            case Moved(until):
                return self._moved(until, at=at)
            case Frozen(text, cause):
                return self._freeze(text, cause)
            case Unfrozen(cause):
                return self._unfreeze(cause)
            case Tick():
                return self._warn(at)

    @property
    def frozen(self) -> bool:
        """True while somebody's act stops input."""
        return bool(self._frozen_by)

    def is_over(self, at: Moment) -> bool:
        """True from the first of both clocks on. Source: law 2; docs/rules.md TIM-1."""
        return at.wall >= self.until or at.mono_us >= self._mono_until_us

    def next_wake_s(self, at: Moment) -> float:
        """Seconds until the next Tick is due: a warning or the end; never negative."""
        left = self._left(at)
        if self._to_warn:
            left -= self._to_warn[0]
        return max(0.0, left.total_seconds())

    def _left(self, at: Moment) -> timedelta:
        return min(self.until - at.wall, timedelta(microseconds=self._mono_until_us - at.mono_us))

    def _move(self, until: datetime, *, at: Moment) -> None:
        self.until = until
        left = until - at.wall
        self._mono_until_us = at.mono_us + int(left / timedelta(microseconds=1))
        # A warning whose moment has passed when the session starts says nothing new: admission has just told the end.
        self._to_warn = sorted((ahead for ahead in self.warn_before if ahead < left), reverse=True)

    def _moved(self, until: datetime, *, at: Moment) -> list[Command]:
        self._move(until, at=at)
        if self.is_over(at):
            return self._close(EndReason.TIME_UP, f"time is up ({self.until:%H:%M:%S} UTC)")
        return [Notify(f"this session now ends in {show_duration(self._left(at))}, at {until:%H:%M} UTC")]

    @staticmethod
    def _is_input(batch: Batch) -> bool:
        """Whether it would make the asset do anything; the size of a window only keeps the output's picture right."""
        return batch.direction is Direction.UP and any(piece.verb is not Verb.RESIZE for piece in batch.pieces)

    # Dropped, not kept for later: what was typed blind into a frozen session must not run when it is forgotten. A stream without
    # a terminal is held back by the bastion instead, so that nothing of it arrives here and no file gets a hole.
    def _freeze(self, text: str, cause: str) -> list[Command]:
        was, self.stopped = self.frozen, True
        self._frozen_by.add(cause)
        return [] if was else [Stop(f"input is frozen: {text}; what you type is not passed on")]

    def _unfreeze(self, cause: str) -> list[Command]:
        was = self.frozen
        self._frozen_by.discard(cause)
        self.stopped = self.frozen
        return [Go("input is no longer frozen")] if was and not self.frozen else []

    def _warn(self, at: Moment) -> list[Command]:
        left, due = self._left(at), False
        while self._to_warn and left <= self._to_warn[0]:
            self._to_warn.pop(0)
            due = True
        if not due:
            return []
        near = timedelta(seconds=round(left.total_seconds()))
        return [Notify(f"this session ends in {show_duration(near)}, at {self.until:%H:%M:%S} UTC")]

    def _close(self, reason: EndReason, text: str, next_step: str = "") -> list[Command]:
        self.ended = reason
        step = next_step or NEXT_STEP.get(reason)
        return [Close(reason, text if step is None else f"{text}; {step}")]

"""A session as it lives in this process: its LiveSession, its leg to the asset, its channels, and the performing of commands."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from broker.bastion.evidence import ChannelRecording, Place, open_recording
from broker.bastion.upstream import AssetLeg, UpstreamError
from broker.clock import Clock, moment
from broker.domain.audit import StreamHead
from broker.domain.ids import SessionId
from broker.domain.live import (
    Arrived,
    Batch,
    Close,
    Command,
    Drop,
    Ended,
    Event,
    Forward,
    Frozen,
    Go,
    LiveSession,
    Notify,
    Record,
    Recorded,
    RecorderFailed,
    Stop,
    Tick,
    Unfrozen,
)
from broker.domain.policy import Admission
from broker.domain.session import ChannelKind, EndReason
from broker.domain.suspension import Names, Scope
from recorder.writer import RecordingFailed

log = logging.getLogger("broker.bastion")
GOODBYE_S: Final = 0.6
"""How long a client may take to read its last line before the connection is cut: the end is due within a second."""


class Line(Protocol):
    """One channel of the session, as the session needs it."""

    number: int
    recording: ChannelRecording
    exit_text: str | None

    def notify(self, text: str) -> None: ...
    def stop_input(self) -> None: ...
    def let_input(self) -> None: ...
    def end(self, text: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a session ended, for the row and the ledger."""

    reason: EndReason
    by: str | None


class AssetSession:
    """One engineer at one asset over one SSH connection: several channels, one deadline, one leg.

    names: what it belongs to. open_timeout_s: how long the asset may take to open a channel. dial: opens the leg. cut: closes
    the engineer's connection. frozen_row: as the watch has last seen it. chore: runs what must be finished although nobody
    waits. closed: called once for each channel, after its recording is durable; ended: once, at the end, when `settled` is
    still to be waited for.
    """

    def __init__(
        self,
        session_id: SessionId,
        admission: Admission,
        place: Place,
        clock: Clock,
        live: LiveSession,
        *,
        names: Names,
        open_timeout_s: float,
        dial: Callable[[], Awaitable[AssetLeg]],
        cut: Callable[[], None],
        chore: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        closed: Callable[[AssetSession, Line], None],
        ended: Callable[[AssetSession, Ending], None],
    ) -> None:
        self.id = session_id
        self.admission = admission
        self.place = place
        self.live = live
        self.names = names
        self.lines: dict[int, Line] = {}
        self.heads: list[StreamHead] = []
        self.over = asyncio.Event()
        self.by: str | None = None
        self.frozen_row: datetime | None = None
        self.open_timeout_s = open_timeout_s
        self._clock = clock
        self._dial = dial
        self._cut = cut
        self._chore = chore
        self._unsettled: set[asyncio.Future[Any]] = set()
        self._closed = closed
        self._ended = ended
        self._leg: asyncio.Task[AssetLeg] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    # What the doors call
    async def leg(self) -> AssetLeg:
        """The leg to the asset, dialled once for all channels. Raises UpstreamError."""
        if self.over.is_set():
            raise UpstreamError("the session has ended")
        if self._leg is None:
            self._leg = asyncio.ensure_future(self._dial())
        return await asyncio.shield(self._leg)

    async def open_recording(self, channel: int, kind: ChannelKind, opening: dict[str, str]) -> ChannelRecording | None:
        """Open a channel's recording before the channel is added; None when the session ended meanwhile.

        A slow disk holds up this channel and nothing else. Raises RecordingFailed.
        """
        made = asyncio.ensure_future(self._open_recording(channel, kind, opening))
        self._await_settling(made)
        return await asyncio.shield(made)

    async def settled(self) -> None:
        """Return once every recording is durable, and `heads` holds them all."""
        while self._unsettled:
            await asyncio.wait(set(self._unsettled))

    def add(self, line: Line) -> None:
        """Take in a channel whose recording is open."""
        self.lines[line.number] = line
        if self.live.stopped:  # it was decided on a moment before
            line.stop_input()

    def remove(self, line: Line, reason: str) -> None:
        """A channel is over: end its streams; they are made durable in a thread, for a disk may be slow and an end may not."""
        if self.lines.pop(line.number, None) is not None:
            line.recording.finish(reason)
            self._await_settling(self._chore(self._settle(line)))

    def record(self, batch: Batch) -> bool:
        """Law 4 in one place: Arrived, Record, write(2), Recorded, Forward. True when the batch may go on."""
        return self._traffic(Arrived(batch), Record) and self._put(batch) and self._traffic(Recorded(batch), Forward)

    def handle(self, event: Event) -> list[Command]:
        """Give an event to the LiveSession and perform what it commands; gives the commands back."""
        commands = self.live.handle(event, at=moment(self._clock))
        self._arm()
        for command in commands:
            self._perform(command)
        return commands

    def end(self, reason: EndReason, text: str = "", *, by: str | None = None) -> None:
        """End it by an act, with a plain last line; a second end does nothing."""
        self.by = self.by or by
        self.handle(Ended(reason, text))

    def shut_out(self, scope: Scope, reason: str, *, by: str | None = None) -> None:
        """Kill it because something that it belongs to is suspended."""
        self.by = self.by or by
        step = f"the {scope.value} is suspended; ask the site owner"
        self.handle(Ended(EndReason.KILLED, f"killed: {reason}", step))

    def freeze(self, text: str, *, cause: str = "act") -> None:
        """Stop input, keep output. text: why, for the engineer; cause: as in `Unfrozen`, which lifts only its own."""
        self.handle(Frozen(text, cause))

    def unfreeze(self, *, cause: str = "act") -> None:
        """Let input through again, unless another cause still stands."""
        self.handle(Unfrozen(cause))

    def finish(self, reason: EndReason) -> None:
        """End it without a last line: the engineer is gone, or done."""
        if self.live.ended is None:
            self.live.ended = reason
            self._close("", reason)

    # Inside
    async def _open_recording(
        self, channel: int, kind: ChannelKind, opening: dict[str, str]
    ) -> ChannelRecording | None:
        recording = await open_recording(self.place, channel=channel, kind=kind, opening=opening)
        if self.live.ended is None:
            return recording
        recording.finish(self.live.ended.value)
        self.heads.extend(await recording.durable())
        return None

    async def _settle(self, line: Line) -> None:
        self.heads.extend(await line.recording.durable())
        self._closed(self, line)

    def _await_settling(self, work: asyncio.Future[Any]) -> None:
        self._unsettled.add(work)
        work.add_done_callback(self._unsettled.discard)

    def _traffic(self, event: Arrived | Recorded, wanted: type[Command]) -> bool:
        """Give traffic to the LiveSession; whether it commands what is wanted for all of it. It moves no deadline."""
        going_on = False
        for command in self.live.handle(event, at=moment(self._clock)):
            if type(command) is wanted:
                going_on = True
            else:
                self._perform(command)
        return going_on

    def _put(self, batch: Batch) -> bool:
        line = self.lines.get(batch.channel)
        if line is None:
            return False
        try:
            line.recording.put(batch)
        except RecordingFailed as error:
            log.error("session %s: recording failed: %s", self.id, error)
            self.handle(RecorderFailed("disk"))
            return False
        return True

    def _perform(self, command: Command) -> None:
        match command:
            case Notify(text):
                for line in list(self.lines.values()):
                    self._tell(line, text)
            case Drop(batch):
                self._mark_dropped(batch)
            case Stop(text):
                for line in list(self.lines.values()):
                    self._tell(line, text, what="frozen")
                    line.stop_input()
            case Go(text):
                for line in list(self.lines.values()):
                    self._tell(line, text, what="unfrozen")
                    line.let_input()
            case Close(reason, text):
                self._close(text, reason)
            case Record() | Forward():
                pass  # the flow that asked performs these itself: it knows the channel

    def _tell(self, line: Line, text: str, *, what: str = "told") -> None:
        if self._note(lambda: line.recording.mark(what, text)):
            line.notify(text)

    def _mark_dropped(self, batch: Batch) -> None:
        if (line := self.lines.get(batch.channel)) is not None:
            self._note(lambda: line.recording.dropped(batch))

    def _note(self, write: Callable[[], None]) -> bool:
        try:
            write()
        except RecordingFailed as error:
            log.error("session %s: recording failed: %s", self.id, error)
            self.handle(RecorderFailed("disk"))
            return False
        return True

    def _close(self, text: str, reason: EndReason) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.over.set()
        if self._leg is not None:
            self._leg.add_done_callback(_hang_up)
            if not self._leg.done():
                self._leg.cancel()
        asyncio.get_running_loop().call_later(GOODBYE_S if text else 0, self._cut)
        for line in list(self.lines.values()):
            with contextlib.suppress(RecordingFailed):
                line.recording.mark("ended", text or reason.value)
            if text:
                line.end(text)
            self.remove(line, reason.value)
        self._ended(self, Ending(reason, self.by))

    def _arm(self) -> None:
        """One timer for the next warning or the end; the LiveSession itself judges each event by both clocks."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.live.ended is None:
            wait_s = self.live.next_wake_s(moment(self._clock))
            # Never longer than a second: a clock that was set, or a machine that slept, is noticed by then.
            self._timer = asyncio.get_running_loop().call_later(min(wait_s, 1.0), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.handle(Tick())


_closing: set[asyncio.Task[None]] = set()


def _hang_up(dialled: asyncio.Future[AssetLeg]) -> None:
    if not dialled.cancelled() and dialled.exception() is None:
        closing = asyncio.ensure_future(dialled.result().close())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)

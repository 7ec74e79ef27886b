"""An engineer at an asset as the gate lets them in and the recorder keeps it; only the SSH around it is left out."""

from __future__ import annotations

from datetime import timedelta

from broker import gate
from broker.bastion.evidence import ChannelRecording, Place, size_piece
from broker.domain.capability import EXEC, SFTP_READ, SHELL
from broker.domain.ids import parse_login
from broker.domain.isolation import Ladder
from broker.domain.live import Batch, Direction, Piece, Verb
from broker.domain.session import ChannelKind, EndReason
from broker.gate import Entered, Limits, Proof
from broker.store import people
from recorder.writer import GroupSync, SessionClock
from tests.approval.running import ENGINEER, Running

_NEEDS = {ChannelKind.SHELL: SHELL, ChannelKind.EXEC: EXEC, ChannelKind.SFTP: SFTP_READ}


class Visit:
    """One session with its first channel, opened by the gate and being recorded. Time moves only by `wait`."""

    def __init__(
        self,
        site: Running,
        *,
        asset: str = "bms-01.kestrel",
        kind: ChannelKind = ChannelKind.SHELL,
        command: str | None = None,
    ) -> None:
        self._site, self._us = site, 0
        with site.db.begin() as tx:
            engineer = people.require(tx, ENGINEER)
            key = people.keys(tx, engineer.id)[0]
            proof = Proof(
                person_id=engineer.id,
                key_fingerprint=key.fingerprint,
                public_key=key.line.encode(),
                factors="key+code",
                source="198.51.100.7",
            )
            entered = gate.enter(
                tx,
                proof=proof,
                login=parse_login(asset),
                capability=_NEEDS[kind],
                kind=kind,
                command=command,
                node="gate-1",
                can_record=True,
                limits=Limits(longest_session=timedelta(hours=12), most_of_engineer=500, most_of_asset=500),
                ladder=Ladder(),
            )
        assert isinstance(entered, Entered), entered
        self.id, self.channel = entered.session_id, entered.channel
        self._recording = ChannelRecording(
            Place(
                folder=site.home.recordings / entered.folder,
                session_id=entered.session_id,
                node="gate-1",
                boot="b00t",
                clock=SessionClock(lambda: self._us),
                wall_ms=lambda: int(site.clock.now().timestamp() * 1000),
                sync=GroupSync(lambda _writer, _error: None),
            ),
            channel=self.channel,
            kind=kind,
            opening={"asset": asset},
        )
        if kind is ChannelKind.SHELL:
            self._recording.put(Batch(self.channel, Direction.UP, (size_piece(80, 24),)))

    def wait(self, seconds: float) -> None:
        """Let time pass for the recording and for the site."""
        self._us += int(seconds * 1_000_000)
        self._site.clock.move(timedelta(seconds=seconds))

    def shows(self, data: bytes) -> None:
        """The asset sends something to the screen."""
        self._recording.put(Batch(self.channel, Direction.DOWN, (Piece(Verb.DATA, data),)))

    def types(self, data: bytes) -> None:
        """The engineer types something."""
        self._recording.put(Batch(self.channel, Direction.UP, (Piece(Verb.DATA, data),)))

    def ends(self, reason: EndReason = EndReason.DONE) -> None:
        """The channel and the session close, the recording is sealed."""
        self._recording.close(reason.value)
        with self._site.db.begin() as tx:
            gate.leave_channel(
                tx,
                session_id=self.id,
                channel=self.channel,
                state="closed",
                exit="exit status 0",
                heads=self._recording.heads,
                duration_us=self._us,
            )
            gate.leave(tx, session_id=self.id, reason=reason)

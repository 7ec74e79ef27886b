"""What an engineer's channel may ask for, how often, and in what packets; what is refused is refused aloud.

The private names of asyncssh's channel in use stand here, in `channel` and in `closing`. Source: docs/rules.md, Limits.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import asyncssh

from broker.bastion.backlog import join_backlog
from broker.bastion.closing import end_refused_soon, keep_open_until_exit
from broker.bastion.environment import VARIABLES_MAX
from broker.bastion.transport import PACKET_MIN_BYTES, WINDOW_BYTES

REQUESTS_BEFORE_START_MAX: Final = 16
REQUESTS_A_SECOND_MAX: Final = 20


class Pace:
    """At most so many of something a second. refilled: called a second after the first of them."""

    def __init__(self, most: int, refilled: Callable[[], None]) -> None:
        self._most = most
        self._spent = 0
        self._refilled = refilled

    def may(self) -> bool:
        """Whether one more may be now; counts it."""
        if not self._spent:
            asyncio.get_running_loop().call_later(1.0, self._refill)
        self._spent += 1
        return self._spent <= self._most

    def _refill(self) -> None:
        self._spent = 0
        self._refilled()


def bounded_channel(
    conn: asyncssh.SSHServerConnection, *, note: Callable[[str, str], None], unopened: Callable[[], None]
) -> asyncssh.SSHServerChannel[bytes]:
    """A server channel with bounds on packets, requests and variables, for commands in any encoding.

    note: told what was asked for and refused, and why. unopened: called when the channel is refused before it is open.
    """
    chan: asyncssh.SSHServerChannel[bytes] = conn.create_server_channel(encoding=None, window=WINDOW_BYTES)
    keep_open_until_exit(chan)
    join_backlog(chan)
    _want_whole_packets(chan, note, unopened)
    _count_requests(chan, note)
    _take_few_variables(chan)
    _refuse_aloud(chan, note)
    _take_any_command(chan)
    return chan


def _want_whole_packets(
    chan: asyncssh.SSHServerChannel[bytes], note: Callable[[str, str], None], unopened: Callable[[], None]
) -> None:
    """Refuse a client that takes next to nothing in a packet: asyncssh cuts each piece up within one turn of the loop."""
    process_open = chan.process_open

    def process_whole(number: int, window: int, packet_bytes: int, session: Any) -> None:
        if packet_bytes < PACKET_MIN_BYTES:
            reason = f"packets of {packet_bytes} bytes are too small; {PACKET_MIN_BYTES} at least"
            chan.get_loop().call_soon(chan._cleanup)
            unopened()
            note("session", reason)
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, reason)
        process_open(number, window, packet_bytes, session)

    chan.process_open = process_whole  # type: ignore[method-assign, assignment]


def _count_requests(chan: asyncssh.SSHServerChannel[bytes], note: Callable[[str, str], None]) -> None:
    """End a channel that goes on asking and begins nothing; the variables have a bound of their own."""
    serve, asked = chan._service_next_request, 0

    def serve_few() -> None:
        nonlocal asked
        if chan._session_started or chan._request_queue[0][0] == "env":
            serve()
            return
        asked += 1
        if asked <= REQUESTS_BEFORE_START_MAX:
            serve()
            return
        if asked == REQUESTS_BEFORE_START_MAX + 1:
            note("session", "too many requests before a shell or a command")
            end_refused_soon(chan, "too many requests before a shell or a command")
        chan._report_response(False)

    chan._service_next_request = serve_few  # type: ignore[method-assign]


def _take_few_variables(chan: asyncssh.SSHServerChannel[bytes]) -> None:
    """Take a few environment variables, not 40 MB of them."""
    take, left = chan._process_env_request, 4 * VARIABLES_MAX

    def take_few(packet: Any) -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and take(packet)

    chan._process_env_request = take_few  # type: ignore[method-assign]


def _refuse_aloud(chan: asyncssh.SSHServerChannel[bytes], note: Callable[[str, str], None]) -> None:
    """Refuse agent and X11 with a reason."""

    def refuse(what: str) -> bool:
        note(what, "not granted here")
        with contextlib.suppress(OSError):  # the protocol's own no has no room for a reason
            chan.write_stderr(f"wicketgate: {what} is not granted here\r\n".encode())
        return False

    def refuse_agent(_packet: Any) -> bool:
        return refuse("agent forwarding")

    def refuse_x11(_packet: Any) -> bool:
        return refuse("X11 forwarding")

    chan._process_auth_agent_req_at_openssh_dot_com_request = refuse_agent  # type: ignore[method-assign, assignment]
    chan._process_x11_req_request = refuse_x11  # type: ignore[method-assign, assignment]


def _take_any_command(chan: asyncssh.SSHServerChannel[bytes]) -> None:
    """Take a command that is not UTF-8 too, where asyncssh refuses it without a reason; see `command_bytes`."""

    def take(packet: Any) -> bool:
        command = packet.get_string()
        packet.check_end()
        return chan._start_session(command=command.decode("utf-8", "surrogateescape"))

    chan._process_exec_request = take  # type: ignore[method-assign]


def command_bytes(command: str) -> bytes:
    """A command as the client sent it, byte by byte."""
    return command.encode("utf-8", "surrogateescape")

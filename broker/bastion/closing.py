"""When an engineer's channel closes: behind the exit status, as with OpenSSH's own server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import asyncssh
from asyncssh.constants import MSG_CHANNEL_CLOSE


def keep_open_until_exit(chan: asyncssh.SSHServerChannel[bytes]) -> None:
    """Answer a CLOSE that follows EOF in both directions only with our own, behind the exit status.

    OpenSSH closes as soon as both sides have said EOF, and still waits for the status, which sshd sends later than EOF;
    asyncssh would answer at once and could send no status any more. A CLOSE at any other time is a client that goes.
    The private names of asyncssh's channel in use stand here and in `doors`.
    """
    answer, close_send = chan._packet_handlers[MSG_CHANNEL_CLOSE], chan._close_send
    held: list[Callable[[], object]] = []

    def take_close(this: Any, kind: int, number: int, packet: Any) -> None:
        if chan._send_state == "eof" and chan._recv_state in ("eof_pending", "eof"):
            held.append(lambda: answer(this, kind, number, packet))
        else:
            answer(this, kind, number, packet)

    def close_both() -> None:
        close_send()
        if held:
            asyncio.get_running_loop().call_soon(held.pop())

    chan._packet_handlers = {**chan._packet_handlers, MSG_CHANNEL_CLOSE: take_close}
    chan._close_send = close_both  # type: ignore[method-assign]

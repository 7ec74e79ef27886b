"""How an engineer's channel closes: behind the exit status, as with OpenSSH's own server, or refused with a reason."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

import asyncssh
from asyncssh.constants import MSG_CHANNEL_CLOSE

REFUSED_EXIT: Final = 255


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


def end_refused(chan: asyncssh.SSHServerChannel[bytes], text: str) -> None:
    """One line on stderr and exit status 255: a no with its reason."""
    with contextlib.suppress(OSError):
        chan.write_stderr(f"wicketgate: {text}\r\n".encode("utf-8", "replace"))
        chan.exit(REFUSED_EXIT)


def end_refused_soon(chan: asyncssh.SSHServerChannel[bytes] | None, text: str) -> bool:
    """The same for a request that was not answered yet: taken, then ended, for the protocol's own no has no room for a reason."""
    if chan is None:
        return False
    asyncio.get_running_loop().call_soon(end_refused, chan, text)
    return True

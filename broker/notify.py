"""Telling systemd: ready, stopping, still alive. Nothing happens when nobody listens.

Source: sd_notify(3), systemd.exec(5) WATCHDOG_USEC. The ping is a task of the event loop, or a blocked loop is never seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send one state such as READY=1; True when somebody was told. Never raises: systemd being away harms nothing."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(1.0)  # a full queue must not hold up the event loop for good
        sock.connect(address)
        sock.sendall(state.encode())
        return True
    return False


def watchdog_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """How often to ping, in seconds: half of what systemd allows; None when it does not watch this process."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed_us = environment.get("WATCHDOG_USEC", "")
    return int(allowed_us) / 2e6 if allowed_us.isascii() and allowed_us.isdecimal() and int(allowed_us) > 0 else None


async def keep_watchdog(environment: Mapping[str, str] = os.environ) -> None:
    """Ping for ever from the event loop; returns at once when nobody watches."""
    every_s = watchdog_s(environment)
    while every_s is not None:
        notify("WATCHDOG=1", environment)
        await asyncio.sleep(every_s)

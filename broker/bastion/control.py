"""The control socket: list, kill and freeze live sessions on the machine itself, with web and database down (law 8)."""

from __future__ import annotations

import logging
import pwd
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from broker.domain.errors import BrokerError, Code
from broker.line_server import LineServer

log = logging.getLogger("broker.bastion.control")
LINE_MAX_BYTES: Final = 8192
Act = Callable[[Mapping[str, str], str], Awaitable[dict[str, Any]]]


def control_server(path: Path, acts: Mapping[str, Act]) -> LineServer:
    """The listener; acts: what may be asked, by word. Each is given the question and who asks.

    The socket's group are the site's operators on this machine.
    """

    async def answer(asked: Mapping[str, str], uid: int) -> dict[str, Any]:
        act = acts.get(asked.get("act", ""))
        if act is None:
            raise BrokerError(Code.INVALID, "the bastion does not know this act")
        return await act(asked, f"local:{_account(uid)}")

    return LineServer(path, answer, line_max_bytes=LINE_MAX_BYTES, log=log, may_ask=None)


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"

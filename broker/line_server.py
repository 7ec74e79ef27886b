"""Local doors of a process: a Unix socket, one JSON object a line asked, one answered; the kernel says who asks (SO_PEERCRED).

Source: unix(7), docs/rules.md CRT-9. The clients are `broker/signer/client.py` and `broker/control_client.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from broker.domain.errors import BrokerError, Code

_UCRED: Final = struct.Struct("3i")
Answerer = Callable[[Mapping[str, str], int], Awaitable[dict[str, Any]]]


class LineServer:
    """The listener. answer: given a question, all of it text, and the asker's uid; may raise BrokerError.

    may_ask: uids beside which nobody is answered at all; None: whoever the socket's mode lets in.
    """

    def __init__(
        self, path: Path, answer: Answerer, *, line_max_bytes: int, log: logging.Logger, may_ask: frozenset[int] | None
    ) -> None:
        self._path = path
        self._answer_one = answer
        self._line_max_bytes = line_max_bytes
        self._log = log
        self._may_ask = may_ask
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}
        self._server: asyncio.Server | None = None
        self._closing = False

    async def start(self) -> None:
        """Listen; the socket is the group's too. Raises OSError."""
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._path.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._serve_one, self._path, limit=self._line_max_bytes)
        self._path.chmod(0o660)

    async def stop(self) -> None:
        """Let nobody in, hang up on everybody, wait until what was asked is done with, and take the socket away."""
        server, self._server = self._server, None
        if server is None:
            return
        await _stop_accepting(server)
        self._closing = True
        for writer in self._open:
            writer.close()
        await asyncio.gather(*[task for task in self._open.values() if task is not None], return_exceptions=True)
        self._path.unlink(missing_ok=True)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        uid = peer_uid(writer.get_extra_info("socket"))
        self._open[writer] = asyncio.current_task()
        try:
            if self._may_ask is not None and uid not in self._may_ask:
                self._log.warning("uid %d may not ask here", uid)
                return
            while not self._closing and (line := await reader.readline()):
                writer.write(json.dumps(await self._answer(line, uid)).encode() + b"\n")
                await writer.drain()
        except (ValueError, OSError) as error:  # a line too long, a peer that is gone
            self._log.info("a local peer went: %s", type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            del self._open[writer]

    async def _answer(self, line: bytes, uid: int) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or not all(isinstance(value, str) for value in asked.values()):
                raise BrokerError(Code.INVALID, "not a question")
            return await self._answer_one(asked, uid)
        except BrokerError as error:
            self._log.warning("refused: %s", error.detail)
            return {"error": error.detail, "code": error.code.value}
        except (ValueError, KeyError, RecursionError):
            return {"error": "not a question", "code": Code.INVALID.value}
        except Exception:
            self._log.exception("a question could not be answered")
            return {"error": "temporarily unavailable", "code": Code.UNAVAILABLE.value}


def peer_uid(sock: socket.socket) -> int:
    """The uid of the process at the other end, as the kernel says it (SO_PEERCRED)."""
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return int(uid)


async def _stop_accepting(server: asyncio.Server) -> None:
    """Close a listener without losing whom it has just let in.

    Between accept() and the transport there is one turn of the loop; a server closed in it forgets the connection, and nobody
    would ever hang up on that peer.
    """
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    await asyncio.sleep(0)
    server.close()

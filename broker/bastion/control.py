"""The control socket: list and kill live sessions on the machine itself, with web and database down (law 8)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import parse_text

log = logging.getLogger("broker.bastion.control")
LINE_MAX_BYTES: Final = 8192
_UCRED: Final = struct.Struct("3i")
Act = Callable[[Mapping[str, str], str], Awaitable[dict[str, Any]]]


class Control:
    """The listener; acts: what may be asked, by word. Each is given the question and who asks."""

    def __init__(self, path: Path, acts: Mapping[str, Act]) -> None:
        self._path = path
        self._acts = acts
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises OSError."""
        self._path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(self._serve_one, self._path, limit=LINE_MAX_BYTES)
        self._path.chmod(0o660)  # the group is the site's operators on this machine

    def stop(self) -> None:
        """Stop listening and take the socket away."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            by = f"local:{_peer_name(writer.get_extra_info('socket'))}"
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(line, by)).encode() + b"\n")
                await writer.drain()
        except (ValueError, OSError) as error:
            log.info("a peer of the control socket went: %s", type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, line: bytes, by: str) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            if not isinstance(asked, dict) or not all(isinstance(value, str) for value in asked.values()):
                raise BrokerError(Code.INVALID, "not a question")
            act = self._acts.get(asked.get("act", ""))
            if act is None:
                raise BrokerError(Code.INVALID, "the bastion does not know this act")
            return await act(asked, by)
        except BrokerError as error:
            return {"error": error.detail, "code": error.code.value}
        except ValueError:
            return {"error": "not a question", "code": Code.INVALID.value}
        except Exception:
            log.exception("an act failed")
            return {"error": "the act failed; see the bastion's log", "code": Code.UNAVAILABLE.value}


def reason_of(asked: Mapping[str, str]) -> str:
    """The reason somebody gave. Raises BrokerError(INVALID)."""
    return parse_text(asked.get("reason", ""), what="reason", longest=500)


def _peer_name(sock: socket.socket) -> str:
    _, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid) if uid >= 0 else str(os.getuid())

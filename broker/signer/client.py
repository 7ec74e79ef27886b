"""Asking the signer: one connection, kept; asked by the bastion, which holds no CA key (law 9)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from broker.domain.errors import BrokerError, Code
from broker.domain.ids import GrantId, SessionId

TIMEOUT_S: Final = 5.0
LINE_MAX_BYTES: Final = 65536


class SignerClient:
    """Questions to the signer. Every method raises BrokerError: UNAVAILABLE when it is away, FORBIDDEN when it says no."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._turn = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def gate(self, *, grant: GrantId, key: str, person: str, source: str) -> str:
        """A gate certificate for the enrolled key, as an OpenSSH line."""
        answer = await self._ask({"want": "gate", "grant": grant, "key": key, "person": person, "source": source})
        return str(answer["certificate"])

    async def asset(self, session_id: SessionId, public_key: str) -> str:
        """An asset certificate for a session's fresh key, as an OpenSSH line."""
        return str((await self._ask({"want": "asset", "session": session_id, "key": public_key}))["certificate"])

    async def host(self, key: str) -> str:
        """A host certificate for the bastion's key, as an OpenSSH line."""
        return str((await self._ask({"want": "host", "key": key}))["certificate"])

    async def keys(self) -> Mapping[str, str]:
        """The public keys of the CAs by name."""
        return dict((await self._ask({"want": "keys"}))["keys"])

    def close(self) -> None:
        """Let go of the connection; the next question makes a new one."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].close()

    async def _ask(self, question: dict[str, str]) -> dict[str, Any]:
        async with self._turn:
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await self._exchange(json.dumps(question).encode() + b"\n")
            except (OSError, TimeoutError, ValueError, EOFError) as error:
                self.close()
                raise BrokerError(Code.UNAVAILABLE, "the signer does not answer; try again in a minute") from error
            except BaseException:
                self.close()  # cancelled between question and answer: the next asker must not read this one's
                raise
        if "error" in answer:
            code = Code(answer["code"]) if "code" in answer else Code.FORBIDDEN
            raise BrokerError(code, str(answer["error"]))
        return answer

    async def _exchange(self, line: bytes) -> dict[str, Any]:
        for fresh in (False, True):
            if self._streams is None:
                self._streams = await asyncio.open_unix_connection(self._path, limit=LINE_MAX_BYTES)
                fresh = True
            reader, writer = self._streams
            try:
                writer.write(line)
                await writer.drain()
                answer = await reader.readline()
            except OSError:
                answer = b""
            if answer:
                found = json.loads(answer)
                if not isinstance(found, dict):
                    raise ValueError("not an answer")
                return found
            self.close()
            if fresh:
                break
        raise EOFError("the signer hung up")

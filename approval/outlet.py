"""From a writer in a thread to a browser: a few blocks at a time, so that the slower one sets the pace."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final, cast

from recorder.format import FormatError

log = logging.getLogger("approval.outlet")
_BLOCK_BYTES: Final = 64 * 1024
_BLOCKS_AHEAD: Final = 4
# Its own few threads: a browser that stops reading must not hold one that a login or a page waits for.
_THREADS: Final = ThreadPoolExecutor(8, thread_name_prefix="outlet")


class _Gone(Exception):
    """Nobody reads any more."""


class _Outlet(io.RawIOBase):
    """What the writer writes into; blocks its thread while the reader is behind."""

    def __init__(self, loop: asyncio.AbstractEventLoop, blocks: asyncio.Queue[bytes | None]) -> None:
        self._loop = loop
        self._blocks = blocks
        self._kept = bytearray()
        self.is_gone = False

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        taken = bytes(cast("bytes", data))
        self._kept += taken
        if len(self._kept) >= _BLOCK_BYTES:
            self.push()
        return len(taken)

    def push(self) -> None:
        """Hand over what is kept."""
        if self._kept:
            self._put(bytes(self._kept))
            self._kept.clear()

    def finish(self) -> None:
        self._put(None)

    def _put(self, block: bytes | None) -> None:
        if self.is_gone:
            raise _Gone
        asyncio.run_coroutine_threadsafe(self._blocks.put(block), self._loop).result()


async def stream_out(write: Callable[[BinaryIO], None]) -> AsyncIterator[bytes]:
    """The bytes that write(out) writes. Damage or an unreadable file ends them early, after what came before it."""
    loop = asyncio.get_running_loop()
    blocks: asyncio.Queue[bytes | None] = asyncio.Queue(_BLOCKS_AHEAD)
    out = _Outlet(loop, blocks)
    working = loop.run_in_executor(_THREADS, _work, write, out)
    try:
        while (block := await blocks.get()) is not None:
            yield block
    finally:
        out.is_gone = True
        while not working.done():  # a writer that waits for room finds it, and then that nobody reads
            while not blocks.empty():
                blocks.get_nowait()
            await asyncio.sleep(0.01)


def _work(write: Callable[[BinaryIO], None], out: _Outlet) -> None:
    try:
        write(cast("BinaryIO", out))
        out.push()
    except (FormatError, OSError) as error:
        log.warning("a recording could not be read to its end: %s", error)
    except _Gone:
        log.debug("the reader went away")
    except Exception:
        log.exception("a recording could not be shown")
    finally:
        with contextlib.suppress(_Gone):  # else the reader would wait for ever
            out.push()
            out.finish()

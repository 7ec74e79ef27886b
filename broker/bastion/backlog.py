"""What waits in a channel of asyncssh while its reader is paused: few pieces, whatever packets they came in.

asyncssh keeps a list of every packet and takes them off its front, which moves all the others each time: a window of one-byte
packets is a hundred megabytes, and minutes of one turn of the loop. The private name of its channel in use stands here.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

PIECE_BYTES: Final = 32 * 1024
PIECES_MAX: Final = 16384
"""Beyond so many changes between output and errors, each joins the last of its kind: memory counts more than their order."""


class Backlog:
    """The list as asyncssh uses it: append, pop(0), truth. An item is (data, datatype); neighbours of one type are joined."""

    def __init__(self) -> None:
        self._pieces: deque[tuple[bytearray, Any]] = deque()
        self._last: dict[Any, bytearray] = {}

    def append(self, item: tuple[bytes, Any]) -> None:
        """Take a packet's data."""
        data, datatype = item
        if self._pieces and self._pieces[-1][1] == datatype and len(self._pieces[-1][0]) < PIECE_BYTES:
            self._pieces[-1][0].extend(data)
        elif len(self._pieces) >= PIECES_MAX and datatype in self._last:
            self._last[datatype].extend(data)
        else:
            self._last[datatype] = bytearray(data)
            self._pieces.append((self._last[datatype], datatype))

    def pop(self, index: int) -> tuple[bytes, Any]:
        """Give the oldest piece; index: 0, there is no other use."""
        if index:
            raise IndexError("only the oldest piece is taken")
        piece, datatype = self._pieces.popleft()
        if self._last.get(datatype) is piece:
            del self._last[datatype]
        return bytes(piece), datatype

    def __len__(self) -> int:
        return len(self._pieces)


def join_backlog(chan: Any) -> None:
    """Give a channel that has received nothing yet a Backlog in place of its list."""
    chan._recv_buf = Backlog()

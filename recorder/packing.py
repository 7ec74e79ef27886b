"""The one codec: a zstd stream for a segment, flushed at each record so that every record opens without the next one."""

from __future__ import annotations

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Small tables: the same size as zstd's defaults on terminal data at a third of the memory a live stream (evidence.md 2.1).
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.window_log: 18,
    zstd.CompressionParameter.hash_log: 14,
    zstd.CompressionParameter.chain_log: 13,
}
_LIMITS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 20}
RECORD_MAX_BYTES: Final = 1 << 20


class BombError(ValueError):
    """A record expands beyond what any writer of ours makes."""


class Compressor:
    """One segment's compressor."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdCompressor(options=_OPTIONS)

    def flush(self, plain: bytes) -> bytes:
        """The compressed bytes that carry all of plain; nothing is held back."""
        return self._stream.compress(plain, mode=zstd.ZstdCompressor.FLUSH_BLOCK)


class Expander:
    """One segment's decompressor, bounded for each record."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdDecompressor(options=_LIMITS)

    def open(self, body: bytes) -> bytes:
        """The plain bytes of one record. Raises BombError, or ValueError for what is not zstd."""
        try:
            plain = self._stream.decompress(body, max_length=RECORD_MAX_BYTES + 65536)
            if len(plain) > RECORD_MAX_BYTES + 4096 or not self._stream.needs_input:
                raise BombError("a record expands too far")
        except (zstd.ZstdError, EOFError) as error:
            raise ValueError(str(error)) from None
        return plain

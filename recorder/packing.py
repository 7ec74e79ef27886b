"""The one codec: a zstd frame a segment, flushed at each record so that every record opens without the next one."""

from __future__ import annotations

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Small tables: the same size as zstd's defaults on terminal data at a third of the memory a live stream (docs/rules.md, Evidence).
_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.window_log: 18,
    zstd.CompressionParameter.hash_log: 14,
    zstd.CompressionParameter.chain_log: 13,
}
_LIMITS: Final[dict[int, int]] = {zstd.DecompressionParameter.window_log_max: 20}
RECORD_MAX_BYTES: Final = 1 << 20


class Compressor:
    """One segment's compressor."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdCompressor(options=_OPTIONS)

    def flush(self, plain: bytes) -> bytes:
        """The compressed bytes that carry all of plain; nothing is held back."""
        return self._stream.compress(plain, mode=zstd.ZstdCompressor.FLUSH_BLOCK)

    def end(self) -> bytes:
        """The bytes that end the frame, so that `zstd -d` takes a whole segment."""
        return self._stream.flush(zstd.ZstdCompressor.FLUSH_FRAME)


class Expander:
    """One segment's decompressor, bounded for each record."""

    def __init__(self) -> None:
        self._stream = zstd.ZstdDecompressor(options=_LIMITS)
        self._ended = False

    def open(self, body: bytes) -> bytes:
        """The plain bytes of one record. Raises ValueError for what is not our zstd, or expands beyond what a writer makes."""
        if self._ended:
            raise ValueError("data after the end of the frame")
        try:
            plain = self._stream.decompress(body, max_length=RECORD_MAX_BYTES + 1)
        except zstd.ZstdError as error:
            raise ValueError(str(error)) from None
        self._ended = self._stream.eof
        if len(plain) > RECORD_MAX_BYTES or not (self._ended or self._stream.needs_input):
            raise ValueError("expands too far")
        if self._stream.unused_data:
            raise ValueError("data after the end of the frame")
        return plain

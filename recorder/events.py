"""Events inside a DATA body: code u8 | dt LEB128 us | length LEB128 | bytes. PURE: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from recorder.format import TIME_MAX_US, Code, Event, FormatError

EVENT_MAX_BYTES: Final = 1 << 20
"""The longest event a reader accepts; a writer cuts longer data into several events."""
EVENT_HEAD_MAX_BYTES: Final = 17
LEB_MAX_BITS: Final = 56
_CODES: Final = {code.value: code for code in Code}


def encode_leb(number: int) -> bytes:
    """An unsigned LEB128 number.

    >>> encode_leb(300).hex()
    'ac02'
    """
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_event_head(code: Code, dt_us: int, length: int) -> bytes:
    """What stands before an event's bytes; dt_us: microseconds since the event before it in the stream, 1 or more."""
    head = bytearray((code,))
    for number in (dt_us, length):  # encode_leb's loop, without a call and a copy each: it is done at every keystroke
        while number > 0x7F:
            head.append(number & 0x7F | 0x80)
            number >>= 7
        head.append(number)
    return bytes(head)


def decode_events(plain: bytes, *, after_us: int, offset: int) -> Iterator[Event]:
    """The whole events of one opened DATA body. Raises FormatError.

    after_us: time of the event before; offset: of the record, for errors. Times must rise, as every writer makes them (E6).
    """
    at, t_us, end = 0, after_us, len(plain)
    while at < end:
        code = _CODES.get(plain[at])
        if code is None:
            raise FormatError(f"unknown event code {plain[at]}", offset=offset)
        dt_us, at = _decode_leb(plain, at + 1, offset)
        length, at = _decode_leb(plain, at, offset)
        if length > EVENT_MAX_BYTES or at + length > end:
            raise FormatError("event longer than its record", offset=offset)
        t_us += dt_us
        if not dt_us or t_us >= TIME_MAX_US:
            raise FormatError("time does not rise, or is out of range", offset=offset)
        yield Event(t_us, code, plain[at : at + length])
        at += length


def _decode_leb(data: bytes, at: int, offset: int) -> tuple[int, int]:
    number = shift = 0
    while shift < LEB_MAX_BITS and at < len(data):
        byte = data[at]
        number |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return number, at
    raise FormatError("damaged number", offset=offset)

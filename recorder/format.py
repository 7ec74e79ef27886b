"""WGR1, the container of one stream: header line, records, segments, events. PURE: bytes in, bytes out.

Layout (little-endian; nothing is ever rewritten)::

    header   "WGR1 " + canonical JSON + "\\n"
    record   u32 (body length << 8 | type) + body        body < 2^24; type 0 is never valid: zeros at the end are a torn tail
      1 SEG  u32 index | u8 codec | 3 zero | u64 t_us | u64 wall_ms | 32 SHA-256 of every byte before this record
      2 DATA whole events, as the segment's codec has them (sealed once the header says so)
      3 END  canonical JSON {before, bytes, events, index:[[offset,t_us]..], reason, t_us, wall_ms} + u32 length of the record
             types < 128 unknown to a reader are an error, >= 128 are skipped
    segment  its DATA bodies, joined, are one zstd frame (codec 1) or plain bytes (codec 0)
    event    code u8 | dt LEB128 us | length LEB128 | bytes; see recorder/events.py

SEG and END hold the SHA-256 of all before them, so a closed stream disagrees with itself when any byte before END was changed.
Of END itself only the counts and the index are checked; its reason and its times, and what a whole new chain says, are known
by the head in the ledger alone.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import IntEnum, StrEnum
from typing import Any, Final

MAGIC: Final = b"WGR1 "
VERSION: Final = 1
UNSEALED: Final = "none"
"""The seal of a stream whose DATA is not sealed."""
HEADER_MAX_BYTES: Final = 8192
BODY_MAX_BYTES: Final = (1 << 24) - 1
TIME_MAX_US: Final = 1 << 56
NUMBER_MAX: Final = 1 << 63
FIRST_SKIPPED_TYPE: Final = 128
_HEAD: Final = struct.Struct("<I")
_SEG: Final = struct.Struct("<IB3xQQ32s")
_HEADER_TYPES: Final[Mapping[str, type]] = {
    **dict.fromkeys(("session", "stream", "kind", "node", "boot", "seal", "after"), str),
    **dict.fromkeys(("channel", "wall_ms"), int),
}


class FormatError(ValueError):
    """A stream is not what it claims to be. offset: of the byte where that shows."""

    def __init__(self, text: str, *, offset: int) -> None:
        super().__init__(f"{text} at byte {offset}")
        self.offset = offset


class StreamClass(StrEnum):
    """Who may read a stream: each class has its own recipients once streams are sealed."""

    SCREEN = "screen"
    TYPED = "typed"
    WIRE = "wire"
    FILES = "files"
    CONTENT = "content"


class Code(IntEnum):
    """What an event is; the letter is the byte in the file."""

    OUT = ord("o")
    ERR = ord("e")
    IN = ord("i")
    RESIZE = ord("r")
    EXIT = ord("x")
    MARK = ord("m")
    REQUEST = ord("q")
    EOF = ord("z")
    TO_ASSET = ord("c")
    FROM_ASSET = ord("s")
    FILE = ord("f")
    DIGEST = ord("d")
    CONTENT = ord("k")


class RecordType(IntEnum):
    """The kinds of record."""

    SEG = 1
    DATA = 2
    END = 3


_KNOWN_TYPES: Final = frozenset(RecordType)


class Codec(IntEnum):
    """How the DATA bodies of one segment hold their events."""

    PLAIN = 0
    ZSTD = 1


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. t_us: microseconds of the session's clock, strictly rising over all its streams."""

    t_us: int
    code: Code
    data: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """How far a stream goes: its length in bytes and the SHA-256 (hex) of exactly those."""

    length: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a stream: session ids only, no names of people and no command lines.

    stream: NN.CLASS; klass: who may read it; kind: of channel; node, boot: which machine, which start of it;
    seal: none, or how DATA is sealed; after: the ledger's newest head then (proves *not before*), or empty.
    """

    v: int
    session: str
    stream: str
    channel: int
    klass: StreamClass
    kind: str
    node: str
    boot: str
    wall_ms: int
    seal: str
    after: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A SEG record, opened. before: SHA-256 of every byte before it."""

    index: int
    codec: Codec
    t_us: int
    wall_ms: int
    before: bytes


@dataclass(frozen=True, slots=True)
class End:
    """An END record, opened. before: SHA-256 (hex) of every byte before it; index: (offset, t_us) as SegmentIndex keeps them."""

    before: str
    bytes: int
    events: int
    index: tuple[tuple[int, int], ...]
    reason: str
    t_us: int
    wall_ms: int


def canonical(value: Mapping[str, Any]) -> bytes:
    """Canonical JSON: sorted ASCII keys, no spaces. Source: RFC 8785, reduced to strings, integers, lists and objects."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def encode_header(header: Header) -> bytes:
    """The header line. Raises FormatError when it says two things at once or grows beyond what a reader takes."""
    if header.stream != f"{header.channel:02d}.{header.klass.value}":
        raise FormatError("the stream is not named after its channel and class", offset=len(MAGIC))
    fields = asdict(header)
    fields["class"] = fields.pop("klass").value
    line = MAGIC + canonical(fields) + b"\n"
    if len(line) > HEADER_MAX_BYTES:
        raise FormatError("header too long", offset=len(line))
    return line


def decode_header(line: bytes) -> Header:
    """Read a header line, newline included. Raises FormatError, also for a version this reader does not know."""
    if not line.startswith(MAGIC) or not line.endswith(b"\n"):
        raise FormatError("not a WGR1 stream", offset=0)
    try:
        fields = json.loads(line[len(MAGIC) :])
        if not isinstance(fields, dict) or type(fields.get("v")) is not int or fields["v"] != VERSION:
            raise FormatError("a version this reader does not know", offset=len(MAGIC))
        header = Header(klass=StreamClass(fields.pop("class")), **fields)
        for name, kind in _HEADER_TYPES.items():
            _must_be(kind, getattr(header, name))
        if encode_header(header) == line:
            return header
    except FormatError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError("damaged header", offset=len(MAGIC)) from None
    raise FormatError("header is not canonical", offset=len(MAGIC))


def encode_record(kind: RecordType, *body: bytes) -> bytes:
    """One record; its body may come in parts, which are copied once. Raises FormatError when the body is too long."""
    length = len(body[0]) if len(body) == 1 else sum(map(len, body))
    if length > BODY_MAX_BYTES:
        raise FormatError("record too long", offset=length)
    return b"".join((_HEAD.pack(length << 8 | kind), *body))


def encode_segment(segment: Segment) -> bytes:
    """A SEG record."""
    body = _SEG.pack(segment.index, segment.codec, segment.t_us, segment.wall_ms, segment.before)
    return encode_record(RecordType.SEG, body)


def decode_segment(body: bytes, *, offset: int) -> Segment:
    """Open the body of a SEG record. Raises FormatError."""
    if len(body) != _SEG.size or body[5:8] != b"\0\0\0":
        raise FormatError("damaged segment record", offset=offset)
    index, codec, t_us, wall_ms, before = _SEG.unpack(body)
    if codec not in tuple(Codec):
        raise FormatError(f"unknown codec {codec}", offset=offset)
    if t_us >= TIME_MAX_US:
        raise FormatError("time out of range", offset=offset)
    return Segment(index, Codec(codec), t_us, wall_ms, before)


def encode_end(end: End) -> bytes:
    """An END record; its last four bytes give its whole length, so that it is found from the end of the file."""
    fields = asdict(end)
    body = canonical(fields | {"index": [list(pair) for pair in end.index]})
    whole = _HEAD.size + len(body) + _HEAD.size
    return encode_record(RecordType.END, body + _HEAD.pack(whole))


def decode_end(body: bytes, *, offset: int) -> End:
    """Open the body of an END record. Raises FormatError."""
    try:
        fields = json.loads(body[: -_HEAD.size])
        end = End(**fields | {"index": tuple((at, t_us) for at, t_us in fields["index"])})
        for number in (end.bytes, end.events, end.t_us, end.wall_ms, *itertools.chain(*end.index)):
            _must_be(int, number)
        _must_be(str, end.before)
        _must_be(str, end.reason)
        if encode_end(end)[_HEAD.size :] == body:
            return end
    except (ValueError, TypeError, KeyError, RecursionError):
        raise FormatError("damaged end record", offset=offset) from None
    raise FormatError("end record is not canonical", offset=offset)


def decode_record_head(head: bytes, *, offset: int) -> tuple[int, int]:
    """(type, body length) of a record's first four bytes. Raises FormatError for type 0 and unknown types below 128."""
    (word,) = _HEAD.unpack(head)
    kind, length = word & 0xFF, word >> 8
    if kind == 0 or (kind < FIRST_SKIPPED_TYPE and kind not in _KNOWN_TYPES):
        raise FormatError(f"unknown record type {kind}", offset=offset)
    return kind, length


def _must_be(kind: type, value: object) -> None:
    """Hold a JSON value against its type. Raises ValueError: True is no number here, and half a surrogate pair is no text."""
    if type(value) is not kind:
        raise ValueError("a value of the wrong type")
    if isinstance(value, str):
        value.encode()  # UnicodeEncodeError is a ValueError
    elif isinstance(value, int) and not 0 <= value < NUMBER_MAX:
        raise ValueError("a number out of range")
